"""The checkers of W6 and W7, checked: each accepts good histories and finds what is wrong in bad ones."""

from __future__ import annotations

import math
from typing import Any

from regime.checkers.overlapping_leases import overlapping_leases
from regime.checkers.terms import ended, foreign_terms, unheard_ends
from regime.checkers.views import backward_views, flaps, made_up_members, wrong_differences
from regime.history import Op


def led(worker: str, token: int, call: float, end: float, until: float) -> Op:
    return Op(f"{worker}/0", "acquire", call, end, {"name": "/a", "token": token, "until": until})


def left(worker: str, token: int, call: float) -> Op:
    return Op(f"{worker}/0", "release", call, call, {"name": "/a", "token": token, "released": True})


def cause(what: str, call: float, **facts: Any) -> Op:
    return Op("faults", what, call, call + 0.1, facts)


def view(watcher: str, at: float, members: dict[str, str], *difference: list[str]) -> Op:
    return Op(watcher, "view", at, at, {"members": members, "difference": list(difference) or [[], [], []]})


FIRST, SECOND = led("w0.1", 1, 0, 0.1, until=2.0), led("w1.1", 2, 0.5, 1.0, until=3.0)


def test_an_overlap_is_excused_by_what_ended_the_first_term_from_outside() -> None:
    assert overlapping_leases(ended([FIRST, SECOND])) != []
    assert overlapping_leases(ended([FIRST, SECOND, cause("killed", 0.6, worker="w0.1")])) == []
    assert overlapping_leases(ended([FIRST, SECOND, cause("expired", 0.6, worker="w0.1")])) == []
    assert overlapping_leases(ended([FIRST, SECOND, cause("deposed", 0.6, name="/a", token=1)])) == []


def test_an_overlap_is_not_excused_by_what_happened_to_others() -> None:
    assert overlapping_leases(ended([FIRST, SECOND, cause("killed", 0.6, worker="w0.2")])) != []
    assert overlapping_leases(ended([FIRST, SECOND, cause("expired", 0.6, worker="w2.1")])) != []
    assert overlapping_leases(ended([FIRST, SECOND, cause("deposed", 1.5, name="/a", token=2)])) != []
    assert overlapping_leases(ended([FIRST, SECOND, cause("deposed", 1.1, name="/a", token=1)])) != []


def test_a_term_that_began_after_the_end_of_a_session_is_no_part_of_it() -> None:
    first = led("w0.1", 1, 0.3, 0.8, until=2.0)
    assert overlapping_leases(ended([first, SECOND, cause("expired", 0.6, worker="w0.1")])) != []


def test_unheard_ends() -> None:
    deposed = cause("deposed", 0.5, name="/a", token=1)
    assert unheard_ends([FIRST, deposed, left("w0.1", 1, 0.9)], bound=1) == []
    assert unheard_ends([FIRST, deposed, left("w0.1", 1, 1.9)], bound=1) != []
    assert unheard_ends([FIRST, deposed], bound=1) != []
    assert unheard_ends([FIRST, deposed, cause("killed", 0.7, worker="w0.1")], bound=1) == []


def test_foreign_terms() -> None:
    proof = Op("w0.1/0", "proof", 1, 1, {"token": 1, "owner": 7, "session": 7})
    assert foreign_terms([FIRST, proof]) == []
    foreign = Op("w0.1/0", "proof", 1, 1, {"token": 1, "owner": 0, "session": 7})
    assert foreign_terms([FIRST, foreign]) != []
    assert foreign_terms([FIRST, foreign, cause("deposed", 0.9, name="/a", token=1)]) == []
    assert foreign_terms([FIRST, foreign, cause("deposed", 0.9, name="/a", token=2)]) != []


def test_backward_views() -> None:
    ops = [view("a", 1, {"x": "1:000001"}), view("b", 2, {"x": "1:000002"}), view("a", 3, {"x": "1:000002"})]
    assert backward_views(ops) == []
    assert backward_views([*ops, view("a", 4, {}), view("a", 5, {"x": "1:000001"})]) != []


def test_wrong_differences() -> None:
    ops = [view("a", 1, {"x": "1"}, ["x"], [], []), view("a", 2, {"x": "2", "y": "1"}, ["y"], [], ["x"])]
    assert wrong_differences(ops) == []
    assert wrong_differences([*ops, view("a", 3, {"x": "2"}, [], [], [])]) != []
    anew = [Op("a", "unavailable", 3, 3), view("a", 4, {"x": "2"}, ["x"], [], [])]
    assert wrong_differences([*ops, *anew]) == []


def test_made_up_members() -> None:
    joined = Op("m", "join", 1, math.inf, {"identity": "x", "data": "1"})
    assert made_up_members([joined, view("a", 2, {"x": "1"})]) == []
    assert made_up_members([view("a", 0, {"x": "1"}), joined]) != []
    assert made_up_members([joined, view("a", 2, {"x": "2"})]) != []


def test_flaps() -> None:
    calm = Op("faults", "calm", 1, 2, {"identity": "x", "why": "a reconnect"})
    gone = [[], ["x"], []]
    assert flaps([calm, view("a", 3, {}, *gone), view("a", 1.5, {}, [], ["y"], [])]) == []
    assert flaps([calm, view("a", 1.5, {}, *gone)]) != []
