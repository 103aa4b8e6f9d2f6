"""What a lock promises when its server fails over, is moved, or forgets: the rows of the durability table.

Tokens never repeat or fall, in any of it. Who holds may change without its holder: it is told no later than its own
deadline says, and whoever waits gets the lock soon after there is a primary again.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from coordkit import CoordError, LeaseLost, StaleToken, StoreRefused, StoreUnavailable
from coordkit._threads.runtime import now
from coordkit.routing.placement.slots import slot_of
from coordkit.testing.deployments import tell
from coordkit.testing.processes import start_redis

PATIENCE = 1.0  # seconds that the clients here wait for an answer
MARGIN = 6.0  # seconds that a busy machine may add

# A lost lease is given back in the background, and looked for again a second later: that may open connections of a
# Cluster's client again after the test has closed it. Of those, and of no others, an open one at the end is no mistake.
CLUSTER = pytest.param("cluster", marks=pytest.mark.filterwarnings("ignore::ResourceWarning"))

sentinel = pytest.mark.parametrize("deployment", ["sentinel"], indirect=True)
cluster = pytest.mark.parametrize("deployment", [CLUSTER], indirect=True)
both = pytest.mark.parametrize("deployment", ["sentinel", CLUSTER], indirect=True)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let what a test leaves be found in this test, where its own marks hold."""
    yield
    gc.collect()


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a lock on a client of its own."""

    def lock(*, ttl: float = 1.0, **arguments: Any) -> Any:
        client = deployment.redis(socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
        return flavour.Lock(client, f"{coordkit_namespace}:job", ttl=ttl, **arguments)

    return lock


@pytest.fixture
def primary(deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that says which server has the lock now."""
    if deployment.kind == "sentinel":
        return deployment.servers.primary
    return lambda: deployment.servers.primary_for(f"{{{coordkit_namespace}:job}}")


async def sooner_or_later(flavour: Any, maybe: Any, lock: Any) -> tuple[Any, float]:
    """Acquire as a program does that must go on: an outage is tried again. Return the lease and when it came."""
    while True:
        try:
            return await maybe(lock.acquire()), now()
        except (StoreUnavailable, StoreRefused):
            await flavour.sleep(0.05)


def forget(old: Any, *replicas: Any, faults: Any) -> None:
    """Let replicas miss what is written from now on: they stand still, and their link is cut."""
    for replica in replicas:
        faults.pause(replica)
    tell(old, "CLIENT", "KILL", "TYPE", "replica")


# -- the primary dies, hangs, or gives up its place


@both
@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_primary_that_is_gone(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any, coordkit_faults: Any, fault: str
) -> None:
    lock = make()
    lease = await maybe(lock.acquire())
    waiting = flavour.spawn(sooner_or_later, flavour, maybe, make())
    old = primary()
    getattr(coordkit_faults, fault)(old)

    assert await maybe(lease.lost.wait(lock.ttl + MARGIN))  # its deadline is the last answer's ask and the ttl
    with pytest.raises(LeaseLost):
        lease.ensure()
    deployment.servers.wait_promoted(old)
    promoted = now()
    got, came = await waiting.result(60)
    assert came - promoted < lock.ttl + 3 * PATIENCE + MARGIN
    assert got.token > lease.token
    with contextlib.suppress(CoordError):  # not asked here: a Cluster's client may go to the dead one first
        await maybe(got.release())


@pytest.mark.parametrize(
    ("deployment", "fault"),
    [("sentinel", "kill"), ("sentinel", "pause"), pytest.param("cluster", "kill", marks=CLUSTER.marks)],
    indirect=["deployment"],
)
async def test_what_the_replica_had_outlasts_the_outage(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any, coordkit_faults: Any, fault: str
) -> None:
    """With a ttl that is longer than it, and a copy on each replica: the holder goes on, and nobody else gets in."""
    old = primary()
    copies = len(deployment.servers.replicas()) if deployment.kind == "sentinel" else 1
    lease = await maybe(make(ttl=120, min_replicas=copies).acquire())
    getattr(coordkit_faults, fault)(old)
    deployment.servers.wait_promoted(old)
    other = make(ttl=120)

    assert await until_answered(flavour, maybe, other.try_acquire) is None
    await until_answered(flavour, maybe, lease.renew)
    assert lease.ensure()
    assert await until_answered(flavour, maybe, lease.release) is True
    got, _ = await sooner_or_later(flavour, maybe, other)
    assert got.token > lease.token
    with contextlib.suppress(CoordError):
        await maybe(got.release())


