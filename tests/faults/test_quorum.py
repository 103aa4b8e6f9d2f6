"""What a quorum lock promises when servers pause, die, forget, and answers are lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import coordkit
import coordkit.aio
from coordkit import LeaseLost, NoQuorum, StoreRefused
from coordkit._threads.runtime import now
from coordkit.testing.processes import start_redis, start_redis_servers

KEY = "coordkit:1:{job}:vote"


@pytest.fixture(scope="module")
def shared() -> Iterator[list[Any]]:
    """Give five servers that are paused and resumed, but keep their memory."""
    servers = start_redis_servers(5)
    with redis.Redis.from_url(servers[0].url):
        coordkit.Quorum([redis.Redis.from_url(server.url) for server in servers]).initialise()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def servers(shared: list[Any]) -> Iterator[list[Any]]:
    yield shared
    for server in shared:
        server.resume()
    for server in shared:
        with redis.Redis.from_url(server.url) as client:
            client.delete(KEY)


def lock_on(flavour: Any, servers: Any, *, ttl: float = 10, patience: float = 1.0, **arguments: Any) -> Any:
    quorum = flavour.Quorum([flavour.redis(server.url, socket_timeout=patience) for server in servers])
    return flavour.QuorumLock(quorum, "job", ttl=ttl, **arguments)


def holders(servers: Any) -> list[str | None]:
    found = []
    for server in servers:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            found.append(client.get(KEY))
    return found


async def works(flavour: Any, lock: Any) -> bool:
    """Whether a majority grants it just now: a server counts as down for a moment after it could not be reached."""
    try:
        async with flavour.within(lock.hold(timeout=0)):
            return True
    except coordkit.CoordError:
        return False


# -- servers that do not answer


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_a_minority_that_is_away_delays_nobody(flavour: Any, maybe: Any, how: str) -> None:
    """Neither the first time, when it must be connected to, nor later: far less than the second that it may take."""
    servers = start_redis_servers(5)
    try:
        lock = lock_on(flavour, servers, patience=5.0)
        await maybe(lock.quorum.initialise())
        tokens = []
        for fresh in (lock, lock_on(flavour, servers, patience=5.0)):
            for server in servers[:2]:
                getattr(server, how)()
            for _ in range(20):
                began = now()
                async with flavour.within(fresh) as lease:
                    await maybe(lease.renew())
                    tokens.append(lease.token)
                assert now() - began < 4.0
            for server in servers[:2]:
                server.resume() if how == "pause" else None

        assert tokens == sorted(set(tokens))
    finally:
        for server in servers:
            server.stop()


async def test_a_majority_that_is_away_is_told(flavour: Any, maybe: Any, servers: Any) -> None:
    lock = lock_on(flavour, servers, patience=1.0)
    async with flavour.within(lock):
        pass
    for server in servers[:3]:
        server.pause()
    began = now()
    with pytest.raises(NoQuorum, match="voted, a majority is 3, of 5 servers") as caught:
        await maybe(lock.acquire(timeout=0))

    assert now() - began < 10  # of the 30 after which idle connections are closed
    assert len(caught.value.errors) >= 3
    for server in servers:
        server.resume()
    await flavour.until(lambda: works(flavour, lock))


async def test_what_came_back_is_used_again(flavour: Any, maybe: Any, servers: Any) -> None:
    """A connection that owed for too long was given up, and is made anew."""
    lock = lock_on(flavour, servers, patience=0.3)
    async with flavour.within(lock):
        servers[0].pause()
    for _ in range(30):
        async with flavour.within(lock):
            await flavour.sleep(0.02)
    servers[0].resume()
    for server in servers[1:3]:
        server.pause()

    await flavour.until(lambda: works(flavour, lock))


async def test_a_connection_that_owes_for_too_long_is_given_up(flavour: Any, maybe: Any, servers: Any) -> None:
    """The server may have gone without a word: a new connection would tell."""
    lock = lock_on(flavour, servers, patience=0.2)
    panel = lock.quorum._core.panel

    def wire() -> Any:
        if flavour.is_async:
            [home] = panel._homes.values()
            return home.lines[0].wire
        return panel._rows[-1].slots[0].wire

    async with flavour.within(lock):
        await flavour.until(lambda: None not in holders(servers))
        first = wire()
    servers[0].pause()
    async with flavour.within(lock):
        assert wire() is first
        await flavour.sleep(0.4)
    assert wire() is not first


async def test_late_votes_are_given_back(flavour: Any, maybe: Any, servers: Any) -> None:
    """A server that was paused votes after the lock was released: the release is behind the vote, in order."""
    lock = lock_on(flavour, servers, patience=5.0, ttl=60)
    async with flavour.within(lock):
        servers[0].pause()
    async with flavour.within(lock):
        pass
    servers[0].resume()

    await flavour.until(lambda: holders(servers) == [None] * 5)


async def test_a_paused_majority_ends_the_lease_at_its_own_deadline(flavour: Any, maybe: Any, servers: Any) -> None:
    lock = lock_on(flavour, servers, patience=0.5, ttl=2)
    lease = await maybe(lock.acquire())
    for server in servers[:3]:
        server.pause()
    assert await maybe(lease.lost.wait(10))
    assert lease.remaining() == 0.0
    with pytest.raises(LeaseLost, match="before a renewal was answered") as caught:
        lease.ensure()
    assert isinstance(caught.value.__cause__, NoQuorum)


async def test_a_pause_of_the_majority_that_is_short_costs_nothing(flavour: Any, maybe: Any, servers: Any) -> None:
    lock = lock_on(flavour, servers, patience=0.5, ttl=3)
    lease = await maybe(lock.acquire())
    for server in servers[:3]:
        server.pause()
    await flavour.until(lambda: lease.remaining() < 1.8)  # past the first renewals
    for server in servers[:3]:
        server.resume()
    await flavour.until(lambda: lease.remaining() > 2)
    assert await maybe(lease.release()) is True


async def test_many_leases_are_renewed_although_one_is_paused(flavour: Any, maybe: Any, servers: Any) -> None:
    """A batch that a paused server does not read fits its buffers: nothing blocks."""
    quorum = flavour.Quorum([flavour.redis(server.url, socket_timeout=0.5) for server in servers])
    locks = [flavour.QuorumLock(quorum, f"many-{i}", ttl=3) for i in range(300)]
    leases = [await maybe(lock.acquire()) for lock in locks]
    servers[4].pause()
    await flavour.sleep(4.0)
    assert all(lease.ensure() for lease in leases)
    for lease in leases:
        await maybe(lease.release())


# -- servers that forget


async def test_a_restart_with_its_data_votes_and_one_without_does_not(flavour: Any, maybe: Any) -> None:
    with start_redis(appendonly="always") as a, start_redis(appendonly="always") as b, start_redis() as c:
        servers = [a, b, c]
        lock = lock_on(flavour, servers)
        await maybe(lock.quorum.initialise())
        lease = await maybe(lock.acquire())
        tokens = [lease.token]
        await flavour.until(lambda: None not in holders(servers))
        for server in servers:
            server.kill()
            server.restart()
        await maybe(lease.renew())  # a and b kept the vote
        assert await maybe(lock.try_acquire()) is None
        assert await maybe(lease.release()) is True
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)
            assert holders([c]) == [None]
        a.kill()
        with pytest.raises(NoQuorum, match="forgot"):
            await maybe(lock.acquire(timeout=0))
        a.restart()
        assert await maybe(lock.quorum.readmit()) == [f"Redis at 127.0.0.1:{c.port}"]
        assert await maybe(lock.quorum.readmit()) == []
        a.kill()
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)

        assert tokens == sorted(set(tokens))


async def test_tokens_rise_through_wipes_although_clocks_stand_still(
    flavour: Any, maybe: Any, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server after the other forgets and is seated again: the ballots alone keep the order."""
    import time

    frozen = time.time()
    monkeypatch.setattr(time, "time", lambda: frozen)
    lock, tokens = lock_on(flavour, servers), []
    for round_ in range(10):
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)
        with redis.Redis.from_url(servers[round_ % 5].url) as client:
            client.flushall()
        async with flavour.within(lock) as lease:
            tokens.append(lease.token)
        assert len(await maybe(lock.quorum.readmit())) == 1

    assert tokens == sorted(set(tokens))


