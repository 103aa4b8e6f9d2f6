"""Side by side with redis-py's own lock on the same key, in both flavours: neither enters while the other is inside."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import redis.lock
from deployed import UNSHARDED
from redis.exceptions import LockError, LockNotOwnedError

from coordkit import AcquireTimeout, CrossShardError, LeaseLost, StoreRefused
from coordkit.testing import expire
from coordkit.testing.processes import start_redis

standalone = pytest.mark.parametrize("deployment", ["standalone"], indirect=True)
# Over shards there is no lock of redis-py's.
where_both_are = pytest.mark.parametrize("deployment", UNSHARDED, indirect=True)


@pytest.fixture
def make(flavour: Any, deployment: Any, coordkit_namespace: str) -> Any:
    """Give a function that makes ours."""

    def lock(name: str = "job", *, ttl: float = 10, **arguments: Any) -> Any:
        client = deployment.redis()
        return flavour.Lock(client, f"{coordkit_namespace}:{name}", ttl=ttl, compatible_with="redis-py", **arguments)

    return lock


@pytest.fixture
def theirs(deployment: Any) -> Any:
    """Give a function that makes redis-py's, of the same flavour, for the name of one of ours."""

    def lock(ours: Any, timeout: float | None = 10, **arguments: Any) -> Any:
        return deployment.redis().lock(ours.name, timeout=timeout, **arguments)

    return lock


@where_both_are
async def test_each_excludes_the_other(flavour: Any, make: Any, theirs: Any, maybe: Any) -> None:
    ours = make(ttl=60)
    other = theirs(ours, timeout=60)
    async with flavour.within(ours) as lease:
        assert ours.key == ours.name
        assert await maybe(other.acquire(blocking=False)) is False
        with pytest.raises(LockError):
            await maybe(other.release())
        assert await maybe(other.locked()) is True
        await maybe(lease.renew())
    assert await maybe(other.acquire(blocking=False)) is True
    assert await maybe(ours.try_acquire()) is None
    with pytest.raises(AcquireTimeout):
        await maybe(ours.acquire(timeout=0.1))
    assert await maybe(ours.remaining()) > 50
    assert (await maybe(ours.holder())).host is None
    await maybe(other.release())
    async with flavour.within(ours.hold(timeout=0)) as later:
        assert later.token > lease.token


@where_both_are
async def test_what_the_other_does_to_its_own_does_nothing_to_ours(
    flavour: Any, make: Any, theirs: Any, maybe: Any
) -> None:
    """Its lock expired, ours came; its extend, reacquire and release are told so. And the other way round."""
    ours = make(renew=False)
    late = theirs(ours)
    await maybe(late.acquire())
    await maybe(late.extend(5))
    await maybe(late.reacquire())
    await maybe(expire(ours))
    async with flavour.within(ours) as lease:
        for call in (lambda: late.extend(20), late.reacquire, late.release):
            with pytest.raises(LockNotOwnedError):
                await maybe(call())
        assert await maybe(ours.remaining()) <= 10
        await maybe(lease.renew())
    gone = await maybe(ours.acquire())
    await maybe(expire(ours))
    current = theirs(ours)
    await maybe(current.acquire())
    with pytest.raises(LeaseLost, match="no longer has it"):
        await maybe(gone.renew())
    assert await maybe(gone.release()) is False
    assert await maybe(current.owned()) is True
    await maybe(current.release())


@where_both_are
async def test_one_without_expiry(flavour: Any, make: Any, theirs: Any, maybe: Any) -> None:
    ours = make()
    other = theirs(ours, timeout=None)
    await maybe(other.acquire())
    with pytest.raises(AcquireTimeout, match="without expiry"):
        await maybe(ours.acquire(timeout=0.1))
    waiting = flavour.spawn(lambda: maybe(ours.acquire(timeout=20)))
    await flavour.sleep(0.2)
    await maybe(other.release())
    await maybe((await waiting.result()).release())
    await maybe(other.acquire())
    token = await maybe(ours.break_lease())  # its process is long dead

    async with flavour.within(ours.hold(timeout=0)) as lease:
        assert lease.token > token


@where_both_are
async def test_neither_starves_the_other(flavour: Any, make: Any, theirs: Any, maybe: Any) -> None:
    """A hand-off from one of ours to the next would never let those in that poll."""
    ours, turns, inside, most = make(), {"ours": 0, "theirs": 0}, [0], [0]

    async def work(kind: str, lock: Any) -> None:
        while min(turns.values()) < 5 and max(turns.values()) < 2000:
            async with flavour.within(lock):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                await flavour.sleep(0.001)
                inside[0] -= 1
                turns[kind] += 1
            await flavour.sleep(0.001)

    await flavour.gather(
        *(work("ours", ours) for _ in range(3)), *(work("theirs", theirs(ours, sleep=0.02)) for _ in range(3))
    )
    assert most == [1]
    assert min(turns.values()) >= 5
    assert await maybe(ours.client.exists(ours.name)) == 0


