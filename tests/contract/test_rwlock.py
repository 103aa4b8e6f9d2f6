"""What a readers-writer lock promises, in both flavours, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import deployed
from deployed import KINDS, UNSHARDED, Deployed

from coordkit import AcquireTimeout, LeaseLost, NotAcquired, StaleToken, StoreRefused
from coordkit._threads.runtime import now
from coordkit.core import waiting as core_waiting
from coordkit.testing import expire

# What takes seconds, or looks at nothing but the client, is shown on one server.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture(params=UNSHARDED)
def deployment(request: pytest.FixtureRequest, flavour: Any) -> Deployed:
    """Give what is slower over shards only where a test asks for it: each shard is a server, and has its own tests."""
    return deployed(request, flavour)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a readers-writer lock on a client of its own."""

    def lock(*, ttl: float = 60, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        client = deployment.redis(**(options or {}))
        return flavour.ReadWriteLock(client, f"{coordkit_namespace}:job", ttl=ttl, **arguments)

    return lock


@pytest.fixture
def key(coordkit_namespace: str) -> Any:
    return lambda part: f"coordkit:1:{{{coordkit_namespace}:job}}:rw:{part}"


@pytest.fixture
def waiting(flavour: Any, admin: Any, key: Any, maybe: Any) -> Any:
    """Give a way to have somebody wait for a side, and to know that it stands in the queue."""

    async def wait(side: Any, work: Any = None) -> Any:
        before = admin.zcard(key("queue"))

        async def acquire() -> Any:
            return await maybe(side.acquire(timeout=20))

        running = flavour.spawn(work or acquire)
        await flavour.until(lambda: admin.zcard(key("queue")) == before + 1)
        return running

    return wait


async def test_readers_share_and_a_writer_does_not(flavour: Any, make: Any, maybe: Any) -> None:
    lock, other = make(), make()
    readers = [await maybe(lock.read.acquire()), await maybe(other.read.acquire())]
    assert await maybe(other.write.try_acquire()) is None
    with pytest.raises(NotAcquired, match=r"held by .*\(one of 2 reading\)"):
        await maybe(lock.write.acquire(timeout=0))
    for lease in readers:
        assert await maybe(lease.release()) is True

    async with flavour.within(lock.write) as lease:
        assert await maybe(other.read.try_acquire()) is None
        assert await maybe(other.write.try_acquire()) is None
        with pytest.raises(NotAcquired, match=lease.holder):
            await maybe(other.read.acquire(timeout=0))
    async with flavour.within(other.read.hold(timeout=0)), flavour.within(lock.read.hold(timeout=0)):
        pass


async def test_readers_really_read_at_once(flavour: Any, make: Any, waiting: Any, maybe: Any) -> None:
    """All who wait for a writer are let in by its release, and meet inside."""
    lock, inside, most = make(), [0], [0]
    writer = await maybe(lock.write.acquire())

    async def read() -> None:
        async with flavour.within(lock.read):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await flavour.until(lambda: most[0] == 4)
            inside[0] -= 1

    running = [await waiting(lock.read, read) for _ in range(4)]
    await maybe(writer.release())
    for one in running:
        await one.result()


async def test_readers_of_a_phase_share_a_token(flavour: Any, make: Any, waiting: Any, maybe: Any, key: Any) -> None:
    """And sign it together, however they came in; the next phase, and the next writer, have a higher one."""
    lock = make()
    async with flavour.within(lock.write) as writer:
        running = [await waiting(make().read) for _ in range(2)]
    leases = [await one.result() for one in running]
    leases.append(await maybe(lock.read.acquire()))
    assert {int(lease.token) for lease in leases} == {int(leases[0].token)}
    assert {lease.token.holder for lease in leases} == {f"readers:{int(leases[0].token)}"}
    assert len({lease.holder for lease in leases}) == 3
    assert leases[0].token > writer.token
    for lease in leases:
        await maybe(lease.release())
    async with flavour.within(lock.read) as later:
        assert later.token > leases[0].token
    async with flavour.within(lock.write) as last:
        assert last.token > later.token
        assert last.token.holder == last.holder == (await maybe(lock.client.get(key("writer")))).decode()


@standalone
async def test_a_fence_takes_the_token_from_each_reader(
    flavour: Any, make: Any, maybe: Any, coordkit_namespace: str
) -> None:
    """Until a writer has claimed it: then from none of them."""
    lock = make(ttl=1.5, renew=False)
    fence = flavour.Fence(lock.client, f"{coordkit_namespace}:ledger")
    value = f"{{{coordkit_namespace}:ledger}}:value"
    first, second = await maybe(lock.read.acquire()), await maybe(lock.read.acquire())
    await maybe(fence.claim(token=first.token))
    assert await maybe(fence.get(value, token=second.token)) is None
    assert await maybe(fence.get(value, token=first.token)) is None
    async with flavour.within(lock.write) as writer:  # the readers' leases have ended by themselves
        await maybe(fence.set(value, "1", token=writer.token))
    for late in (first, second):
        with pytest.raises(StaleToken):
            await maybe(fence.get(value, token=late.token))


async def test_first_come_first_served(flavour: Any, make: Any, waiting: Any, maybe: Any, key: Any) -> None:
    """Readers who come after a waiting writer wait behind it; those between two writers go together."""
    lock, order = make(), []

    def work(side: Any, name: str) -> Any:
        async def run() -> None:
            async with flavour.within(side.hold(timeout=20)) as lease:
                order.append((name, int(lease.token)))
                await flavour.until(lambda: len(order) >= {"r1": 3, "r2": 3}.get(name, 0))

        return run

    held = await maybe(lock.write.acquire())
    names = ["w0", "r1", "r2", "w3", "r4", "w5"]
    running = [await waiting(lock, work(lock.read if name[0] == "r" else lock.write, name)) for name in names]
    await maybe(held.release())
    for one in running:
        await one.result()
    tokens = dict(order)

    assert [name for name, _ in order if name not in {"r1", "r2"}] == ["w0", "w3", "r4", "w5"]
    assert {name for name, _ in order[1:3]} == {"r1", "r2"}
    assert tokens["r1"] == tokens["r2"]
    assert [tokens[name] for name in ["w0", "r1", "w3", "r4", "w5"]] == sorted(set(tokens.values()))


async def test_a_writer_is_not_starved_by_a_stream_of_readers(
    flavour: Any, make: Any, waiting: Any, maybe: Any
) -> None:
    """Overlapping readers, always one inside: a lock that lets newcomers join them never lets the writer in."""
    locks, done = [make(), make(), make()], []

    def stream(lock: Any) -> Any:
        async def read() -> None:
            while not done:
                async with flavour.within(lock.read):
                    await flavour.sleep(0.02)

        return read

    streams = [flavour.spawn(stream(lock)) for lock in locks]
    await flavour.sleep(0.1)
    try:
        writer = await maybe(make().write.acquire(timeout=20))
        await maybe(writer.release())
    finally:
        done.append(True)
    for one in streams:
        await one.result()


async def test_a_reader_that_asks_once_does_not_pass_a_waiting_writer(
    make: Any, waiting: Any, maybe: Any, flavour: Any
) -> None:
    lock = make()
    held = await maybe(lock.read.acquire())
    running = await waiting(make().write)
    with pytest.raises(NotAcquired, match="waits ahead"):
        await maybe(make().read.acquire(timeout=0))
    await maybe(held.release())
    await maybe((await running.result()).release())
    async with flavour.within(lock.read.hold(timeout=0)):
        pass


async def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(
    flavour: Any, make: Any, waiting: Any, maybe: Any
) -> None:
    """At once: its leaving is what they wait for."""
    lock = make()
    held = await maybe(lock.read.acquire())

    async def impatient() -> None:
        with pytest.raises(AcquireTimeout):
            await maybe(make().write.acquire(timeout=3))

    writer = await waiting(lock.write, impatient)
    reader = await waiting(make().read)
    await writer.result()
    lease = await reader.result()
    assert lease.token == held.token
    for one in (lease, held):
        await maybe(one.release())


@standalone
async def test_each_reader_has_an_end_of_its_own(flavour: Any, make: Any, maybe: Any) -> None:
    """The one that is not renewed goes, the other stays; the writer waits for both and no longer."""
    short, lasting = make(ttl=1.0, renew=False), make(ttl=4.5)
    gone, here = await maybe(short.read.acquire()), await maybe(lasting.read.acquire())
    assert await maybe(gone.lost.wait(10))
    await flavour.renewed(here)
    assert await maybe(lasting.write.try_acquire()) is None
    await maybe(here.release())
    async with flavour.within(lasting.write.hold(timeout=20)):
        pass


async def test_a_crashed_reader_costs_a_writer_its_own_ttl(make: Any, waiting: Any, maybe: Any) -> None:
    """Not that of the reader with the longest, who has left: the waiting writer is told when to look again."""
    crashed = await make().read._contender.grantor.grant("crashed", 1.5)
    long = await maybe(make(ttl=60).read.acquire())
    running = await waiting(make().write)
    await maybe(long.release())
    writer = await running.result(timeout=15)
    assert writer.token > crashed.token
    await maybe(writer.release())


@standalone
async def test_all_who_wait_for_a_crashed_writer_are_let_in_at_once(
    make: Any, waiting: Any, maybe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first who looks lets in the readers behind it; each by itself would look a claim after the one before."""
    monkeypatch.setattr(core_waiting, "CLAIM", 30.0)
    began = now()
    await make().write._contender.grantor.grant("crashed", 3.0)  # until then all of them wait
    running = [await waiting(make().read) for _ in range(4)]
    leases = [await one.result() for one in running]
    assert now() - began < 3.0 + 15
    assert len({lease.token for lease in leases}) == 1
    for lease in leases:
        await maybe(lease.release())


async def test_both_sides_are_renewed(flavour: Any, make: Any, maybe: Any) -> None:
    lock = make(ttl=4.5)
    for side in (lock.read, lock.write):
        async with flavour.within(side) as lease:
            await flavour.renewed(lease)
            await maybe(lease.renew())
            assert 0 < lease.remaining() <= 4.5


@pytest.mark.parametrize("side", ["read", "write"])
async def test_a_renewal_lets_nobody_in_again(flavour: Any, make: Any, maybe: Any, side: str, key: Any) -> None:
    lock = make(renew=False)
    held = getattr(lock, side)
    lease = await maybe(held.acquire())
    await maybe(expire(held))
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(lease.renew())
    assert await maybe(lease.release()) is False
    assert await maybe(lock.client.exists(key("writer"), key("readers"))) == 0


@pytest.mark.parametrize("side", ["read", "write"])
async def test_losing_it_under_way_is_loud(flavour: Any, make: Any, maybe: Any, side: str) -> None:
    lock = make(ttl=1.0)
    await maybe(lock.client.exists("-"))  # connect before so short a ttl begins
    with pytest.raises(LeaseLost, match="no longer has it"):
        async with flavour.within(getattr(lock, side).hold()) as lease:
            await maybe(expire(getattr(lock, side)))
            await (flavour.sleep(30) if flavour.is_async else maybe(lease.lost.wait(10)))


async def test_nothing_is_left_behind(flavour: Any, make: Any, maybe: Any, key: Any, admin: Any) -> None:
    """But the token's counter: reading and writing, waiting and giving up."""
    lock = make()
    async with flavour.within(lock.write):
        for side in (lock.read, lock.write):
            with pytest.raises(AcquireTimeout):
                await maybe(side.acquire(timeout=0.05))
    async with flavour.within(lock.read), flavour.within(make().read):
        pass
    assert list(admin.scan_iter(match=key("*").replace("{", "\\{"))) == [key("token").encode()]


async def test_it_is_another_thing_than_a_lock_of_the_same_name(flavour: Any, make: Any) -> None:
    lock = make()
    plain = flavour.Lock(lock.client, lock.name, ttl=10)
    semaphore = flavour.Semaphore(lock.client, lock.name, permits=1, ttl=10)
    writing, held = flavour.within(lock.write.hold(timeout=0)), flavour.within(plain.hold(timeout=0))
    async with writing, held, flavour.within(semaphore.hold(timeout=0)) as lease:
        assert lease.slot == 0


@standalone
@pytest.mark.parametrize("side", ["read", "write"])
async def test_hold_decorates(flavour: Any, make: Any, maybe: Any, side: str) -> None:
    lock = make()
    if flavour.is_async:

        @getattr(lock, side).hold(timeout=0)
        async def job(x: int) -> Any:
            return x, await lock.write.try_acquire()

    else:

        @getattr(lock, side).hold(timeout=0)
        def job(x: int) -> Any:
            return x, lock.write.try_acquire()

    assert await maybe(job(1)) == (1, None)


@standalone
async def test_reading_may_be_nested(flavour: Any, make: Any) -> None:
    """`with lock.read` inside `with lock.read`: each block gives back its own."""
    lock = make()
    if flavour.is_async:
        async with lock.read as outer:
            async with lock.read as inner:
                assert inner.holder != outer.holder
            assert outer.ensure()
    else:
        with lock.read as outer:
            with lock.read as inner:
                assert inner.holder != outer.holder
            assert outer.ensure()


async def test_a_client_that_decodes(flavour: Any, make: Any, waiting: Any, maybe: Any) -> None:
    lock = make(options={"decode_responses": True})
    async with flavour.within(lock.read) as lease:
        assert lease.token.holder.startswith("readers:")
        running = await waiting(lock.write)
    await maybe((await running.result()).release())


@standalone
async def test_a_counter_that_is_no_number_refuses(flavour: Any, make: Any, maybe: Any, key: Any) -> None:
    lock = make()
    await maybe(lock.client.set(key("token"), "many"))
    for side in (lock.read, lock.write):
        with pytest.raises(StoreRefused, match="token counter"):
            await maybe(side.acquire(timeout=0))


@standalone
async def test_repr_says_what_it_is(make: Any) -> None:
    lock = make()
    assert repr(lock) == f"<ReadWriteLock {lock.name} ttl=60.0s>"
    assert repr(lock.read) == f"<ReadWriteLock {lock.name} read ttl=60.0s>"
    assert lock.read.name == lock.write.name == lock.name


@pytest.mark.parametrize("deployment", KINDS, indirect=True)
async def test_wherever_redis_is_deployed(
    flavour: Any, deployment: Any, maybe: Any, coordkit_namespace: str, key: Any
) -> None:
    """And over shards: all keys on one slot, each hand-off heard."""

    def lock() -> Any:
        return flavour.ReadWriteLock(deployment.redis(), f"{coordkit_namespace}:job", ttl=60)

    async def waiting(side: Any, number: int) -> Any:
        running = flavour.spawn(lambda: maybe(side.acquire(timeout=20)))

        async def queued() -> bool:
            return bool(await maybe(mine.write.client.zcard(key("queue"))) == number)

        await flavour.until(queued)
        return running

    mine = lock()
    held = await maybe(mine.write.acquire(timeout=0))
    running = [await waiting(side, n) for n, side in enumerate([lock().read, lock().read, lock().write], 1)]
    await maybe(held.release())
    readers = [await one.result() for one in running[:2]]
    assert readers[0].token == readers[1].token > held.token
    for lease in readers:
        assert await maybe(lease.release()) is True
    writer = await running[2].result()
    assert writer.token > readers[0].token
    assert await maybe(writer.release()) is True
