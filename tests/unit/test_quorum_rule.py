"""The pure parts of the quorum lock: when a ballot is a token, how rosters join, what a majority says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from coordkit._ports import Call, Enough, Script
from coordkit._run import run
from coordkit.core.ballot import SecondRound, agreed, may_yet_agree, to_confirm
from coordkit.core.majority import Majority
from coordkit.core.roster import Roster
from coordkit.errors import CoordError, NoQuorum, StoreUnavailable

CALL = Call(Script("ask", "", ""), (), ())


@pytest.mark.parametrize(
    ("won", "majority", "token"),
    [
        ({}, 2, None),
        ({0: 5}, 2, None),
        ({0: 5, 2: 5}, 2, 5),
        ({0: 5, 1: 6}, 2, None),
        ({0: 5, 1: 9, 2: 5}, 2, 5),  # a higher ballot elsewhere was never a token
        ({0: 5, 1: 6, 2: 7, 3: 7, 4: 6}, 3, None),
        ({0: 5, 1: 7, 2: 7, 3: 7, 4: 6}, 3, 7),
    ],
)
def test_what_a_majority_agrees_on_is_the_token(won: dict[int, int], majority: int, token: int | None) -> None:
    assert agreed(won, majority) == token


def test_the_highest_is_confirmed_where_it_is_not() -> None:
    assert to_confirm({0: 5}, 2) is None
    assert to_confirm({0: 5, 2: 6}, 2) == SecondRound(token=6, agreed=1, at=(0,))
    assert to_confirm({0: 7, 1: 6, 2: 7, 4: 5}, 3) == SecondRound(token=7, agreed=2, at=(1, 4))


def test_waiting_for_agreement_makes_sense_while_it_can_come() -> None:
    assert may_yet_agree({0: 5, 1: 5, 2: 6}, 3, pending=1)
    assert not may_yet_agree({0: 5, 1: 6, 2: 7}, 3, pending=1)


def test_rosters_join_seat_by_seat() -> None:
    first = Roster(0, (10, 20, 30))
    one, other = first.with_seat(0, 15), first.with_seat(2, 35)

    assert one.joined(other) == other.joined(one) == Roster(1, (15, 20, 35))
    assert Roster.read(str(one)) == one
    assert Roster.read("") is None
    assert Roster.read("a:b") is None


class Panel:
    """Answers that are known beforehand, in this order."""

    def __init__(self, *answers: list[Any] | CoordError | None) -> None:
        self.answers = answers
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.answers)

    def where(self, instance: int) -> str:
        return f"server {instance}"

    def patience(self) -> float:
        return 1.0

    def wall_clock(self) -> float:
        return 0.0

    async def ask(
        self,
        name: str,  # noqa: ARG002  as the port has it
        calls: Mapping[int, Sequence[Call]],
        *,
        within: float,  # noqa: ARG002  as the port has it
        enough: Enough,
    ) -> dict[int, list[Any] | CoordError]:
        self.asked.append(len(calls[0]))
        answers: dict[int, list[Any] | CoordError] = {}
        for instance, answer in enumerate(self.answers):
            if answer is not None:
                answers[instance] = answer[: len(calls[0])] if isinstance(answer, list) else answer
            if not enough(answers):
                break
        return answers


DOWN = StoreUnavailable("x", "down")


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        (([1], [1], [0]), 1),
        (([1], DOWN, [1]), 1),
        (([0], [1], [-1]), 0),
        ((None, [0], [0]), 0),
        (([1], [0], DOWN), NoQuorum),
        (([1], None, None), NoQuorum),
        (([1], [ValueError()], [0]), NoQuorum),
    ],
)
def test_a_majority_decides(answers: Any, verdict: Any) -> None:
    [said] = run(Majority(Panel(*answers)).run_many([("job", CALL)]))

    assert said == verdict or isinstance(said, verdict)


def test_no_quorum_says_why_for_each_server() -> None:
    [error] = run(Majority(Panel([1], DOWN, None)).run_many([("job", CALL)]))

    assert error.name == "job"
    assert list(error.errors) == ["server 1", "server 2"]
    assert "server 1: down" in str(error)
    assert error.__cause__ is DOWN


def test_many_questions_go_in_pipelines_of_a_bounded_size() -> None:
    panel = Panel([1] * 64, [1] * 64, [1] * 64)
    replies = run(Majority(panel).run_many([("job", CALL)] * 150))

    assert replies == [1] * 150
    assert panel.asked == [64, 64, 22]
