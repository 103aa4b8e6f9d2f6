"""What the heads of a readers-writer lock's scripts promise, each asked directly: both flavours send the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from asked import DAY, KEEP, TTL, Asked

from coordkit.core.rwlock import _READ, _RELEASE, _RENEW, _WRITE


class RWLock(Asked):
    def __init__(self, client: redis.Redis, name: str) -> None:
        super().__init__(client, name, ("writer", "readers", "token", "queue"))
        self.writer, self.readers = self.keys[:2]

    def read(self, holder: str, entry: str = "", place: Any = "", ttl: int = TTL) -> Any:
        return self.run(_READ, holder, ttl, KEEP, entry, place)

    def write(self, holder: str, entry: str = "", place: Any = "") -> Any:
        return self.run(_WRITE, holder, TTL, KEEP, entry, place)

    def renew(self, holder: str) -> Any:
        return self.run(_RENEW, holder, TTL, KEEP)

    def release(self, holder: str, entry: str = "") -> Any:
        return self.run(_RELEASE, holder, KEEP, entry)

    def enter(self, mode: str, holder: str) -> Any:
        return self.read(holder) if mode == "r" else self.write(holder)

    def reading(self) -> list[str]:
        return [holder.decode() for holder in self.client.zrange(self.readers, 0, -1)]

    def writing(self) -> str:
        return (self.client.get(self.writer) or b"").decode()

    def ends(self, holder: str) -> float:
        """Return in how many ms a reader's lease ends."""
        return (float(self.client.zscore(self.readers, holder) or 0) - self.now()) / 1000

    def expire(self, holder: str) -> None:
        """Have a reader's lease end, although nobody has put it out yet."""
        self.client.zadd(self.readers, {holder: self.now() - 1})


@pytest.fixture
def lock(coordkit_redis_server: Any, coordkit_namespace: str) -> Iterator[RWLock]:
    with redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10) as client:
        lock = RWLock(client, f"{coordkit_namespace}:rw")
        yield lock
        lock.close()


@pytest.mark.parametrize("mode", ["r", "w"])
def test_whoever_is_in_gets_the_whole_ttl_anew_and_keeps_the_counter(lock: RWLock, mode: str) -> None:
    granted = lock.enter(mode, "a")
    for again in (lambda: lock.enter(mode, "a") == granted, lambda: lock.renew("a") == 1):
        lock.client.pexpire(lock.counter, 1000)
        if mode == "r":
            lock.client.zadd(lock.readers, {"a": lock.now() + 1_000_000})
            lock.client.pexpire(lock.readers, 1000)
        else:
            lock.client.pexpire(lock.writer, 1000)
        assert again()
        if mode == "r":
            assert TTL - 30_000 < lock.ends("a") <= TTL
            assert lock.is_kept(lock.readers, TTL + 1000)
        else:
            assert lock.is_kept(lock.writer, TTL)
    assert lock.is_kept(lock.counter, KEEP)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_who_is_out_is_never_let_in_again(lock: RWLock, mode: str) -> None:
    lock.enter(mode, "a")
    if mode == "r":
        lock.expire("a")
    else:
        lock.client.delete(lock.writer)
    assert lock.renew("a") == 0
    assert lock.release("a") == 0
    assert lock.write("b")[0] == 1
    assert lock.renew("a") == lock.release("a") == -1
    assert (lock.writing(), lock.reading()) == ("b", [])


def test_a_reader_whose_time_is_over_keeps_nobody_out(lock: RWLock) -> None:
    first = lock.read("a")
    lock.expire("a")
    _, token, by = lock.read("b")  # of another phase
    assert int(token) > int(first[1])
    assert by == b"readers:" + token
    assert lock.reading() == ["b"]
    lock.expire("b")
    assert lock.write("c")[0] == 1


def test_a_longer_lease_of_another_reader_is_not_cut_short(lock: RWLock) -> None:
    lock.read("a", ttl=10 * TTL)
    lock.read("b")
    assert lock.is_kept(lock.readers, 10 * TTL + 1000)


def test_who_was_handed_it_once_is_not_let_in_twice(lock: RWLock) -> None:
    lock.write("a")
    entries = [lock.wait(holder, mode) for holder, mode in (("w1", "w"), ("w2", "w"), ("r1", "r"))]
    assert lock.release("a") == [1, 1000]
    assert (lock.writing(), lock.reading(), lock.waiting()) == ("w1", [], entries[1:])
    assert lock.release("w1") == [1, 1000]
    assert (lock.writing(), lock.reading()) == ("w2", [])
    assert lock.release("w2") == [1, 1000]
    assert (lock.writing(), lock.reading()) == ("", ["r1"])
    tokens = [int(lock.told(holder)[-1][1]) for holder in ("w1", "w2", "r1")]
    assert tokens == sorted(set(tokens))
    assert lock.last() == tokens[-1]
    assert lock.is_kept(lock.counter, KEEP)


