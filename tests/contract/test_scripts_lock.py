"""What the heads of a lock's scripts promise, each asked directly: both flavours send the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from asked import DAY, KEEP, TTL, Asked

from coordkit.core.lock import _ACQUIRE, _ADOPT, _BREAK, _HANDOVER, _RELEASE, _RENEW


class Lock(Asked):
    def __init__(self, client: redis.Redis, name: str) -> None:
        super().__init__(client, name, ("lock", "token", "queue"))
        self.lock = self.keys[0]

    def acquire(self, holder: str, entry: str = "", place: Any = "") -> Any:
        return self.run(_ACQUIRE, holder, TTL, KEEP, entry, place)

    def release(self, holder: str, entry: str = "") -> Any:
        return self.run(_RELEASE, holder, KEEP, entry)

    def renew(self, holder: str) -> Any:
        return self.run(_RENEW, holder, TTL, KEEP, keys=self.keys[:2])

    def prepare_handover(self, holder: str) -> Any:
        return self.run(_HANDOVER, holder, TTL, KEEP, keys=self.keys[:2])

    def adopt(self, before: str, holder: str) -> Any:
        return self.run(_ADOPT, before, holder, TTL, KEEP, keys=self.keys[:2])

    def break_(self, request: str, holder: str = "") -> Any:
        return self.run(_BREAK, KEEP, holder, keys=(*self.keys, f"{self.lock}:{request}"))

    def holder(self) -> str:
        return (self.client.get(self.lock) or b"").decode()


@pytest.fixture
def lock(coordkit_redis_server: Any, coordkit_namespace: str) -> Iterator[Lock]:
    with redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10) as client:
        lock = Lock(client, f"{coordkit_namespace}:lock")
        yield lock
        lock.close()


ASKS: dict[str, Callable[[Lock], Any]] = {
    "renewed": lambda lock: lock.renew("a"),
    "to be handed over": lambda lock: lock.prepare_handover("a"),
    "adopted": lambda lock: lock.adopt("a", "b"),
    "acquired anew": lambda lock: (lock.release("a"), lock.acquire("b")),
    "handed on": lambda lock: (lock.wait("b"), lock.release("a")),
    "broken": lambda lock: lock.break_(str(lock.now())),
}


@pytest.mark.parametrize("how", ASKS)
def test_the_counter_is_kept_as_long_as_was_asked_for(lock: Lock, how: str) -> None:
    """Without the counter the order of tokens rests on the clock alone; and it must not stay for ever either."""
    assert lock.acquire("a")[0] == 1
    for before in (1000, None):
        lock.client.persist(lock.counter) if before is None else lock.client.pexpire(lock.counter, before)
        ASKS[how](lock)
        assert lock.is_kept(lock.counter, KEEP)
        lock.client.delete(lock.lock)
        lock.acquire("a")


@pytest.mark.parametrize(
    "again",
    [
        lambda lock: lock.acquire("a")[0] == 1,
        lambda lock: lock.renew("a") == 1,
        lambda lock: lock.prepare_handover("a") > 0,
        lambda lock: lock.adopt("z", "a")[0] == 1,
        lambda lock: lock.adopt("a", "b")[0] == 1,
    ],
)
def test_whoever_has_it_gets_the_whole_ttl_anew(lock: Lock, again: Callable[[Lock], bool]) -> None:
    lock.acquire("a")
    lock.client.pexpire(lock.lock, 1000)
    assert again(lock)
    assert lock.is_kept(lock.lock, TTL)


def test_nobody_else_changes_what_is_held(lock: Lock) -> None:
    _, token = lock.acquire("a")
    assert lock.acquire("b")[:2] == [0, b"a"]
    assert lock.renew("b") == -1
    assert lock.prepare_handover("b") == -1
    assert lock.adopt("b", "c") == [-1]
    assert lock.release("b") == -1
    assert lock.break_("one", "b") == [0, b"a"]
    assert (lock.holder(), lock.last()) == ("a", int(token))
    lock.client.delete(lock.lock)
    assert (lock.renew("a"), lock.prepare_handover("a"), lock.adopt("a", "b"), lock.release("a")) == (0, 0, [0], 0)
    assert lock.break_("one", "a") == [0, b""]
    assert (lock.holder(), lock.last()) == ("", int(token))


def test_what_is_asked_twice_is_done_once(lock: Lock) -> None:
    first = [int(said) for said in lock.acquire("a")]
    assert [int(said) for said in lock.acquire("a")] == first
    adopted = [int(said) for said in lock.adopt("a", "b")]
    assert adopted[1] > first[1]
    assert [int(said) for said in lock.adopt("a", "b")] == adopted
    lock.wait("c")
    broken = lock.break_("one")
    assert (broken[0], broken[2], lock.holder()) == (1, 1000, "c")
    assert lock.break_("one") == broken[:2]
    assert lock.holder() == "c"
    assert lock.is_kept(f"{lock.lock}:one", 600_000)
    assert [said[0] for said in lock.told("c")] == ["grant"]


@pytest.mark.parametrize("how", ["acquired", "adopted"])
def test_a_counter_that_is_gone_is_made_anew_above_the_clock(lock: Lock, how: str) -> None:
    lock.acquire("a")
    lock.client.delete(lock.counter)
    floor = lock.now()
    said, token = lock.acquire("a") if how == "acquired" else lock.adopt("z", "a")
    assert said == 1
    assert int(token) == lock.last() > floor


@pytest.mark.parametrize("number", ["9007199254740991", "1e300", "nan", "many"])
def test_a_counter_without_room_or_sense_takes_nothing(lock: Lock, number: str) -> None:
    lock.client.set(lock.counter, number)
    with pytest.raises(redis.ResponseError, match="not a usable number"):
        lock.acquire("a")
    assert not lock.holder()
    lock.client.set(lock.lock, "a")
    for ask in (lambda: lock.adopt("a", "b"), lambda: lock.break_("one")):
        with pytest.raises(redis.ResponseError, match="not a usable number"):
            ask()
    assert lock.holder() == "a"
    lock.wait("b")
    assert lock.release("a") == 1  # given back, and handed on to nobody
    assert (lock.holder(), lock.told("b")) == ("", [])


@pytest.mark.parametrize("how", ["acquired", "adopted", "handed on", "broken"])
@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_each_token_is_above_the_last_and_above_the_clock(lock: Lock, how: str, ahead: int) -> None:
    lock.acquire("a")
    last, floor = lock.now() + ahead, lock.now()
    lock.client.set(lock.counter, last)
    if how == "acquired":
        lock.client.delete(lock.lock)
        token = int(lock.acquire("b")[1])
    elif how == "adopted":
        token = int(lock.adopt("a", "b")[1])
    elif how == "handed on":
        lock.wait("b")
        lock.release("a")
        token = int(lock.told("b")[0][1])
    else:
        token = int(lock.break_("one")[1])
    assert token == lock.last() == last + 1 if ahead > 0 else token == lock.last() > floor
    if how != "broken":
        assert lock.holder() == "b"


def test_what_is_no_queue_leaves_no_lock_behind(lock: Lock) -> None:
    lock.client.set(lock.queue, "no queue")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        lock.acquire("a")
    assert not lock.holder()


# -- those who wait


def test_nobody_passes_those_who_wait(lock: Lock) -> None:
    first, second = lock.wait("w1"), lock.wait("w2")
    assert lock.acquire("b")[:2] == [0, b"w1"]
    assert lock.acquire("w2", second, 2)[:2] == [0, b"w1"]
    assert lock.is_kept(lock.lock, 1000)
    assert lock.waiting() == [second] != [first]
    assert lock.told("w1")[0][:2] == ["grant", str(lock.last())]


def test_who_asks_at_its_own_place_is_granted_it_by_the_answer(lock: Lock) -> None:
    first, second = lock.wait("w1"), lock.wait("w2")
    assert lock.acquire("w1", first, 1)[0] == 1
    assert lock.is_kept(lock.lock, TTL)
    assert lock.told("w1") == []
    assert lock.waiting() == [second]


def test_who_was_handed_it_while_it_asked_gets_the_token_that_counts(lock: Lock) -> None:
    lock.acquire("a")
    before = lock.last()
    lock.client.delete(lock.lock)
    lock.wait("w1")
    said, token = lock.acquire("w1")  # it does not wait any more, but its entry is there yet
    assert said == 1
    assert int(token) == lock.last() > before


def test_who_is_granted_it_has_left_the_queue_with_all_its_entries(lock: Lock) -> None:
    """A waiter whose inbox moved has an old entry at the same place."""
    for held in (False, True):
        entry, old = lock.entry("a"), f"{lock.entry('a')}:before"
        lock.client.zadd(lock.queue, {entry: 7, old: 7})
        lock.client.delete(lock.lock)
        if held:
            lock.client.set(lock.lock, "a")
        assert lock.acquire("a", entry, 7)[0] == 1
        assert lock.waiting() == []


def test_a_place_is_kept_and_the_next_is_behind_it(lock: Lock) -> None:
    lock.acquire("a")
    lock.client.zadd(lock.queue, {lock.entry("early"): (late := lock.now() + DAY)})
    entry = lock.entry("w")
    _, _, _, at, place, ahead, heard = lock.acquire("w", entry)
    assert (int(place), ahead, heard) == (late + 1, 1, 0)
    assert lock.now() - 30_000_000 < int(at) <= lock.now()
    lock.listen("w")
    assert lock.acquire("w", entry)[4:] == [place, 1, 1]
    assert lock.acquire("w", entry, int(place) + 5)[4:] == [place, 1, 1]
    assert lock.acquire("w", f"{entry}:moved", place)[4:6] == [place, 1]
    assert lock.waiting() == [lock.entry("early"), f"{entry}:moved"]
    assert lock.is_kept(lock.queue, 3_600_000)


def test_what_is_given_back_goes_to_the_first_who_listens(lock: Lock) -> None:
    lock.acquire("a")
    for dead in ("d1", "d2"):
        lock.wait(dead, heard=False)
    lock.wait("w1")
    second = lock.wait("w2")
    assert lock.release("a") == [1, 1000]
    assert (lock.holder(), lock.waiting()) == ("w1", [second])
    assert lock.is_kept(lock.lock, 1000)
    (said, token, *_), *more = lock.told("w1")
    assert (said, int(token), more) == ("grant", lock.last(), [])
    assert lock.told("w2") == [["next", "1000"]]


def test_the_many_dead_of_one_process_are_passed_over(lock: Lock) -> None:
    lock.acquire("a")
    for i in range(250):
        lock.client.zadd(lock.queue, {f"x 1000 PUBLISH dead{i} {lock.name}:nobody": i - 1000})
    lock.wait("w1")
    assert lock.release("a") == [1, 1000]
    assert (lock.holder(), lock.waiting()) == ("w1", [])


def test_who_cannot_be_told_keeps_its_place(lock: Lock) -> None:
    """As where the user of who gives it back may not publish."""
    lock.acquire("a")
    first, second = lock.wait("w1", verb="FORBIDDEN"), lock.wait("w2")
    assert lock.release("a") == 1
    assert lock.waiting() == [first, second]
    assert lock.client.zscore(lock.queue, first) == 1
    assert not lock.holder()


def test_the_next_is_told_how_long_what_it_waits_for_has_yet(lock: Lock) -> None:
    lock.acquire("a")
    first, second = lock.wait("w1"), lock.wait("w2")
    assert lock.release("w1", first) == -1
    assert lock.waiting() == [second]
    [[said, ms]] = lock.told("w2")
    assert said == "next"
    assert TTL - 30_000 < int(ms) <= TTL
    lock.wait("w3")
    assert lock.release("w3", lock.waiting()[1]) == -1  # it was not first: nobody need know
    assert lock.told("w2") == []
    lock.client.persist(lock.lock)
    lock.wait("w4")
    assert lock.release("w2", second) == -1  # what never ends has no rest that could be told
    assert lock.told("w4") == []
    assert lock.holder() == "a"
