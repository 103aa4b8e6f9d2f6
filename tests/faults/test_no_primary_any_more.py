"""A planned failover behind an address: the old primary is a replica, and keeps connections that lead to it open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from coordkit import StoreRefused
from coordkit.testing import FaultProxy
from coordkit.testing.processes import start_redis


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Any]]:
    with start_redis() as one, start_redis() as other:
        yield [one, other]


@pytest.fixture
def pair(servers: list[Any]) -> Iterator[list[redis.Redis]]:
    """Give a primary and its replica."""
    clients = [redis.Redis.from_url(server.url) for server in servers]
    clients[0].replicaof("NO", "ONE")
    clients[1].replicaof(servers[0].host, servers[0].port)
    yield clients
    for client in clients:
        client.replicaof("NO", "ONE")
        client.close()


@pytest.fixture
def address(servers: list[Any]) -> Iterator[FaultProxy]:
    with FaultProxy(servers[0].host, servers[0].port) as proxy:
        yield proxy


@pytest.fixture
def switch(pair: list[redis.Redis], servers: list[Any], address: FaultProxy) -> Callable[[], None]:
    """Give what makes the replica the primary, with all that was written, and the address lead to it."""

    def do() -> None:
        new = servers[1]
        pair[0].set("coordkit-test-last", "")  # WAIT speaks of what its own connection wrote
        assert pair[0].wait(1, 20_000) == 1
        pair[1].replicaof("NO", "ONE")
        pair[0].replicaof(new.host, new.port)
        address.target = (new.host, new.port)

    return do


async def test_what_is_held_is_kept_and_others_go_on(
    flavour: Any, maybe: Any, address: FaultProxy, switch: Callable[[], None], coordkit_namespace: str
) -> None:
    client = flavour.redis(address.url, socket_timeout=5)
    held, freed, permit = [
        await maybe(each.acquire())
        for each in (
            flavour.Lock(client, f"{coordkit_namespace}:a", ttl=60),
            flavour.Lock(client, f"{coordkit_namespace}:b", ttl=60),
            flavour.Semaphore(client, f"{coordkit_namespace}:c", permits=1, ttl=60),
        )
    ]
    kept = flavour.Lock(client, f"{coordkit_namespace}:renewed", ttl=2)
    async with flavour.within(kept) as lease:
        switch()
        before = lease._core.expires
        await flavour.until(lambda: lease.lost.is_set() or lease._core.expires > before + 1)
        assert lease.ensure()  # by the keeper's own renewals
    for act in (held.renew, freed.release, permit.release, held.release):
        assert await maybe(act()) in (None, True)
    for name in "abd":
        await maybe((await maybe(flavour.Lock(client, f"{coordkit_namespace}:{name}", ttl=60).try_acquire())).release())


@pytest.mark.parametrize("ask", ["acquire", "try_acquire", "holder", "renew", "release", "fence", "copies"])
async def test_each_way_of_asking(
    flavour: Any, maybe: Any, address: FaultProxy, switch: Callable[[], None], coordkit_namespace: str, ask: str
) -> None:
    client = flavour.redis(address.url, socket_timeout=5)
    lock = flavour.Lock(client, f"{coordkit_namespace}:a", ttl=60)
    lease = await maybe(lock.acquire())
    fence, confirmed = (
        flavour.Fence(client, f"{coordkit_namespace}:f"),
        flavour.Lock(client, f"{coordkit_namespace}:b", ttl=60, min_replicas=1),
    )
    await maybe((await maybe(confirmed.acquire())).release())
    switch()
    if ask in ("renew", "release"):
        await maybe(getattr(lease, ask)())
    elif ask == "fence":
        await maybe(fence.claim(token=7))
    elif ask == "copies":
        await maybe(confirmed.acquire(timeout=10))
    elif ask == "holder":
        assert (await maybe(lock.holder())).token == lease.token
    else:
        other = flavour.Lock(client, f"{coordkit_namespace}:c", ttl=60)
        assert await maybe(getattr(other, ask)())


async def test_a_replica_that_is_all_there_is_says_no(
    flavour: Any,
    maybe: Any,
    servers: list[Any],
    switch: Callable[[], None],
    coordkit_namespace: str,
) -> None:
    """Asked over a new connection it says the same, and that is the answer: at once, and each time."""
    lock = flavour.Lock(flavour.redis(servers[0].url), f"{coordkit_namespace}:a", ttl=60)
    lease = await maybe(lock.acquire())
    switch()
    for act in (lock.try_acquire, lease.renew, lock.acquire, lease.release):
        with pytest.raises(StoreRefused, match="read only replica"):
            await maybe(act())
