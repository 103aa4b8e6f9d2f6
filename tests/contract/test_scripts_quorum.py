"""What the heads of a quorum lock's scripts promise of one instance, each asked directly: both flavours send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from coordkit._ports import Script
from coordkit.core.quorum import _CONFIRM, _RELEASE, _VOTE
from coordkit.core.quorum_set import _LOOK, _SEAT, _TELL

TTL, KEEP = 60_000, 600_000
PARTS = ("vote", "ballot", "roster", "highest", "floor", "ticket", "born")


class Instance:
    """One of a set, under keys of its own, so that it is nobody else's."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client = client
        self.keys = {part: f"coordkit:1:{{{name}}}:{part}" for part in PARTS}

    def run(self, script: Script, parts: str, *args: Any) -> Any:
        keys = [self.keys[part] for part in parts.split()]
        return self.client.eval(script.source, len(keys), *keys, *args)

    def vote(self, attempt: str, hint: int = 0, roster: str = "5 6 7") -> Any:
        return self.run(_VOTE, "vote ballot roster highest floor", attempt, TTL, roster, hint, KEEP)

    def confirm(self, attempt: str, token: int, roster: str = "5 6 7") -> Any:
        return self.run(_CONFIRM, "vote ballot roster highest floor", attempt, TTL, roster, token, KEEP)

    def release(self, attempt: str, token: int = 0) -> Any:
        return self.run(_RELEASE, "vote ballot highest", attempt, token, KEEP)

    def look(self, least: int = 0) -> list[str]:
        return [each.decode() for each in self.run(_LOOK, "ticket born roster highest floor", least)]

    def seat(self, number: str, roster: str, floor: int) -> Any:
        return self.run(_SEAT, "ticket born roster highest floor", roster, number, floor)

    def tell(self, roster: str, seat: int) -> Any:
        return self.run(_TELL, "born roster highest floor", roster, seat)

    def put(self, **values: Any) -> None:
        for part, value in values.items():
            self.client.set(self.keys[part], value)

    def forget(self, part: str) -> None:
        self.client.delete(self.keys[part])

    def has(self, part: str) -> str:
        return (self.client.get(self.keys[part]) or b"").decode()

    def is_kept(self, part: str, ms: int) -> bool:
        return ms - 30_000 < self.client.pttl(self.keys[part]) <= ms

    def now(self) -> int:
        seconds, more = self.client.time()
        return int(seconds) * 1_000_000 + int(more)


@pytest.fixture
def instance(coordkit_redis_server: Any, coordkit_namespace: str) -> Iterator[Instance]:
    with redis.Redis.from_url(coordkit_redis_server.url, socket_timeout=10) as client:
        instance = Instance(client, f"{coordkit_namespace}:quorum")
        instance.put(roster="5 6 7", highest=100, floor=100, born=6)
        yield instance


def test_a_vote_is_given_once_and_its_ballots_rise(instance: Instance) -> None:
    assert instance.vote("a/1") == [1, b"101"]
    assert instance.is_kept("vote", TTL)
    assert instance.is_kept("ballot", KEEP)
    instance.client.pexpire(instance.keys["vote"], 1000)
    assert instance.vote("a/1") == [1, b"101"]
    assert instance.is_kept("vote", TTL)
    refused, attempt, left, ballot = instance.vote("b/1")
    assert (refused, attempt, ballot) == (0, b"a/1", b"101")
    assert TTL - 30_000 < left <= TTL
    assert instance.has("highest") == "101"
    instance.forget("vote")
    assert instance.vote("b/1") == [1, b"102"]


def test_a_ballot_is_above_each_floor_there_is(instance: Instance) -> None:
    """Of a name that has none it is the highest of any name; else its own; never below the instance's floor."""
    instance.put(highest=300, floor=200)
    assert instance.vote("a/1") == [1, b"301"]
    instance.forget("vote")
    instance.put(ballot=7)
    assert instance.vote("a/1") == [1, b"201"]
    assert instance.has("highest") == "301"
    instance.forget("vote")
    assert instance.vote("a/1", 1_000) == [1, b"1000"]
    assert instance.has("highest") == "1000"


def test_a_hint_counts_unless_it_is_of_a_clock_that_is_wrong_by_days(instance: Instance) -> None:
    hint = instance.now() + 60_000_000
    assert instance.vote("a/1", hint) == [1, str(hint).encode()]
    instance.forget("vote")
    assert instance.vote("a/1", hint + 2 * 86_400_000_000) == [1, str(hint + 1).encode()]


@pytest.mark.parametrize("part", ["roster", "highest", "floor"])
def test_who_lost_state_votes_for_nobody(instance: Instance, part: str) -> None:
    assert instance.vote("a/1")[0] == 1
    instance.forget(part)
    assert instance.vote("a/1") == [-1, b""]
    assert instance.confirm("a/1", 200) == -1
    assert instance.tell("5 6 8", 2) == [-1]
    assert instance.look()[2] == ""
    instance.forget("vote")
    assert instance.vote("b/1") == [-1, b""]
    assert instance.has("vote") == ""


def test_the_ballot_of_a_vote_that_stands_is_missed(instance: Instance) -> None:
    instance.vote("a/1")
    instance.forget("ballot")
    assert instance.vote("a/1") == [-1, b""]
    assert instance.confirm("a/1", 200) == 0
    assert instance.vote("b/1")[0] == 0


