"""What the heads of a semaphore's scripts promise, each asked directly: both flavours send the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from asked import DAY, KEEP, TTL, Asked

from coordkit.core.semaphore import _ACQUIRE, _RELEASE, _RENEW


class Semaphore(Asked):
    def __init__(self, client: redis.Redis, name: str) -> None:
        super().__init__(client, name, ("permits", "holders", "token", "queue"))
        self.permits, self.holders = self.keys[:2]

    def acquire(self, holder: str, entry: str = "", place: Any = "", *, of: int = 2, ttl: int = TTL) -> Any:
        return self.run(_ACQUIRE, holder, ttl, KEEP, entry, place, of)

    def renew(self, holder: str) -> Any:
        return self.run(_RENEW, holder, TTL, KEEP)

    def release(self, holder: str, entry: str = "") -> Any:
        return self.run(_RELEASE, holder, KEEP, entry)

    def expire(self, slot: bytes) -> None:
        """Have the permit of a slot end, although nobody has taken it yet."""
        self.client.zadd(self.permits, {slot: self.now() - 1})


@pytest.fixture
def permits(coordkit_redis_server: Any, coordkit_namespace: str) -> Iterator[Semaphore]:
    with redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10) as client:
        permits = Semaphore(client, f"{coordkit_namespace}:semaphore")
        yield permits
        permits.close()


def test_whoever_holds_gets_the_whole_ttl_anew_and_keeps_the_counter(permits: Semaphore) -> None:
    granted = permits.acquire("a")
    for again, keeps in ((lambda: permits.acquire("a") == granted, False), (lambda: permits.renew("a") == 1, True)):
        permits.client.zadd(permits.permits, {granted[2]: permits.now() + 1_000_000})
        for key in (permits.permits, permits.holders, permits.counter):
            permits.client.pexpire(key, 900)
        assert again()
        ends = float(permits.client.zscore(permits.permits, granted[2])) - permits.now()
        assert (TTL - 30_000) * 1000 < ends <= TTL * 1000
        assert permits.is_kept(permits.permits, TTL + 1000)
        assert permits.is_kept(permits.holders, TTL + 1000)
        assert not keeps or permits.is_kept(permits.counter, KEEP)


def test_a_longer_lease_of_another_is_not_cut_short(permits: Semaphore) -> None:
    permits.acquire("a", ttl=10 * TTL)
    permits.acquire("b")
    for key in (permits.permits, permits.holders):
        assert permits.is_kept(key, 10 * TTL + 1000)


def test_whose_time_is_over_has_nothing_any_more(permits: Semaphore) -> None:
    _, token, slot = permits.acquire("a", of=1)
    permits.expire(slot)
    assert permits.renew("a") == 0
    assert permits.release("a") == 0
    assert permits.acquire("b", of=1)[0] == 1
    assert permits.renew("a") == 0
    assert permits.release("a") == 0
    assert permits.renew("b") == 1
    permits.expire(slot)
    anew = permits.acquire("a", of=1)  # by the same name, and yet another hold
    assert anew[2] == slot
    assert int(anew[1]) > int(token) + 1
    assert permits.renew("b") == 0
    assert permits.client.hkeys(permits.holders) == [b"#permits", b"a", b"#0"]


def test_a_slot_that_changed_hands_is_not_given_back_by_the_former(permits: Semaphore) -> None:
    _, _, slot = permits.acquire("a")
    permits.expire(slot)
    _, _, other = permits.acquire("b")
    assert other == slot
    assert permits.release("a") == 0
    assert permits.acquire("c")[0] == 1
    assert permits.acquire("d")[:2] == [0, b"b (one of 2)"]


def test_there_are_never_more_than_the_permits(permits: Semaphore) -> None:
    granted = [permits.acquire(holder, of=3) for holder in "abc"]
    assert sorted(slot for _, _, slot in granted) == [b"0", b"1", b"2"]
    assert len({token for _, token, _ in granted}) == 3
    assert permits.acquire("d", of=3)[0] == 0
    assert permits.release("b") == 1
    assert sorted(permits.client.hkeys(permits.holders)) == [b"#0", b"#2", b"#permits", b"a", b"c"]
    assert permits.acquire("d", of=3)[2] == granted[1][2]


def test_another_number_of_permits_is_refused_while_one_holds_or_waits(permits: Semaphore) -> None:
    permits.acquire("a")
    assert permits.acquire("b", of=3) == [-1, 2]
    permits.client.delete(permits.permits)
    waiting = permits.wait("w", "s", verb="FORBIDDEN")
    assert permits.acquire("b", of=3) == [-1, 2]
    assert permits.waiting() == [waiting]
    permits.client.delete(permits.queue)
    assert [permits.acquire(holder, of=3)[0] for holder in "bcd"] == [1, 1, 1]
    assert permits.acquire("e", of=3)[0] == 0
    assert permits.renew("a") == 0


def test_nothing_is_left_of_the_former_number_of_permits(permits: Semaphore) -> None:
    for slot in [permits.acquire(holder, of=3)[2] for holder in "abc"]:
        permits.expire(slot)
    _, _, slot = permits.acquire("x", of=2)
    assert sorted(permits.client.hkeys(permits.holders)) == [b"#" + slot, b"#permits", b"x"]
    assert permits.client.zrange(permits.permits, 0, -1) == [slot]


def test_fewer_permits_than_there_were_give_no_slot_beyond_them(permits: Semaphore) -> None:
    """What says how many there are was evicted, and slots of the former number are there yet."""
    slots = [permits.acquire(holder, of=3)[2] for holder in "abc"]
    permits.client.delete(permits.holders)
    for slot in slots:
        permits.expire(slot)
    assert [permits.acquire(holder, of=1)[::2] for holder in "x"] == [[1, b"0"]]
    assert permits.acquire("y", of=1)[0] == 0


def test_what_is_given_back_goes_to_the_first_with_its_slot(permits: Semaphore) -> None:
    granted = [permits.acquire(holder) for holder in "ab"]
    permits.wait("w1", "s")
    second = permits.wait("w2", "s")
    assert permits.acquire("x")[0] == 0
    assert permits.release("b") == [1, 1000]
    [[said, token, _, slot]] = permits.told("w1")
    assert (said, slot) == ("grant", granted[1][2].decode())
    assert int(token) == permits.last()
    assert permits.is_kept(permits.counter, KEEP)
    assert permits.waiting() == [second]
    assert permits.acquire("w1")[1:] == [token.encode(), slot.encode()]


def test_all_that_is_free_is_handed_on_each_with_a_token_of_its_own(permits: Semaphore) -> None:
    slots = [permits.acquire(holder)[2] for holder in "ab"]
    for holder in ("w1", "w2", "w3"):
        permits.wait(holder, "s")
    for slot in slots:
        permits.expire(slot)
    permits.client.set(permits.counter, last := permits.now() + DAY)
    assert permits.acquire("x")[0] == 0
    grants = [permits.told(holder)[0] for holder in ("w1", "w2")]
    assert [int(token) for _, token, _, _ in grants] == [last + 1, last + 2]
    assert len({slot for *_, slot in grants}) == 2
    assert permits.told("w3") == [["next", "1000"]]
    assert permits.last() == last + 2


def test_who_is_granted_one_sees_to_those_behind_it(permits: Semaphore) -> None:
    first = permits.wait("w1", "s")
    permits.wait("w2", "s")
    third = permits.wait("w3", "s")
    assert permits.acquire("w1", first, 1)[0] == 1
    assert permits.told("w1") == []
    assert permits.told("w2")[0][0] == "grant"
    assert permits.waiting() == [third]
    [said, ms], *more = permits.told("w3")[-1:]
    assert (said, more) == ("next", [])
    assert 0 < int(ms) <= 1000


def test_who_is_granted_the_last_one_tells_the_next_when_one_ends(permits: Semaphore) -> None:
    """The next has relied on who was before it to look."""
    permits.acquire("a", ttl=TTL // 2)
    first, _ = permits.wait("w1", "s"), permits.wait("w2", "s")
    assert permits.acquire("w1", first, 1)[0] == 1
    [[said, ms]] = permits.told("w2")
    assert said == "next"
    assert 0 < int(ms) <= TTL // 2


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_each_token_is_above_the_last_and_above_the_clock(permits: Semaphore, ahead: int) -> None:
    last, floor = permits.now() + ahead, permits.now()
    permits.client.set(permits.counter, last)
    token = int(permits.acquire("a")[1])
    assert token == permits.last()
    assert token == last + 1 if ahead > 0 else token > floor
    permits.client.set(permits.counter, last)
    permits.acquire("b")
    permits.wait("w", "s")
    permits.client.set(permits.counter, last)
    permits.release("a")
    token = int(permits.told("w")[0][1])
    assert token == permits.last()
    assert token == last + 1 if ahead > 0 else token > floor


def test_the_next_is_told_how_long_what_it_waits_for_has_yet(permits: Semaphore) -> None:
    permits.acquire("a", of=1)
    first, _ = permits.wait("w1", "s"), permits.wait("w2", "s")
    assert permits.release("w1", first) == 0
    [[said, ms]] = permits.told("w2")
    assert said == "next"
    assert TTL - 30_000 < int(ms) <= TTL


def test_the_last_leaves_nothing_behind_but_the_counter(permits: Semaphore) -> None:
    permits.acquire("a")
    permits.acquire("b")
    assert permits.release("a") == 1
    assert permits.client.exists(permits.permits, permits.holders) == 2
    waiting = permits.wait("w", "s", verb="FORBIDDEN")
    assert permits.release("b") == 1
    assert permits.client.hget(permits.holders, "#permits") == b"2"  # for who waits
    assert permits.waiting() == [waiting]
    permits.client.delete(permits.queue)
    assert permits.acquire("a")[0] == 1
    assert permits.release("a") == 1
    assert permits.client.exists(*permits.keys) == 1
    assert permits.last()
