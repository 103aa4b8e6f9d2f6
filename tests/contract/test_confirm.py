"""What a store promises of copies: WAIT speaks for the connection that wrote, on whatever client it is called."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
import shard_ports

from coordkit._ports import Call, Confirm, Script
from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing.fence.fence import local_key, raise_epoch
from coordkit.testing.processes import start_redis

_SOURCE = """
if not tonumber(redis.call('GET', KEYS[2]) or '0') then
  return redis.error_reply('ERR not a usable number')
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', '10000') and redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {0}
end
redis.call('INCR', KEYS[2])
return {1}
"""
_WRITE = Script("write", _SOURCE, hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest())
_QUICK = Confirm(replicas=1, fsync=False, within=5.0)
_AFTER_A_MOVE = Confirm(replicas=1, fsync=False, within=1.0)  # the node that lost the slot waits it out
_SOON = Confirm(replicas=1, fsync=False, within=0.2)


def write(name: str, holder: str) -> Call:
    keys = tuple(f"coordkit:1:{{{name}}}:{kind}".encode() for kind in ("lock", "token"))
    return Call(_WRITE, keys, (holder,))


def store_of(flavour: Any, client: Any) -> Any:
    if flavour.is_async:
        from coordkit._asyncio.redis import store_for as awaited

        return awaited(client)
    from coordkit._threads.redis import store_for

    return store_for(client)


def until(check: Callable[[], Any], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Any, Any]]:
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        yield primary, replica


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_copy_is_counted(flavour: Any, pair: Any, coordkit_namespace: str) -> None:
    store = store_of(flavour, flavour.redis(pair[0].url))
    assert store.cannot_confirm() is None

    reply, fsyncs, replicas = await store.run_confirmed("a", write(coordkit_namespace, "me"), _QUICK)

    assert (reply[0], fsyncs, replicas) == (1, 0, 1)


async def test_the_connection_that_wrote_is_asked(flavour: Any, pair: Any, maybe: Any, coordkit_namespace: str) -> None:
    """A fresh connection has written nothing, so it says that all replicas have all of it."""
    client = flavour.redis(pair[0].url, socket_timeout=0.3)  # shorter than the wait for the copy
    store = store_of(flavour, client)
    await store.run_confirmed("a", write(coordkit_namespace, "me"), _QUICK)
    confirm = Confirm(replicas=1, fsync=False, within=0.5)
    with stopped(pair[1]):
        reply, _, replicas = await store.run_confirmed("a", write(coordkit_namespace, "me"), confirm)
        assert (reply[0], replicas) == (1, 0)
        assert await fresh_wait(pair[0].port) == 1


async def fresh_wait(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as bare:
        bare.sendall(b"WAIT 1 100\r\n")
        return int(bare.recv(64).strip().lstrip(b":"))


async def test_nothing_is_left_unread(flavour: Any, pair: Any, coordkit_namespace: str) -> None:
    """What is asked over the same connection afterwards gets its own answer."""
    store = store_of(flavour, flavour.redis(pair[0].url))
    await store.run_confirmed("a", write(coordkit_namespace, "me"), _QUICK)
    for _ in range(3):
        reply = await store.run("a", write(coordkit_namespace, "me"))
        assert reply[0] == 1
        reply, _, replicas = await store.run_confirmed("a", write(coordkit_namespace, "other"), _QUICK)
        assert (reply[0], replicas) == (0, 1)


async def test_a_script_that_fails(flavour: Any, pair: Any, maybe: Any, coordkit_namespace: str) -> None:
    client = flavour.redis(pair[0].url)
    call = write(coordkit_namespace, "me")
    await maybe(client.set(call.keys[1], "no number"))
    with pytest.raises(StoreRefused, match="not a usable number"):
        await store_of(flavour, client).run_confirmed("a", call, _QUICK)


async def test_the_disk(flavour: Any, coordkit_namespace: str) -> None:
    """WAITAOF came with Redis 7.2: an older server says no, and the message what is needed."""
    with start_redis(appendonly="always") as server:
        store = store_of(flavour, flavour.redis(server.url))
        confirm = Confirm(0, fsync=True, within=5.0)
        if not has_waitaof(server):
            with pytest.raises(StoreRefused, match=r"WAITAOF needs Redis 7\.2"):
                await store.run_confirmed("a", write(coordkit_namespace, "me"), confirm)
            return
        _, fsyncs, replicas = await store.run_confirmed("a", write(coordkit_namespace, "me"), confirm)
        assert (fsyncs, replicas) == (1, 0)
    with start_redis() as server:
        store = store_of(flavour, flavour.redis(server.url))
        with pytest.raises(StoreRefused, match="set `appendonly yes`"):
            await store.run_confirmed("a", write(coordkit_namespace, "me"), confirm)


def has_waitaof(server: Any) -> bool:
    with redis.Redis.from_url(server.url) as client:
        info: Any = client.info("server")
    return tuple(map(int, info["redis_version"].split(".")[:2])) >= (7, 2)


async def test_a_server_that_hangs(flavour: Any, coordkit_namespace: str) -> None:
    with start_redis() as server:
        store = store_of(flavour, flavour.redis(server.url, socket_timeout=0.3))
        await store.run("a", write(coordkit_namespace, "me"))
        with stopped(server):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.run_confirmed("a", write(coordkit_namespace, "me"), _SOON)
            assert 0.4 <= time.monotonic() - began < 5  # the client's patience, and the wait
        assert (await store.run("a", write(coordkit_namespace, "me")))[0] == 1


async def test_clients_that_cannot_are_told(flavour: Any, pair: Any) -> None:
    assert "connection" in store_of(flavour, flavour.redis(pair[0].url, max_connections=3)).cannot_confirm()


# -- on a Cluster


class Cluster:
    """Two primaries and a replica of the first."""

    def __init__(self, servers: list[Any], bus: list[int]) -> None:
        self.servers = servers
        self.clients = [redis.Redis(port=server.port, decode_responses=True) for server in servers]
        first, second, replica = self.clients
        for client in (second, replica):
            client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port, bus[0])
        first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
        second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
        self.ids = [client.execute_command("CLUSTER MYID") for client in self.clients]
        until(lambda: self.replicate(replica))
        until(lambda: all(self.ready(client) for client in self.clients))
        until(lambda: first.info("replication")["connected_slaves"] == 1)
        until(lambda: replica.info("replication")["master_link_status"] == "up")

    def replicate(self, replica: Any) -> bool:
        try:
            replica.execute_command("CLUSTER REPLICATE", self.ids[0])
        except redis.ResponseError:  # it has not heard of it yet
            return False
        return True

    @staticmethod
    def ready(client: Any) -> bool:
        info = client.execute_command("CLUSTER INFO")
        return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    from coordkit.testing._process import free_ports

    bus = free_ports(3)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                start_redis(
                    args=["--cluster-enabled", "yes", "--cluster-port", str(port), "--cluster-node-timeout", "60000"]
                )
            )
            for port in bus
        ]
        found = Cluster(servers, bus)
        stack.callback(found.close)
        yield found


def of_cluster(flavour: Any, cluster: Cluster) -> Any:
    port = cluster.servers[0].port
    if flavour.is_async:
        from redis.asyncio.cluster import RedisCluster as Awaited

        client: Any = Awaited(host="127.0.0.1", port=port, socket_timeout=1)
        flavour.on_exit(getattr(client, "aclose", None) or client.close)
    else:
        client = redis.RedisCluster(host="127.0.0.1", port=port, socket_timeout=1)
        flavour.on_exit(client.close)
    return client


def a_name(namespace: str, low: int, high: int) -> str:
    from redis.crc import key_slot

    return next(name for name in (f"{namespace}-{i}" for i in range(1000)) if low <= key_slot(name.encode()) <= high)


async def test_on_a_cluster_the_node_of_the_slot_is_asked(
    flavour: Any, cluster: Cluster, coordkit_namespace: str
) -> None:
    store = store_of(flavour, of_cluster(flavour, cluster))
    assert store.cannot_confirm() is None
    copied, alone = a_name(coordkit_namespace, 0, 8191), a_name(coordkit_namespace, 8192, 16383)

    reply, _, replicas = await store.run_confirmed("a", write(copied, "me"), _QUICK)
    assert (reply[0], replicas) == (1, 1)
    reply, _, replicas = await store.run_confirmed("a", write(alone, "me"), _SOON)
    assert (reply[0], replicas) == (1, 0)
    with stopped(cluster.servers[2]):
        reply, _, replicas = await store.run_confirmed("a", write(copied, "me"), _SOON)
        assert (reply[0], replicas) == (1, 0)
        assert await fresh_wait(cluster.servers[0].port) == 1


async def test_on_a_cluster_keys_are_followed(flavour: Any, cluster: Cluster, coordkit_namespace: str) -> None:
    """A slot that is moving takes no script with several keys, for anybody; one that has moved is found."""
    from redis.crc import key_slot

    store = store_of(flavour, of_cluster(flavour, cluster))
    name, here = a_name(coordkit_namespace, 8192, 16383), a_name(coordkit_namespace, 0, 8191)
    slot = key_slot(name.encode())
    first, second, _ = cluster.clients
    await store.run_confirmed("a", write(here, "me"), _QUICK)  # by now it knows the slots
    first.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", cluster.ids[1])
    second.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", cluster.ids[0])
    try:
        with pytest.raises(StoreUnavailable, match="unknown"):
            await store.run_confirmed("a", write(name, "me"), _SOON)
    finally:
        for client in (first, second):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", cluster.ids[0])
    try:
        reply, _, replicas = await store.run_confirmed("a", write(name, "me"), _AFTER_A_MOVE)
        assert (reply[0], replicas) == (1, 1)
    finally:
        first.execute_command("DEL", *(key.decode() for key in write(name, "me").keys))
        for client in (second, first):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", cluster.ids[1])


async def test_a_lock_on_the_disk(flavour: Any, maybe: Any) -> None:
    """``fsync=True``: granted once it is on the disk; where the server cannot say so, refused, and nothing stays."""
    with start_redis(appendonly="everysec") as server, redis.Redis.from_url(server.url) as admin:
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=10, fsync=True)
        if has_waitaof(server):
            lease = await maybe(lock.acquire(timeout=0))
            assert await maybe(lease.release()) is True
        else:
            with pytest.raises(StoreRefused, match=r"WAITAOF needs Redis 7\.2"):
                await maybe(lock.acquire(timeout=0))
        await flavour.until(lambda: not admin.exists(lock.key))


@pytest.mark.parametrize("policy", ["everysec", "always", "no"])
async def test_the_epoch_of_a_topology_on_the_disk(flavour: Any, policy: str) -> None:
    """It is there when `raise_epoch` returns, wherever the server can say so; a kill, at once, does not undo it."""
    with start_redis(appendonly="always", args=["--appendfsync", policy]) as server:
        port = shard_ports.port(flavour, "a", flavour.redis(server.url, socket_timeout=10))
        raised = await raise_epoch(port, "users", 3, create=True, patience=5.0 if policy != "no" else 0.1)
        assert (raised.epoch, raised.on_disk) == (3, policy != "no" and has_waitaof(server))
        server.restart()
        with redis.Redis.from_url(server.url) as client:
            assert client.get(local_key("users", "epoch")) == b"3"


async def test_a_lock_that_the_disk_has_not_is_given_back(flavour: Any, maybe: Any) -> None:
    """The file is never forced to the disk, so nobody can say that it is there."""
    with (
        start_redis(appendonly="always", args=["--appendfsync", "no"]) as server,
        redis.Redis.from_url(server.url) as admin,
    ):
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=1, fsync=True)
        if has_waitaof(server):
            with pytest.raises(StoreUnavailable, match="the disk had it not"):
                await maybe(lock.acquire(timeout=0))
        else:
            with pytest.raises(StoreRefused, match=r"WAITAOF needs Redis 7\.2"):
                await maybe(lock.acquire(timeout=0))
        await flavour.until(lambda: not admin.exists(lock.key))
