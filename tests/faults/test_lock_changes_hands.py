"""Breaking, handing over, adopting, several at once and again by the same, when things go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

import coordkit
from coordkit import LeaseLost, StoreRefused, StoreUnavailable
from coordkit.core import answer
from coordkit.testing.processes import start_redis

LOSSES = {
    "request": lambda proxy, _reply: proxy.drop_request_matching(b"EVALSHA"),
    "reply": lambda proxy, reply: proxy.drop_reply_matching(reply),
}
losses = pytest.mark.parametrize("lost", LOSSES)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what fails at once as that on a busy machine as well: it is asked again, and what is slow is not."""
    monkeypatch.setattr(answer, "_AT_ONCE", 5.0)


@pytest.fixture
def proxy(coordkit_faults: Any, coordkit_redis_server: Any) -> Any:
    return coordkit_faults.proxy(coordkit_redis_server)


@pytest.fixture
def through(flavour: Any, proxy: Any, coordkit_namespace: str) -> Any:
    """Give a lock whose client speaks through the proxy, to a server that knows every script."""
    return flavour.Lock(flavour.redis(proxy.url, socket_timeout=2), f"{coordkit_namespace}:job", ttl=60)


@pytest.fixture
def near(coordkit_redis: Any, through: Any) -> coordkit.Lock:
    """Give the same lock over a line that loses nothing; it has taught the server every script."""
    lock = coordkit.Lock(coordkit_redis, through.name, ttl=60)
    lock.adopt(lock.acquire().handover()).release()
    lock.break_lease()
    lock.holder()
    return lock


def lose(proxy: Any, lost: str, reply: bytes) -> Any:
    LOSSES[lost](proxy, reply)

    def hit() -> bool:
        return bool(proxy.hits[f"drop_{lost}_matching"] == 1)

    return hit


@losses
async def test_a_break_that_got_no_answer_evicts_once(
    flavour: Any, proxy: Any, through: Any, near: Any, maybe: Any, lost: str
) -> None:
    """Asked again it must not take the lock from the next, to whom it went by the first time."""
    held = near.acquire()
    got: list[coordkit.Lease] = []
    waiting = threading.Thread(target=lambda: got.append(near.acquire(timeout=20)))
    waiting.start()
    await flavour.until(lambda: len(near.waiters()) == 1)
    hit = lose(proxy, lost, b"*3\r\n:1\r\n")
    token = await maybe(through.break_lease())
    waiting.join(20)

    assert hit()
    assert held.token < token < got[0].token
    assert near.holder().id == got[0].holder
    got[0].renew()
    assert got[0].release() is True
    assert held.release() is False


@losses
async def test_a_handover_that_got_no_answer_is_asked_for_again(
    flavour: Any, proxy: Any, through: Any, near: Any, maybe: Any, lost: str
) -> None:
    lease = await maybe(through.acquire())
    hit = lose(proxy, lost, b":1")
    adopted = near.adopt(await maybe(lease.handover()))

    assert hit()
    assert adopted.token > lease.token
    assert adopted.release() is True


@losses
async def test_an_adoption_that_got_no_answer_is_the_adopters(
    flavour: Any, proxy: Any, through: Any, near: Any, maybe: Any, lost: str
) -> None:
    text = near.acquire().handover()
    hit = lose(proxy, lost, b":1\r\n")
    adopted = await maybe(through.adopt(text))

    assert hit()
    assert adopted.remaining() > 50
    assert near.holder().id == adopted.holder
    assert await maybe(adopted.release()) is True


@losses
async def test_a_look_that_got_no_answer_is_taken_again(
    flavour: Any, proxy: Any, through: Any, near: Any, maybe: Any, lost: str
) -> None:
    with near as lease:
        await maybe(through.remaining())
        hit = lose(proxy, lost, b"*4\r\n")
        assert (await maybe(through.holder())).id == lease.holder
        assert hit()


async def test_a_handover_without_an_answer_leaves_it_held(
    flavour: Any, proxy: Any, through: Any, near: Any, maybe: Any
) -> None:
    lease = await maybe(through.acquire())
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        await maybe(lease.handover())
    assert lease.ensure()


async def test_an_adoption_without_an_answer_is_given_back(flavour: Any, proxy: Any, near: Any, maybe: Any) -> None:
    """The server carried it out, the adopter was told nothing: nobody waits a whole ttl for that."""
    text = near.acquire().handover()
    lock = flavour.Lock(flavour.redis(proxy.url, socket_timeout=0.3), near.name, ttl=60)
    await maybe(lock.remaining())
    proxy.drop_replies = True
    with pytest.raises(StoreUnavailable):
        await maybe(lock.adopt(text))
    assert near.holder() is not None
    proxy.drop_replies = False

    await flavour.until(lambda: near.holder() is None)


async def test_all_or_none_without_an_answer(
    flavour: Any, proxy: Any, maybe: Any, coordkit_redis: Any, coordkit_namespace: str
) -> None:
    """The first is granted, then the line goes silent: what was granted is given back when it speaks again."""
    names = [f"{coordkit_namespace}:{name}" for name in "ab"]
    last = coordkit.Lock(coordkit_redis, names[1], ttl=60)
    client = flavour.redis(proxy.url, socket_timeout=0.3)
    several = flavour.MultiLock(client, names, ttl=60)
    with last:
        waiting = flavour.spawn(lambda: maybe(several.acquire(timeout=1)))
        await flavour.until(lambda: len(last.waiters()) == 1)
        proxy.drop_replies = True
    with pytest.raises(StoreUnavailable):
        await waiting.result(40)
    proxy.drop_replies = False

    await flavour.until(lambda: not coordkit_redis.exists(*(f"coordkit:1:{{{name}}}:lock" for name in names)))