@both
async def test_a_replica_that_missed_the_last_grants_is_promoted(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any, coordkit_faults: Any
) -> None:
    """The counter it has is an old one. The clock is what keeps its tokens above."""
    lock = make(ttl=30)
    async with flavour.within(lock) as first:
        pass
    old = primary()
    behind = deployment.servers.replicas() if deployment.kind == "sentinel" else [deployment.servers.replica_of(old)]
    forget(old, *behind, faults=coordkit_faults)
    tokens = [first.token]
    for _ in range(20):
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)
    holder = await maybe(lock.acquire())
    coordkit_faults.kill(old)
    for replica in behind:
        coordkit_faults.resume(replica)
    new = deployment.servers.wait_promoted(old)

    counter = lock.key.removesuffix("lock") + "token"
    assert int(tell(new, "GET", counter)) == first.token  # else this test shows nothing
    got, _ = await sooner_or_later(flavour, maybe, make(ttl=30))
    tokens += [holder.token, got.token]
    assert tokens == sorted(set(tokens))
    # Two believe to hold it: that is what an asynchronous replica costs. The first one is told when it renews.
    with pytest.raises(LeaseLost, match="no longer has it"):
        await until_answered(flavour, maybe, holder.renew)
    await maybe(got.release())


async def until_answered(flavour: Any, maybe: Any, call: Any) -> Any:
    """Call until a server answers."""
    for _ in range(100):
        with contextlib.suppress(StoreUnavailable):
            return await maybe(call())
        await flavour.sleep(0.05)
    return await maybe(call())


@both
async def test_a_primary_that_hands_over_in_order_loses_nothing(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any
) -> None:
    """SENTINEL FAILOVER, CLUSTER FAILOVER: as for an upgrade, server by server."""
    lock, other = make(ttl=20), make(ttl=20)
    lease = await maybe(lock.acquire())
    if deployment.kind == "sentinel":  # it waits for no replica
        await flavour.until(lambda: in_step(deployment))
        deployment.servers.failover()
    else:
        deployment.servers.failover(primary())
    assert await until_answered(flavour, maybe, other.try_acquire) is None
    await until_answered(flavour, maybe, lease.renew)
    lease.ensure()
    assert await until_answered(flavour, maybe, lease.release) is True
    got, _ = await sooner_or_later(flavour, maybe, other)
    assert got.token > lease.token
    await until_answered(flavour, maybe, got.release)
    deployment.servers.wait_ready()


def in_step(deployment: Any) -> bool:
    written = int(tell(deployment.servers.primary(), "ROLE")[1])
    return all(int(tell(replica, "ROLE")[4]) >= written for replica in deployment.servers.replicas())