@where_both_are
async def test_it_is_renewed_and_tokens_rise_although_the_key_goes(
    flavour: Any, make: Any, theirs: Any, maybe: Any
) -> None:
    ours = make(ttl=4.5)
    tokens = []
    for _ in range(2):
        async with flavour.within(ours) as lease:
            if not tokens:
                await flavour.renewed(lease)
            assert await maybe(theirs(ours).acquire(blocking=False)) is False
            tokens.append(lease.token)
        async with flavour.within(theirs(ours)):
            pass

    assert tokens == sorted(set(tokens))


async def test_it_is_another_lock_than_the_one_of_its_own_kind(flavour: Any, make: Any, maybe: Any) -> None:
    ours = make()
    async with flavour.within(ours):
        own = flavour.Lock(ours.client, ours.name, ttl=10)
        async with flavour.within(own.hold(timeout=0)):
            pass


NAMES = ["job", "{user}:42", "a{user}b", "naïve", "a{b", "a{}b", "a}b"]


@standalone
@pytest.mark.parametrize("name", NAMES)
async def test_all_keys_of_a_name_lie_on_its_slot(flavour: Any, make: Any, maybe: Any, name: str) -> None:
    """But for a name with a brace that closes nothing: such a lock works, and is refused on a Cluster."""
    from redis.crc import key_slot

    ours = make(name)
    async with flavour.within(ours):
        keys = [key async for key in _scan(flavour, ours.client, maybe, "*redis-py*")]
    keys = [key for key in keys if key.endswith(ours.name.encode())]

    assert len(keys) == 1
    same = key_slot(keys[0]) == key_slot(ours.name.encode())
    assert same == (name not in ("a}b", "a{}b"))


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
async def test_a_name_on_two_slots_is_refused(flavour: Any, make: Any, theirs: Any, maybe: Any, name: str) -> None:
    """And all others exclude redis-py's."""
    ours = make(name)
    if name in ("a}b", "a{}b"):
        with pytest.raises(CrossShardError, match="hash tag"):
            await maybe(ours.try_acquire())
        return
    async with flavour.within(ours):
        assert await maybe(theirs(ours).acquire(blocking=False)) is False


async def _scan(flavour: Any, client: Any, maybe: Any, match: str) -> Any:
    for key in await maybe(client.keys(match)):
        yield key


WORKER = """
import sys, redis, coordkit
url, name, kind, turns = sys.argv[1:5]
client = redis.Redis.from_url(url)
if kind == "ours":
    lock = coordkit.Lock(client, name, ttl=5, compatible_with="redis-py")
else:
    lock = client.lock(name, timeout=5, sleep=0.005)
for _ in range(int(turns)):
    with lock:
        value = int(client.get("balance") or 0)
        client.set("balance", value + 1)
"""


def test_processes_of_both_kinds_count_right() -> None:
    with start_redis() as server:
        command = [sys.executable, "-c", WORKER, server.url, "job"]
        workers = [subprocess.Popen([*command, kind, "40"]) for kind in ("ours", "theirs") * 2]
        assert [worker.wait(60) for worker in workers] == [0] * 4
        with redis.Redis.from_url(server.url) as client:
            assert client.get("balance") == b"160"


def test_threads_of_one_process_share_it(coordkit_redis: Any, coordkit_namespace: str) -> None:
    import coordkit

    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=10, compatible_with="redis-py")
    count = [0]

    def work() -> None:
        for _ in range(10):
            with lock:
                seen = count[0]
                threading.Event().wait(0.0005)
                count[0] = seen + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count == [40]


@standalone
@pytest.mark.parametrize("single", [False, True])
async def test_a_token_of_theirs_that_is_no_text(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, single: bool
) -> None:
    """redis-py takes bytes as a token; a client that decodes has no text for them. That is an error of ours, too."""
    theirs = deployment.redis().lock(f"{coordkit_namespace}:job", timeout=10)
    assert await maybe(theirs.acquire(token=b"\xff\xfe\x01owner"))
    client = deployment.redis(decode_responses=True, single_connection_client=single)
    ours = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=10, compatible_with="redis-py")
    for act in (ours.try_acquire, ours.holder, lambda: ours.acquire(timeout=0.2)):
        with pytest.raises(StoreRefused, match="no text in the client's encoding, utf-8; give a client without"):
            await maybe(act())
    plain = flavour.Lock(deployment.redis(), f"{coordkit_namespace}:job", ttl=10, compatible_with="redis-py")
    assert await maybe(plain.try_acquire()) is None
    await maybe(theirs.release())
    async with flavour.within(ours):
        pass