async def test_a_minority_that_is_down_floods_no_log(
    flavour: Any, maybe: Any, servers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """pottery logs an exception for each server at each failure; here whoever cannot go on is told, by NoQuorum."""
    lock = lock_on(flavour, servers, patience=0.2)
    async with flavour.within(lock):
        pass
    for server in servers[:2]:
        server.pause()
    for _ in range(30):
        async with flavour.within(lock) as lease:
            await maybe(lease.renew())
    assert len(caplog.messages) <= 2


@pytest.mark.parametrize("how", ["kill", "wipe"])
async def test_it_is_held_on_while_two_of_five_are_gone(flavour: Any, maybe: Any, how: str) -> None:
    """Or forgot, or were seated again: three still know who holds it."""
    servers = start_redis_servers(5)
    try:
        lock, other = lock_on(flavour, servers, ttl=60), lock_on(flavour, servers, ttl=60)
        await maybe(lock.quorum.initialise())
        lease = await maybe(lock.acquire())
        await flavour.until(lambda: None not in holders(servers))
        for server in servers[:2]:
            if how == "kill":
                server.kill()
            else:
                with redis.Redis.from_url(server.url) as client:
                    client.flushall()
        assert await maybe(other.try_acquire()) is None
        await maybe(lease.renew())
        if how == "wipe":
            assert len(await maybe(other.quorum.readmit())) == 2
            assert await maybe(other.try_acquire()) is None
            await maybe(lease.renew())
        assert lease.ensure()
        assert await maybe(lease.release()) is True
        after = await maybe(other.acquire(timeout=20))
        assert after.token > lease.token
        await maybe(after.release())
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("lost", ["roster", "highest", "floor", "born"])
async def test_one_that_lost_a_part_is_seated_again(flavour: Any, maybe: Any, servers: Any, lost: str) -> None:
    """An eviction, a careless DEL: what is not whole does not vote, and is made whole the same way."""
    lock = lock_on(flavour, servers)
    async with flavour.within(lock):
        pass
    with redis.Redis.from_url(servers[1].url) as client:
        client.delete(f"coordkit:1:quorum:{lost}")
    if lost != "born":
        async with flavour.within(lock):
            assert holders([servers[1]]) == [None]
    with pytest.raises(StoreRefused, match=r"initialised before: Quorum.readmit\(\)"):
        await maybe(lock.quorum.initialise())
    assert await maybe(lock.quorum.readmit()) == [f"Redis at 127.0.0.1:{servers[1].port}"]
    async with flavour.within(lock):
        await flavour.until(lambda: None not in holders(servers))


async def test_others_hear_of_a_server_that_was_seated_again(flavour: Any, maybe: Any, servers: Any) -> None:
    """A process that counts by the older roster is refused, asks, and goes on."""
    lock, operator = lock_on(flavour, servers), lock_on(flavour, servers).quorum
    async with flavour.within(lock) as lease:
        first = lease.token
    servers[4].pause()  # it hears of nothing
    with redis.Redis.from_url(servers[0].url) as client:
        client.flushall()
    assert len(await maybe(operator.readmit())) == 1
    async with flavour.within(lock) as lease:
        assert lease.token > first
    servers[4].resume()
    for server in servers[:2]:
        server.pause()

    async def works() -> bool:
        try:
            async with flavour.within(lock.hold(timeout=0)) as lease:
                return bool(lease.token > first)
        except NoQuorum:
            return False

    await flavour.until(works)  # now the one that heard of nothing is needed, and is told


async def test_without_a_majority_nobody_is_seated(flavour: Any, maybe: Any) -> None:
    servers = start_redis_servers(3)
    try:
        lock = lock_on(flavour, servers)
        with pytest.raises(StoreRefused, match="never initialised"):
            await maybe(lock.acquire())
        await maybe(lock.quorum.initialise())
        for server in servers[:2]:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
        with pytest.raises(NoQuorum, match="forgot"):
            await maybe(lock.acquire(timeout=0))
        with pytest.raises(NoQuorum, match="without a majority of the others"):
            await maybe(lock.quorum.readmit())
    finally:
        for server in servers:
            server.stop()


async def test_a_set_is_initialised_when_all_answer(flavour: Any, maybe: Any) -> None:
    """What was begun is gone on with; by two at the same time as well."""
    servers = start_redis_servers(3)
    try:
        servers[2].kill()
        first, second = lock_on(flavour, servers).quorum, lock_on(flavour, servers).quorum
        with pytest.raises(NoQuorum, match="2 answered of 3 servers"):
            await maybe(first.initialise())
        servers[2].restart()

        async def initialise(quorum: Any) -> None:
            await maybe(quorum.initialise())

        await flavour.gather(initialise(first), initialise(second))
        with redis.Redis.from_url(servers[1].url) as client:  # as if the first had died before it came to this one
            keys = {name: client.get(f"coordkit:1:quorum:{name}") for name in ("roster", "born", "highest", "floor")}
            client.set("coordkit:1:quorum:ticket", keys["born"])
            client.delete(*(f"coordkit:1:quorum:{name}" for name in keys))
            await maybe(first.initialise())
            assert client.get("coordkit:1:quorum:roster") == keys["roster"]
        async with flavour.within(lock_on(flavour, servers)):
            pass
    finally:
        for server in servers:
            server.stop()


async def test_a_replica_is_no_member(flavour: Any, maybe: Any) -> None:
    servers = start_redis_servers(2)
    replica = start_redis(replica_of=servers[0])
    try:
        with pytest.raises(StoreRefused, match="is a replica"):
            await maybe(lock_on(flavour, [*servers, replica]).quorum.initialise())
    finally:
        for server in (*servers, replica):
            server.stop()


async def test_a_server_that_was_replaced_does_not_vote_beside_its_successor(flavour: Any, maybe: Any) -> None:
    """Five seats, six servers: the old one comes back with all its data, and its seat is taken."""
    servers = start_redis_servers(4)
    old, *others, new = servers
    try:
        before = lock_on(flavour, [old, *others])
        await maybe(before.quorum.initialise())
        async with flavour.within(before) as lease:
            first = lease.token
        after = lock_on(flavour, [new, *others])
        assert await maybe(after.quorum.readmit()) == [f"Redis at 127.0.0.1:{new.port}"]
        others[0].pause()
        async with flavour.within(after) as held:
            assert held.token > first
            # With the old server and the one that is left, those who do not know yet would have a majority.
            with pytest.raises(coordkit.CoordError):
                await maybe(before.acquire(timeout=0))
        others[0].resume()
    finally:
        for server in servers:
            server.stop()


# -- lost answers, and those who give up


async def test_lost_answers_never_repeat_a_token(flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any) -> None:
    """One in ten requests and replies is lost, on all five lines; three contend."""
    proxies = [coordkit_faults.proxy(server) for server in servers]
    for i, proxy in enumerate(proxies):
        proxy.lossy(requests=0.05, replies=0.1, seed=i)
    tokens: list[int] = []

    async def work() -> None:
        quorum = flavour.Quorum([flavour.redis(proxy.url, socket_timeout=0.2) for proxy in proxies])
        lock = flavour.QuorumLock(quorum, "job", ttl=0.5)
        for _ in range(40):
            try:
                lease = await maybe(lock.acquire(timeout=1))
            except coordkit.CoordError:
                await flavour.sleep(0.02)
                continue
            tokens.append(lease.token)
            with contextlib.suppress(NoQuorum):
                await maybe(lease.release())

    await flavour.gather(*(work() for _ in range(3)))
    assert len(tokens) > 10
    assert len(set(tokens)) == len(tokens)
    assert sum(proxy.hits["lossy_reply"] for proxy in proxies) > 10


async def test_a_cut_line_is_no_loss(flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any) -> None:
    proxies = [coordkit_faults.proxy(server) for server in servers]
    lock = lock_on(flavour, proxies)
    async with flavour.within(lock) as lease:
        for proxy in proxies:
            proxy.reset_all()
        await maybe(lease.renew())
        for proxy in proxies[:2]:
            proxy.cut()
        await maybe(lease.renew())
    async with flavour.within(lock):
        pass


async def test_a_slow_minority_is_not_waited_for(flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any) -> None:
    proxies = [coordkit_faults.proxy(server) for server in servers]
    lock = lock_on(flavour, proxies, patience=5.0)
    async with flavour.within(lock):
        pass
    for proxy in proxies[:2]:
        proxy.latency = 4.0
    began = now()
    for _ in range(5):
        async with flavour.within(lock):
            pass
    assert now() - began < 4.0


@pytest.mark.parametrize("seed", range(4))
def test_a_cancelled_acquire_leaves_nothing(servers: Any, seed: int) -> None:
    """At any of its awaits: while it looks for the set, votes, confirms, waits."""
    chance = random.Random(seed)

    async def main() -> None:
        clients = [redis.asyncio.Redis.from_url(server.url) for server in servers]
        for _ in range(15):
            lock = coordkit.aio.QuorumLock(coordkit.aio.Quorum(clients), "job", ttl=60)
            task = asyncio.ensure_future(lock.acquire())
            await asyncio.sleep(chance.uniform(0, 0.008))
            if task.done():
                await task.result().release()
                continue
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        deadline = now() + 10
        while holders(servers) != [None] * 5:
            assert now() < deadline, holders(servers)
            await asyncio.sleep(0.02)
        for client in clients:
            await client.aclose()

    asyncio.run(main())


def test_no_thread_stays_behind(servers: Any) -> None:
    """Connecting takes threads for a moment; asking takes none."""
    lock = coordkit.QuorumLock(coordkit.Quorum([redis.Redis.from_url(server.url) for server in servers]), "job", ttl=10)
    with lock:
        pass
    deadline = now() + 10
    while any(thread.name == "coordkit-connect" for thread in threading.enumerate()):
        assert now() < deadline
    for _ in range(10):
        with lock:
            assert not any(thread.name == "coordkit-connect" for thread in threading.enumerate())


@contextlib.contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Have the process at its limit of threads; give the names of those that could not be started."""
    missed: list[str] = []

    def start(thread: threading.Thread) -> None:
        missed.append(thread.name)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield missed


def test_a_server_that_no_thread_could_connect_to_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only blocking connecting takes a thread. That a server was down must not keep it from being tried."""
    servers = start_redis_servers(3)
    try:
        quorum = coordkit.Quorum([redis.Redis.from_url(server.url, socket_timeout=2) for server in servers])
        quorum.initialise()
        lock = coordkit.QuorumLock(quorum, "job", ttl=10)
        lock.acquire().release()
        servers[0].kill()
        instance = quorum._core.panel._instances[0]
        while instance.trouble is None:
            lock.acquire(timeout=10).release()
        servers[0].restart()
        with no_threads(monkeypatch) as missed:
            while "coordkit-connect" not in missed:
                lock.acquire(timeout=10).release()
        assert not instance.probing
        while instance.trouble is not None:  # until it is connected to
            lock.acquire(timeout=10).release()
    finally:
        for server in servers:
            server.stop()


def test_without_a_thread_to_connect_there_is_no_quorum(monkeypatch: pytest.MonkeyPatch, servers: Any) -> None:
    lock = coordkit.QuorumLock(coordkit.Quorum([redis.Redis.from_url(server.url) for server in servers]), "job", ttl=10)
    with no_threads(monkeypatch), pytest.raises(NoQuorum, match="can't start new thread"):
        lock.try_acquire()
    lock.acquire(timeout=10).release()


async def test_a_vote_whose_answer_was_lost_is_no_refusal(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any
) -> None:
    """The next attempt met the vote of the one before, and said that another holds it; it waited for itself."""
    lines = [coordkit_faults.proxy(server) for server in servers]
    quorum = flavour.Quorum([flavour.redis(line.url, socket_timeout=1) for line in lines])
    lock = flavour.QuorumLock(quorum, "job", ttl=10)
    await maybe((await maybe(lock.acquire())).release())
    for line in lines[3:]:
        line.refuse = True  # the other three must agree
        line.reset_all()
    lines[0].drop_reply_matching(b"*2\r\n:1")
    lease = await maybe(lock.try_acquire())

    assert lines[0].hits["drop_reply_matching"] == 1
    assert lease is not None
    assert await maybe(lease.release())


async def test_what_could_not_be_given_back_yet_is_given_back(
    flavour: Any, maybe: Any, servers: Any, coordkit_faults: Any
) -> None:
    """Its connection had broken and was being made anew, the others had answered: the vote stood until its ttl."""
    line = coordkit_faults.proxy(servers[0])
    quorum = flavour.Quorum([flavour.redis(each.url, socket_timeout=1) for each in (line, *servers[1:])])
    lease = await maybe(flavour.QuorumLock(quorum, "job", ttl=60).acquire())
    await flavour.until(lambda: None not in holders(servers))
    line.reset_all()
    assert await maybe(lease.release())

    await flavour.until(lambda: holders(servers) == [None] * 5)