async def test_a_break_needs_a_primary(flavour: Any, maybe: Any) -> None:
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        there = flavour.Lock(flavour.redis(primary.url), "job", ttl=10)
        here = flavour.Lock(flavour.redis(replica.url), "job", ttl=10)
        async with flavour.within(there) as lease:
            with pytest.raises(StoreRefused, match="read-only replica"):
                await maybe(here.break_lease())
            lease.ensure()


GIVER = """
import sys, time, redis, coordkit
lease = coordkit.Lock(redis.Redis.from_url(sys.argv[1]), "job", ttl=float(sys.argv[2])).acquire()
print(lease.handover(), flush=True)
time.sleep(60)
"""
TAKER = """
import sys, time, redis, coordkit
lease = coordkit.Lock(redis.Redis.from_url(sys.argv[1]), "job", ttl=float(sys.argv[2])).adopt(sys.argv[3])
print(lease.token, flush=True)
time.sleep(60)
"""


@contextmanager
def process(program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a program, and give it with the first line that it says."""
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


async def test_a_giver_that_is_killed_costs_nothing(flavour: Any, maybe: Any) -> None:
    with start_redis() as server, process(GIVER, server.url, "30") as (giver, text):
        giver.kill()
        lease = await maybe(flavour.Lock(flavour.redis(server.url), "job", ttl=10).adopt(text))
        assert lease.ensure()
        assert await maybe(lease.release()) is True


@pytest.mark.parametrize("dies", ["giver", "taker"])
async def test_a_lease_on_its_way_ends_with_its_ttl(flavour: Any, maybe: Any, dies: str) -> None:
    """Nobody adopts it, or who adopted it is killed: the next gets it, and the text is worth nothing."""
    with start_redis() as server, process(GIVER, server.url, "1" if dies == "giver" else "30") as (giver, text):
        lock = flavour.Lock(flavour.redis(server.url), "job", ttl=10)
        if dies == "taker":
            with process(TAKER, server.url, "1", text) as (_, token):
                assert int(token) > 0
        giver.kill()
        lease = await maybe(lock.acquire(timeout=20))
        with pytest.raises(LeaseLost, match="gone"):
            await maybe(lock.adopt(text))
        assert lease.ensure()
        assert await maybe(lease.release()) is True


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_at_no_level(coordkit_redis: Any, coordkit_namespace: str) -> None:
    """Nor does it hold several, nor hand over, what its parent holds; and what it ends is not its parent's."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=30, reentrant=True)
    several = coordkit.MultiLock(coordkit_redis, [f"{coordkit_namespace}:a", f"{coordkit_namespace}:b"], ttl=30)
    plain = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:plain", ttl=30)
    with lock as outer, lock as inner, several as all_of_them, plain as alone:

        def child() -> int:
            told = 0
            for ensure in (inner.ensure, all_of_them.ensure, alone.handover):
                try:
                    ensure()
                except LeaseLost as error:
                    told += "forked child" in str(error)
            ended = [inner.release(), outer.release(), all_of_them.release()]
            return 0 if told == 3 and not any(ended) and lock.try_acquire() is None else 1

        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                status = child()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for lease in (outer, inner, all_of_them, alone):
            lease.renew()


def test_a_renewal_on_its_way_does_not_follow_a_handover(coordkit_redis: redis.Redis, coordkit_namespace: str) -> None:
    """A renewal that was on its way when the lease went over neither brings it back nor loses it."""
    lock = coordkit.Lock(coordkit_redis, f"{coordkit_namespace}:job", ttl=0.9)
    taker = coordkit.Lock(coordkit_redis, lock.name, ttl=10)
    for _ in range(10):
        lease = lock.acquire()
        threading.Event().wait(0.285)  # the first renewal is due about now
        adopted = taker.adopt(lease.handover())
        assert not lease.lost
        adopted.renew()
        assert adopted.release() is True


async def test_an_adoption_wants_its_copies_too(flavour: Any, maybe: Any) -> None:
    """Not on as many replicas as asked: given back, and reported."""
    with start_redis() as server:
        client = flavour.redis(server.url)
        giver, taker = flavour.Lock(client, "job", ttl=30), flavour.Lock(client, "job", ttl=1, min_replicas=1)
        text = await maybe((await maybe(giver.acquire())).handover())
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas had it"):
            await maybe(taker.adopt(text))

        await flavour.until(lambda: _is_free(giver, maybe))


async def test_an_adoption_whose_copies_are_refused_is_given_back(flavour: Any, maybe: Any) -> None:
    """It was to be on the disk, of which this server says no: by then it had been adopted, and nobody had it."""
    with start_redis() as server:
        client = flavour.redis(server.url)
        giver, taker = flavour.Lock(client, "job", ttl=60), flavour.Lock(client, "job", ttl=60, fsync=True)
        text = await maybe((await maybe(giver.acquire())).handover())
        with pytest.raises(StoreRefused, match=r"WAITAOF needs|set `appendonly yes`"):
            await maybe(taker.adopt(text))

        await flavour.until(lambda: _is_free(giver, maybe))


async def _is_free(lock: Any, maybe: Any) -> bool:
    return await maybe(lock.holder()) is None