@sentinel
async def test_an_old_primary_that_comes_back_takes_no_writes(
    flavour: Any, make: Any, maybe: Any, deployment: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """A client that was given its address, and not the Sentinels', is told what is wrong; the others go on."""
    lock = make(ttl=20)
    async with flavour.within(lock) as before:
        pass
    old = deployment.servers.primary()
    direct = flavour.Lock(flavour.redis(old.url), f"{coordkit_namespace}:job", ttl=20)
    coordkit_faults.pause(old)
    deployment.servers.wait_promoted(old)
    coordkit_faults.resume(old)
    deployment.servers.wait_ready()

    with pytest.raises(StoreRefused, match="read-only replica: point the client at the primary"):
        await maybe(direct.acquire(timeout=5))
    got, _ = await sooner_or_later(flavour, maybe, lock)  # over the connection it has kept to the old one
    assert got.token > before.token
    assert await maybe(got.release()) is True


async def test_a_replica_promoted_by_hand(
    flavour: Any, maybe: Any, coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    """Nobody watches it: somebody types REPLICAOF NO ONE, at a replica that is behind."""
    servers, name = coordkit_redis_replicated, f"{coordkit_namespace}:job"
    lock = flavour.Lock(flavour.redis(servers.primary.url), name, ttl=20)
    async with flavour.within(lock) as first:
        pass
    servers.wait_in_sync()
    replica, old = servers.replicas[0], servers.primary
    forget(old, replica, faults=coordkit_faults)
    lease = await maybe(lock.acquire())
    coordkit_faults.kill(old)
    coordkit_faults.resume(replica)
    servers.promote(replica)

    assert int(tell(replica, "GET", lock.key.removesuffix("lock") + "token")) == first.token
    after = flavour.Lock(flavour.redis(servers.primary.url), name, ttl=20)
    async with flavour.within(after) as got:
        assert first.token < lease.token < got.token


async def test_an_old_primary_that_was_only_cut_off_still_grants(
    flavour: Any, maybe: Any, coordkit_redis_replicated: Any, coordkit_namespace: str
) -> None:
    """A replica was promoted, and some clients still see the old primary: each side has a holder, the fence has one."""
    servers, name = coordkit_redis_replicated, f"{coordkit_namespace}:job"
    old, new = servers.primary, servers.replicas[0]
    there = flavour.Lock(flavour.redis(old.url), name, ttl=20)
    servers.promote(new)
    here = flavour.Lock(flavour.redis(new.url), name, ttl=20)
    tell(old, "REPLICAOF", "NO", "ONE")  # as if it had heard of nothing
    tokens = []
    for _ in range(5):
        first = await maybe(there.acquire(timeout=0))
        second = await maybe(here.acquire(timeout=0))
        tokens += [first.token, second.token]
        fence = flavour.Fence(flavour.redis(new.url), coordkit_namespace)
        await maybe(fence.claim(token=second.token))
        with pytest.raises(StaleToken):
            await maybe(fence.claim(token=first.token))
        assert first.ensure()  # it cannot know
        assert await maybe(first.release()) is True
        assert await maybe(second.release()) is True
    assert tokens == sorted(set(tokens))  # their clocks are one


# -- a slot moves


@cluster
async def test_a_slot_moves_while_its_lock_is_held(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any
) -> None:
    """Renewing, waiting and giving back go on: the client follows MOVED and ASK."""
    lock = make(ttl=2.0)
    lease = await maybe(lock.acquire())
    waiting = flavour.spawn(sooner_or_later, flavour, maybe, make(ttl=60))
    await flavour.until(lambda: lock.client.exists(lock.key.removesuffix("lock") + "queue"))
    servers = deployment.servers
    target = next(node for node in servers.primaries() if node is not primary())
    with servers.moving(slot_of(lock.key), target):
        assert primary() is not target
        await maybe(lease.renew())  # ASK
        await flavour.sleep(2.2)  # and by itself
        lease.ensure()
    assert primary() is target
    await maybe(lease.renew())  # MOVED
    await flavour.sleep(2.2)
    lease.ensure()
    assert await maybe(lease.release()) is True
    gone = now()
    got, came = await waiting.result(60)
    assert came - gone < lock.ttl + MARGIN
    assert got.token > lease.token
    assert await maybe(got.release()) is True


@cluster
async def test_a_lock_is_taken_anew_while_its_slot_moves(
    flavour: Any, make: Any, maybe: Any, deployment: Any, primary: Any
) -> None:
    """Half of its keys exist: TRYAGAIN, until the slot has arrived. That is no answer yet, and no refusal."""
    lock = make(ttl=20)
    async with flavour.within(lock) as before:
        pass
    servers = deployment.servers
    target = next(node for node in servers.primaries() if node is not primary())
    with servers.moving(slot_of(lock.key), target):
        try:
            early = await maybe(lock.acquire(timeout=0))
        except StoreUnavailable:
            early = None
    got = early or (await sooner_or_later(flavour, maybe, lock))[0]
    assert got.token > before.token
    assert await maybe(got.release()) is True


# -- a server is killed and started again


@pytest.mark.parametrize("appendonly", ["always", "everysec", "no"])
async def test_a_server_that_is_killed_and_started_again(flavour: Any, maybe: Any, appendonly: Any) -> None:
    with start_redis(appendonly=appendonly) as server:
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=30)
        tokens = []
        for _ in range(5):
            async with flavour.within(lock) as lease:
                tokens.append(lease.token)
        lease = await maybe(lock.acquire())
        server.restart()
        kept = lock.key in keys(server)
        if appendonly == "always":
            assert kept
        if appendonly == "no":
            assert not kept
        if kept:  # every second: it depends
            assert await maybe(lock.try_acquire()) is None
            await maybe(lease.renew())
            assert await maybe(lease.release()) is True
        async with flavour.within(lock) as got:
            tokens += [lease.token, got.token]
            if not kept:
                with pytest.raises(LeaseLost, match="no longer has it"):
                    await maybe(lease.renew())
        assert tokens == sorted(set(tokens))


def keys(server: Any) -> set[str]:
    with admin(server) as client:
        return {key.decode() for key in client.keys("*")}


@contextlib.contextmanager
def admin(server: Any) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server.url)
    try:
        yield client
    finally:
        client.close()
