"""A lease that was over is over: a renewal that is answered too late does not bring it back.

The timer that announces the end may come late on a busy machine; W6 found leases that were over for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME
from coordkit.core.grantor import Returned
from coordkit.core.lease import Lease, Terms
from coordkit.core.multi import MultiLease
from coordkit.errors import LeaseLost, StoreUnavailable


def lease(ttl: float, max_hold: float | None = None, said: list[Any] | None = None) -> Lease:
    """Return a lease at a server that never answers; what is sent there is ``said``."""
    said = [] if said is None else said

    def give_back(_: Any, holder: str, *, until: float) -> None:
        said.append(("give back", holder, until))

    keeper = SimpleNamespace(give_back=give_back, renew=lambda _: said.append("renew"), repeats=False)
    grantor: Any = SimpleNamespace(name="a", keeper=keeper)
    return Lease(Terms(RUNTIME, grantor, ttl, max_hold=max_hold), "me", 1, RUNTIME.now())


def test_an_answer_that_comes_after_the_deadline_renews_nothing() -> None:
    held = lease(0.05)
    assert held._timer is not None
    held._timer.cancel()  # it comes late
    while held.remaining() > 0:
        time.sleep(0.001)
    with pytest.raises(LeaseLost):
        held.ensure()
    held.renewed(RUNTIME.now(), 10.0)
    assert held.remaining() == 0
    held.over()
    assert run(held.lost.wait(5))


def test_an_answer_that_comes_in_time_renews() -> None:
    held = lease(10.0)
    held.renewed(RUNTIME.now(), 60.0)
    assert held.remaining() > 50
    assert held._timer is not None
    held._timer.cancel()


def test_what_is_not_renewed_in_time_is_announced_and_given_back_for_a_whole_ttl() -> None:
    """A renewal that is still on its way may prolong at the server what was given up here."""
    said: list[Any] = []
    held = lease(0.2, said=said)
    assert run(held.lost.wait(5))
    assert RUNTIME.now() >= held.expires
    assert said[0] == "renew"
    [(what, holder, until)] = said[1:]
    assert (what, holder) == ("give back", "me")
    assert until >= held.expires + 0.2
    assert held.loss().why.startswith("its ttl ran out before a renewal was answered")


@pytest.mark.parametrize("how", [Lease.drop, lambda held: held.lose("gone")])
def test_an_end_is_told_to_the_server_once(how: Callable[[Lease], None]) -> None:
    said: list[Any] = []
    held = lease(60.0, said=said)
    for _ in range(2):
        how(held)
    assert [what for what, *_ in said] == ["give back"]
    assert not held.held


@pytest.mark.parametrize(("pause", "ours"), [(0.0, True), (0.3, False)])
def test_what_is_gone_when_it_is_given_back_again_was_ours_if_that_was_in_time(pause: float, ours: bool) -> None:
    """The first answer was lost; before our deadline nothing but that first request can have taken it away."""
    held = lease(0.2 if pause else 60.0)
    answers: list[Any] = [StoreUnavailable("a", "the line broke"), Returned.GONE]

    async def revoke(_: str) -> Returned:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        await RUNTIME.sleep(pause)
        return answer  # type: ignore[no-any-return]  # one of ours

    held.grantor.revoke = revoke  # type: ignore[method-assign]  # of a stand-in
    assert run(held.release()) is ours
    assert answers == []
    assert ours or "it was gone when it was given back" in held.loss().why


def test_what_is_handed_over_is_not_given_back() -> None:
    said: list[Any] = []
    held = lease(60.0, said=said)
    assert held.hand_over()
    assert not held.hand_over()
    held.drop()
    held.lose("too late")
    assert said == []
    assert not held.lost.is_set()


def test_max_hold_is_the_most_that_is_asked_for_and_then_the_end() -> None:
    said: list[Any] = []
    held = lease(10.0, 3.0, said)
    assert 2 < held.next_ttl() <= 3
    held.drop()
    said.clear()
    held = lease(0.1, 0.1, said)
    assert run(held.lost.wait(5))
    assert "renew" not in said
    assert held.loss().why.startswith("it was held as long as max_hold allows")


def test_of_several_the_first_that_ends_is_what_remains() -> None:
    several = [lease(60.0), lease(10.0), lease(0.02)]
    assert 0 <= MultiLease(RUNTIME, "a, b, c", 60.0, several).remaining() <= 0.02
    together = MultiLease(RUNTIME, "a, b", 60.0, several[:2])
    assert 5 < together.remaining() <= 10
    assert together.ensure()
    for each in several:
        each.drop()
    assert together.remaining() == 0


def test_of_several_one_that_is_over_is_the_end_before_it_is_announced() -> None:
    several = [lease(60.0), lease(0.3)]
    timer = several[1]._timer
    assert timer is not None
    timer.cancel()  # it comes late
    together = MultiLease(RUNTIME, "a, b", 60.0, several)
    while several[1].remaining() > 0:
        time.sleep(0.001)
    assert not together.lost.is_set()
    with pytest.raises(LeaseLost):
        together.ensure()
    several[0].drop()