def test_a_writer_that_was_handed_it_has_it_for_a_claim_only(lock: RWLock) -> None:
    lock.read("a")
    lock.wait("w", "w")
    lock.release("a")
    assert lock.is_kept(lock.writer, 1000)
    assert lock.last() == int(lock.told("w")[0][1])
    assert lock.is_kept(lock.counter, KEEP)


def test_readers_up_to_the_next_writer_come_along(lock: RWLock) -> None:
    lock.write("a")
    for holder, mode in (("r1", "r"), ("r2", "r"), ("w1", "w"), ("r3", "r")):
        lock.wait(holder, mode)
    assert lock.release("a") == [1, 1000]
    assert (lock.reading(), lock.writing()) == (["r1", "r2"], "")
    assert lock.told("r1")[0][1] == lock.told("r2")[0][1]
    assert lock.told("w1") == [["next", "1000"]]
    assert lock.told("r3") == []
    assert lock.write("b")[0] == lock.read("c")[0] == 0


def test_a_reader_that_asks_takes_the_readers_behind_it_along(lock: RWLock) -> None:
    first = lock.wait("r1", "r")
    lock.wait("r2", "r")
    assert lock.read("r1", first, 1)[0] == 1
    assert (lock.reading(), lock.waiting()) == (["r2", "r1"], [])
    assert lock.told("r1") == []
    assert lock.told("r2")[0][:2] == ["grant", str(lock.last())]


@pytest.mark.parametrize("mode", ["r", "w"])
def test_those_ahead_are_let_in_first(lock: RWLock, mode: str) -> None:
    lock.wait("w1", "w")
    entry = lock.wait("x", mode)
    assert lock.run(_READ if mode == "r" else _WRITE, "x", TTL, KEEP, entry, 2)[:2] == [0, b"w1"]
    assert (lock.writing(), lock.waiting()) == ("w1", [entry])


@pytest.mark.parametrize("mode", ["r", "w"])
def test_who_is_let_in_has_left_the_queue(lock: RWLock, mode: str) -> None:
    for _ in range(2):  # also who asks once more
        entry = lock.entry("a", mode)
        lock.client.zadd(lock.queue, {entry: 5})
        script = _READ if mode == "r" else _WRITE
        assert lock.run(script, "a", TTL, KEEP, entry, 5)[0] == 1
        assert lock.waiting() == []


def test_dead_writers_keep_no_reader_from_those_who_read(lock: RWLock) -> None:
    lock.read("a")
    lock.wait("dead1", "w", heard=False)
    lock.wait("dead2", "w", heard=False)
    assert lock.read("b")[0] == 1
    assert lock.waiting() == []
    living = lock.wait("w", "w")
    assert lock.read("c")[0] == 0
    assert lock.waiting() == [living]
    assert lock.read("a")[0] == 1  # who is in already is asked nothing


@pytest.mark.parametrize("ahead", [DAY, -DAY])
@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("handed", [False, True])
def test_each_token_is_above_the_last_and_above_the_clock(lock: RWLock, ahead: int, mode: str, handed: bool) -> None:
    lock.write("a")
    last, floor = lock.now() + ahead, lock.now()
    lock.client.set(lock.counter, last)
    if handed:
        lock.wait("b", mode)
        lock.release("a")
        token = int(lock.told("b")[0][1])
    else:
        lock.release("a")
        token = int(lock.enter(mode, "b")[1])
    assert token == lock.last()
    assert token == last + 1 if ahead > 0 else token > floor


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_counter_that_is_gone_is_made_anew_above_the_clock(lock: RWLock, mode: str) -> None:
    lock.enter(mode, "a")
    lock.client.delete(lock.counter)
    floor = lock.now()
    said, token, *_ = lock.enter(mode, "a")
    assert said == 1
    assert int(token) == lock.last() > floor


def test_the_reader_that_stays_longest_leaves_and_who_waits_is_told(lock: RWLock) -> None:
    lock.read("long", ttl=10 * TTL)
    lock.read("short")
    lock.wait("w", "w")
    assert lock.release("long") == 1
    [[said, ms]] = lock.told("w")
    assert said == "next"
    assert TTL - 30_000 < int(ms) <= TTL
    assert lock.read("x", ttl=TTL // 2)[0] == 0
    lock.client.zadd(lock.readers, {"y": lock.now() + 1000 * TTL // 2})
    assert lock.release("y") == 1  # it would not have stayed longest
    assert lock.told("w") == []


@pytest.mark.parametrize("mode", ["r", "w"])
def test_the_next_is_told_how_long_what_it_waits_for_has_yet(lock: RWLock, mode: str) -> None:
    lock.enter(mode, "a")
    first, _ = lock.wait("w1", "w"), lock.wait("w2", "w")
    assert lock.release("w1", first) == (0 if mode == "r" else -1)
    [[said, ms]] = lock.told("w2")
    assert said == "next"
    assert TTL - 30_000 < int(ms) <= TTL
