"""Shards on real servers with a topology in memory, who reshards them, and clients; for tests in both flavours."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import redis
import shard_ports
from conftest import Flavour
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from coordkit.errors import StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence.fence import local_key
from coordkit.routing.moving.first_touch import FirstTouch
from coordkit.routing.moving.pace import Pace
from coordkit.routing.resharding.reshard import Reshard
from coordkit.routing.ways.errors import Outdated

STEPS = [
    *("clear", "announce", "raise a", "raise c", "drop a", "drop c", "begin"),
    *("pass 1", "bring", "pass 2", "close", "finish"),
]
"""What the mover does for one batch, in this order; its hook is called before each."""


class Cluster:
    """Shards of one topology, on real servers; who reshards them; and clients that route by what they adopted."""

    def __init__(self, flavour: Any, urls: list[str], name: str, shards: str = "ab", **options: Any) -> None:
        self.flavour = flavour
        self.urls = dict(zip("abcde", urls, strict=False))
        first = Topology.first(name, {shard: self.urls[shard] for shard in shards}, **options)
        self.ledger = shard_ports.Ledger(first)
        self.plain = {
            shard: redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.01), 50)) for shard, url in self.urls.items()
        }
        for client in self.plain.values():
            client.flushdb()
        self.expected: Counter[bytes] = Counter()

    def close(self) -> None:
        for client in self.plain.values():
            client.close()

    def reshard(self, **options: Any) -> Reshard:
        """Return a rebalancer, as a process of its own would have it."""
        runtime = shard_ports.runtime(self.flavour)

        def port(name: str, shard: Any, topology: Topology | None) -> Any:
            client = self.flavour.redis(shard.primary, socket_timeout=10)
            known = () if topology is None else (topology.name, topology.epoch)
            return shard_ports.port(self.flavour, name, client, *known)

        options = {"pace": Pace(), "batch": 4000, "patience": 10.0, **options}
        return Reshard(runtime, self.ledger, port, **options)

    def blocking(self) -> Cluster:
        """Return the same for the blocking flavour."""
        other = copy.copy(self)
        other.flavour = Flavour("blocking")
        return other

    def there(self, key: bytes, before: int) -> int:
        """Return the count of a key, wherever it is just now: ``before``, or one more."""
        while True:
            topology = self.ledger.now
            # In the order in which it goes, so that it is not missed on its way.
            places = topology.owners.lookup(key), topology.serving.lookup(key)
            count = max(int(self.plain[shard].get(key) or 0) for shard in places)
            if topology is self.ledger.now and count in {before, before + 1}:
                return count

    def keys(self, count: int, prefix: str = "n") -> list[bytes]:
        return [f"{prefix}{i}".encode() for i in range(count)]

    def check(self) -> None:
        """Every count is where its owner is, once, and what was acknowledged; nothing else is left."""
        found: dict[bytes, tuple[str, int]] = {}
        for shard, client in self.plain.items():
            for key in client.scan_iter(count=1000):
                if key.startswith(local_key(self.ledger.now.name, "")):
                    assert key.rpartition(b":")[2] in {b"epoch", b"moves", b"settled"}, "marks are left"
                    continue
                assert key not in found, f"{key!r} is on {shard} and on {found[key][0]}"
                found[key] = shard, int(client.get(key))
        assert self.ledger.now.moves == ()
        wrong = {key: shard for key, (shard, _) in found.items() if self.ledger.now.owners.lookup(key) != shard}
        assert wrong == {}
        assert {key: count for key, (_, count) in found.items()} == dict(self.expected)


class Client:
    """Counts on keys as a sharded client does: by the topology that it has adopted, which may be an old one."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.adopted = cluster.ledger.now
        self.ports: dict[tuple[str, int], Any] = {}
        self.touch = FirstTouch(shard_ports.runtime(cluster.flavour), self.port)

    def port(self, shard: str, topology: Topology) -> Any:
        at = shard, topology.epoch
        if at not in self.ports:
            client = self.cluster.flavour.redis(self.cluster.urls[shard], socket_timeout=10)
            self.ports[at] = shard_ports.port(self.cluster.flavour, shard, client, topology.name, topology.epoch)
        return self.ports[at]

    async def incr(self, key: bytes) -> None:
        """Count once; what is acknowledged, or may have been carried out, is expected to be there."""
        while True:
            topology, slot = self.adopted, slot_of(key)
            before = self.cluster.expected[key]
            try:
                await self.touch.ensure(topology, [key])
                [reply] = await self.port(topology.serving.table[slot], topology).ask([(b"INCR", key)])
            except Outdated:
                assert self.cluster.ledger.now.epoch > topology.epoch
                self.adopted = self.cluster.ledger.now
                continue
            except StoreUnavailable:  # dropped by the fence; whether it counted is unknown, so look
                self.cluster.expected[key] = self.cluster.there(key, before)
                continue
            self.cluster.expected[key] += 1
            assert reply == self.cluster.expected[key]
            return