def test_no_vote_by_another_roster(instance: Instance) -> None:
    assert instance.vote("a/1", roster="5 6 8") == [-1, b"5 6 7"]
    assert instance.has("vote") == ""
    instance.vote("a/1")
    assert instance.confirm("a/1", 200, roster="5 6 8") == -1


@pytest.mark.parametrize("part", ["ballot", "highest"])
@pytest.mark.parametrize("number", ["9007199254740991", "nan"])
def test_numbers_without_room_or_sense_give_no_vote(instance: Instance, part: str, number: str) -> None:
    instance.put(**{part: number})
    with pytest.raises(redis.ResponseError, match="not a usable number"):
        instance.vote("a/1")
    assert instance.has("vote") == ""


def test_a_token_is_confirmed_for_who_has_the_vote_yet(instance: Instance) -> None:
    instance.vote("a/1")
    instance.client.pexpire(instance.keys["vote"], 1000)
    instance.client.pexpire(instance.keys["ballot"], 1000)
    assert instance.confirm("a/1", 150) == 1
    assert (instance.has("ballot"), instance.has("highest")) == ("150", "150")
    assert instance.is_kept("vote", TTL)
    assert instance.is_kept("ballot", KEEP)
    assert instance.confirm("a/1", 150) == 1
    assert instance.confirm("b/1", 200) == 0
    assert instance.confirm("a/1", 149) == 0  # by a ballot of a later hold
    assert (instance.has("ballot"), instance.has("highest")) == ("150", "150")
    instance.put(highest=500)
    assert instance.confirm("a/1", 160) == 1
    assert instance.has("highest") == "500"
    instance.forget("vote")
    assert instance.confirm("a/1", 170) == 0
    assert instance.has("ballot") == "160"


def test_a_vote_is_given_back_by_who_has_it(instance: Instance) -> None:
    instance.vote("a/12")
    for other in ("b/1", "b/", "a/1", "a"):
        assert instance.release(other) == -1
    assert instance.has("vote") == "a/12"
    assert instance.release("a/12") == 1
    assert instance.release("a/12") == 0
    instance.vote("a/13")
    assert instance.release("a/") == 1  # every attempt of one acquisition
    assert instance.has("vote") == ""


def test_who_gives_back_levels_the_ballots(instance: Instance) -> None:
    instance.vote("a/1")
    assert instance.release("a/1", 150) == 1
    assert (instance.has("ballot"), instance.has("highest")) == ("150", "150")
    assert instance.is_kept("ballot", KEEP)
    instance.put(highest=500)
    instance.vote("a/2")
    assert instance.release("a/2", 160) == 1
    assert (instance.has("ballot"), instance.has("highest")) == ("160", "500")
    instance.vote("a/3")
    assert instance.release("a/3", 120) == 1  # nothing falls
    assert instance.has("ballot") == "161"
    instance.vote("a/4")
    instance.forget("highest")
    assert instance.release("a/4", 900) == 1  # nor is made again where it was lost
    assert (instance.has("ballot"), instance.has("highest")) == ("162", "")


def test_a_seat_is_taken_once_by_the_number_that_was_drawn(instance: Instance) -> None:
    for part in ("born", "roster", "highest", "floor"):
        instance.forget(part)
    floor = instance.now()
    ticket = instance.look(5)[0]
    assert int(ticket) > floor
    assert instance.look(5)[0] == instance.look()[0] == ticket  # it names the instance since it last forgot
    assert instance.seat("7", "5 6 7", 400) == 0
    assert instance.look()[1:4] == ["", "", ""]
    assert instance.seat(ticket, f"5 {ticket} 7", 400) == 1
    assert instance.look()[:4] == ["", ticket, f"5 {ticket} 7", "400"]
    assert instance.has("floor") == "400"
    assert instance.seat(ticket, f"5 {ticket} 7", 900) == 0  # a request that comes twice, or late
    assert instance.has("floor") == "400"


def test_a_ticket_is_as_high_as_was_asked_for(instance: Instance) -> None:
    least = instance.now() + 86_400_000_000
    instance.put(ticket=least - 1)
    assert instance.look(least)[0] == str(least)
    assert instance.look(0)[0] == str(least)


def test_a_seat_never_lowers_the_highest_ballot(instance: Instance) -> None:
    instance.put(highest=700)
    ticket = instance.look(5)[0]
    assert instance.seat(ticket, "5 6 7", 400) == 1
    assert (instance.has("highest"), instance.has("floor")) == ("700", "700")


@pytest.mark.parametrize(
    ("roster", "answer"),
    [
        ("5 6 7", [1, b"100"]),
        ("5 6 8", [1, b"100"]),
        ("9 6 8", [1, b"100"]),
        ("4 6 9", [0, b"5 6 7"]),  # older in a seat
        ("5 8 7", [0, b"5 6 7"]),  # another sits in ours
        ("5 6", [0, b"5 6 7"]),
        ("5 6 7 8", [0, b"5 6 7"]),
    ],
)
def test_a_newer_roster_is_taken_over_and_no_other(instance: Instance, roster: str, answer: list[Any]) -> None:
    assert instance.tell(roster, 2) == answer
    assert instance.has("roster") == (roster if answer[0] == 1 else "5 6 7")
    instance.forget("born")
    assert instance.tell(roster, 2) == [-1]
