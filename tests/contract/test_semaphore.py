"""What a semaphore promises, in both flavours, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import deployed
from deployed import KINDS, UNSHARDED, Deployed

from coordkit import AcquireTimeout, LeaseLost, NotAcquired, StaleToken, StoreRefused
from coordkit._threads.runtime import now
from coordkit.core import waiting as core_waiting

# What takes seconds, or looks at nothing but the client, is shown on one server.
standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)


@pytest.fixture(params=UNSHARDED)
def deployment(request: pytest.FixtureRequest, flavour: Any) -> Deployed:
    """Give what is slower over shards only where a test asks for it: each shard is a server, and has its own tests."""
    return deployed(request, flavour)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes a semaphore on a client of its own."""

    def semaphore(permits: int = 2, *, ttl: float = 60, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        client = deployment.redis(**(options or {}))
        return flavour.Semaphore(client, f"{coordkit_namespace}:job", permits=permits, ttl=ttl, **arguments)

    return semaphore


@pytest.fixture
def key(coordkit_namespace: str) -> Any:
    return lambda part: f"coordkit:1:{{{coordkit_namespace}:job}}:semaphore:{part}"


@pytest.fixture
def waiting(flavour: Any, admin: Any, key: Any, maybe: Any) -> Any:
    """Give a way to have somebody wait for a permit, and to know that it stands in the queue."""

    async def wait(semaphore: Any, work: Any = None) -> Any:
        before = admin.zcard(key("queue"))

        async def acquire() -> Any:
            return await maybe(semaphore.acquire(timeout=20))

        running = flavour.spawn(work or acquire)
        await flavour.until(lambda: admin.zcard(key("queue")) == before + 1)
        return running

    return wait


async def test_n_hold_and_the_next_does_not(make: Any, maybe: Any, key: Any, admin: Any) -> None:
    """Each with a slot and a token of its own; when all are back nothing is left but the token's counter."""
    semaphore, other = make(3), make(3)
    leases = [await maybe(each.acquire(timeout=0)) for each in (semaphore, other, semaphore)]
    assert [lease.slot for lease in leases] == [0, 1, 2]
    assert [lease.token for lease in leases] == sorted({lease.token for lease in leases})
    assert all(lease.token.holder == lease.holder for lease in leases)
    assert await maybe(other.try_acquire()) is None
    with pytest.raises(NotAcquired, match=r"held by .* \(one of 3\)"):
        await maybe(other.acquire(timeout=0))

    assert await maybe(leases[1].release()) is True
    again = await maybe(other.try_acquire())
    assert again.slot == 1
    assert again.token > leases[2].token
    for lease in (leases[0], again, leases[2]):
        assert await maybe(lease.release()) is True
    assert await maybe(again.release()) is False
    assert list(admin.scan_iter(match=key("*").replace("{", "\\{"))) == [key("token").encode()]


async def test_only_a_semaphores_lease_has_a_slot(flavour: Any, make: Any, maybe: Any) -> None:
    semaphore = make(1)
    lock = flavour.Lock(semaphore.client, semaphore.name, ttl=10)
    async with flavour.within(lock) as plain, flavour.within(semaphore) as permit:
        assert plain.slot is None
        assert permit.slot == 0


async def test_a_permit_that_is_given_back_goes_to_the_first_with_its_slot(
    flavour: Any, make: Any, waiting: Any, maybe: Any
) -> None:
    semaphore = make(3)
    held = [await maybe(semaphore.acquire()) for _ in range(3)]
    running = [await waiting(make(3)) for _ in range(3)]
    slots = []
    for lease, one in zip((held[2], held[0], held[1]), running, strict=True):
        assert await maybe(lease.release()) is True
        assert await maybe(semaphore.try_acquire()) is None  # it was handed on in that very script
        got = await one.result()
        slots.append(got.slot)
        assert got.token > max(each.token for each in held)
        held.append(got)
    assert slots == [2, 0, 1]
    assert [each.token for each in held] == sorted({each.token for each in held})
    await flavour.until(lambda: min(each.remaining() for each in held[3:]) > 50)  # claims became whole leases
    for lease in held[3:]:
        await maybe(lease.release())


async def test_never_more_than_n_under_contention(flavour: Any, make: Any, maybe: Any) -> None:
    """And never two in one slot; each slot's tokens rise; all n are used."""
    inside: set[int] = set()
    most, last, shared = [0], {}, make(3)

    async def work() -> None:
        for _ in range(12):
            async with flavour.within(shared.hold(timeout=20)) as lease:
                assert lease.slot not in inside
                inside.add(lease.slot)
                most[0] = max(most[0], len(inside))
                assert lease.token > last.get(lease.slot, 0)
                last[lease.slot] = lease.token
                await flavour.sleep(0.002)
                inside.discard(lease.slot)

    await flavour.gather(*(work() for _ in range(8)))
    assert most == [3]
    assert sorted(last) == [0, 1, 2]


@standalone
async def test_fenced_per_slot(flavour: Any, make: Any, maybe: Any, coordkit_namespace: str) -> None:
    """Two successive holders of one slot: the late one is refused there, and nobody is at the other slot."""
    semaphore = make(2, ttl=1.0, renew=False)
    late, other = await maybe(semaphore.acquire()), await maybe(semaphore.acquire())

    def fence(lease: Any) -> Any:
        return flavour.Fence(semaphore.client, f"{coordkit_namespace}:licence-{lease.slot}")

    await maybe(fence(late).claim(token=late.token))
    await maybe(fence(other).claim(token=other.token))
    assert await maybe(late.lost.wait(10))
    assert await maybe(other.lost.wait(10))
    current = await maybe(semaphore.acquire(timeout=20))
    assert current.slot == late.slot
    await maybe(fence(current).claim(token=current.token))
    with pytest.raises(StaleToken):
        await maybe(fence(late).claim(token=late.token))
    await maybe(fence(other).claim(token=other.token))


async def test_expired_permits_are_used_again(make: Any, maybe: Any) -> None:
    """A list of free slots loses those of the dead; here their time is up by the server's clock."""
    semaphore = make(2)
    crashed = semaphore._contender.grantor
    gone = [await crashed.grant(holder, 0.3) for holder in ("one", "two")]
    assert await maybe(semaphore.try_acquire()) is None
    leases = [await maybe(semaphore.acquire(timeout=20)) for _ in range(2)]
    assert {lease.slot for lease in leases} == {0, 1}
    assert min(lease.token for lease in leases) > max(lease.token for lease in gone)
    assert (await crashed.revoke("one")).value == 0
    assert await maybe(semaphore.try_acquire()) is None
    for lease in leases:
        await maybe(lease.release())


@standalone
async def test_all_that_expired_is_handed_out_at_once(
    make: Any, waiting: Any, maybe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first who looks takes one, and hands the others on; each by itself would look a claim later."""
    monkeypatch.setattr(core_waiting, "CLAIM", 30.0)
    began = now()
    for holder in ("one", "two", "three", "four"):
        await make(4)._contender.grantor.grant(holder, 1.0)
    running = [await waiting(make(4)) for _ in range(4)]
    leases = [await one.result() for one in running]
    assert now() - began < 1.0 + 15
    assert {lease.slot for lease in leases} == {0, 1, 2, 3}
    for lease in leases:
        await maybe(lease.release())


@standalone
async def test_contenders_that_disagree_are_told(flavour: Any, make: Any, waiting: Any, maybe: Any) -> None:
    """While anybody holds or waits; the message names both numbers. Afterwards the new number is taken."""
    two, three = make(2), make(3)
    held = [await maybe(two.acquire()), await maybe(two.acquire())]
    running = await waiting(make(2))
    for ask in (three.try_acquire, lambda: three.acquire(timeout=5), lambda: make(1).acquire(timeout=0)):
        with pytest.raises(StoreRefused, match=r"permits=[13] was asked for.* use permits=2.*same number"):
            await maybe(ask())
    for lease in held:
        await maybe(lease.release())
    last = await running.result()
    with pytest.raises(StoreRefused, match="permits=2"):
        await maybe(three.try_acquire())
    await maybe(last.release())

    leases = [await maybe(three.acquire(timeout=0)) for _ in range(3)]
    assert leases[0].token > last.token
    with pytest.raises(StoreRefused, match="permits=3"):
        await maybe(two.try_acquire())
    for lease in leases:
        await maybe(lease.release())
    async with flavour.within(two.hold(timeout=0)):
        assert await maybe((await maybe(two.try_acquire())).release())
    fewer = make(1, ttl=1.0, renew=False)
    await maybe(fewer.acquire(timeout=0))
    await flavour.sleep(1.1)
    async with flavour.within(three.hold(timeout=0)):  # who held let it end
        pass


@pytest.mark.parametrize("timeout", [0.0005, 0.12])
async def test_a_timeout_is_kept(flavour: Any, make: Any, maybe: Any, timeout: float, key: Any) -> None:
    semaphore = make(1)
    async with flavour.within(semaphore) as lease:
        began = now()
        with pytest.raises(AcquireTimeout, match=lease.holder):
            await maybe(make(1).acquire(timeout=timeout))
        assert now() - began >= timeout
        assert not await maybe(semaphore.client.exists(key("queue")))


async def test_it_is_renewed_while_it_is_held(flavour: Any, make: Any, maybe: Any) -> None:
    semaphore = make(1, ttl=4.5)
    async with flavour.within(semaphore) as lease:
        await flavour.renewed(lease)
        assert 0 < lease.remaining() <= 4.5
        assert await maybe(semaphore.try_acquire()) is None


@standalone
@pytest.mark.parametrize("part", ["permits", "holders"])
async def test_a_renewal_never_makes_a_permit_again(make: Any, maybe: Any, part: str, key: Any) -> None:
    """Whichever of its keys was evicted, or when its time was up."""
    semaphore = make(1, renew=False)
    lease = await maybe(semaphore.acquire())
    await maybe(semaphore.client.delete(key(part)))
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(lease.renew())
    assert await maybe(lease.release()) is False
    assert await maybe(semaphore.client.zcount(key("permits"), 1, "+inf")) <= 1
    late = make(1, ttl=1.0, renew=False)
    await maybe(semaphore.client.delete(key("permits"), key("holders")))
    lost = await maybe(late.acquire())
    assert await maybe(lost.lost.wait(10))
    with pytest.raises(LeaseLost):
        await maybe(lost.renew())


async def test_losing_it_under_way_is_loud(flavour: Any, make: Any, maybe: Any, key: Any) -> None:
    semaphore = make(1, ttl=1.0)
    with pytest.raises(LeaseLost, match="no longer has it"):
        async with flavour.within(semaphore.hold()) as lease:
            await maybe(semaphore.client.delete(key("permits")))
            await (flavour.sleep(30) if flavour.is_async else maybe(lease.lost.wait(10)))


async def test_tokens_rise_although_the_server_forgets(flavour: Any, make: Any, maybe: Any, key: Any) -> None:
    semaphore = make(1)
    async with flavour.within(semaphore) as lease:
        before = lease.token
    await maybe(semaphore.client.delete(*(key(part) for part in ("permits", "holders", "token", "queue"))))
    async with flavour.within(semaphore) as lease:
        assert lease.token > before


@standalone
async def test_keys_of_the_dead_go_by_themselves(flavour: Any, make: Any, maybe: Any, key: Any) -> None:
    semaphore = make(2, ttl=5, renew=False)
    await maybe(semaphore.acquire())
    for part in ("permits", "holders"):
        assert 5_000 < await maybe(semaphore.client.pttl(key(part))) <= 6_000


@standalone
async def test_hold_decorates(flavour: Any, make: Any, maybe: Any) -> None:
    semaphore = make(1)
    if flavour.is_async:

        @semaphore.hold(timeout=0)
        async def job(x: int) -> Any:
            return x, await semaphore.try_acquire()

    else:

        @semaphore.hold(timeout=0)
        def job(x: int) -> Any:
            return x, semaphore.try_acquire()

    assert [await maybe(job(1)), await maybe(job(2))] == [(1, None), (2, None)]


@standalone
async def test_many_permits(make: Any, maybe: Any) -> None:
    """Asking costs the same whether there are three or a million."""
    semaphore = make(10**6)
    leases = [await maybe(semaphore.acquire(timeout=0)) for _ in range(50)]
    assert [lease.slot for lease in leases] == list(range(50))
    for lease in leases:
        await maybe(lease.release())


async def test_a_client_that_decodes(flavour: Any, make: Any, waiting: Any, maybe: Any) -> None:
    semaphore = make(1, options={"decode_responses": True})
    async with flavour.within(semaphore) as lease:
        assert lease.slot == 0
        running = await waiting(make(1, options={"decode_responses": True}))
    got = await running.result()
    assert got.slot == 0
    await maybe(got.release())


@standalone
async def test_a_counter_that_is_no_number_refuses(make: Any, maybe: Any, key: Any) -> None:
    semaphore = make()
    await maybe(semaphore.client.set(key("token"), "many"))
    with pytest.raises(StoreRefused, match="token counter"):
        await maybe(semaphore.acquire(timeout=0))


@standalone
async def test_repr_says_what_it_is(make: Any) -> None:
    semaphore = make(4)
    assert repr(semaphore) == f"<Semaphore {semaphore.name} permits=4 ttl=60.0s>"
    assert semaphore.permits == 4


@pytest.mark.parametrize("deployment", KINDS, indirect=True)
async def test_wherever_redis_is_deployed(
    flavour: Any, deployment: Any, maybe: Any, coordkit_namespace: str, key: Any
) -> None:
    """And over shards: all keys on one slot, each hand-off heard."""

    def semaphore() -> Any:
        return flavour.Semaphore(deployment.redis(), f"{coordkit_namespace}:job", permits=2, ttl=60)

    mine = semaphore()
    held = [await maybe(mine.acquire(timeout=0)) for _ in range(2)]
    running = flavour.spawn(lambda: maybe(semaphore().acquire(timeout=20)))

    async def queued() -> bool:
        return bool(await maybe(mine.client.zcard(key("queue"))) == 1)

    await flavour.until(queued)
    assert await maybe(held[1].release()) is True
    got = await running.result()
    assert got.slot == held[1].slot == 1
    assert got.token > held[1].token
    for lease in (held[0], got):
        assert await maybe(lease.release()) is True
