"""The checkers, checked: each accepts good histories and finds what is wrong in bad ones."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from regime.checkers.around import MOST
from regime.checkers.late_writes import late_writes
from regime.checkers.lease_model import lease_model
from regime.checkers.linearizable import Event, why_not
from regime.checkers.lost_updates import lost_updates
from regime.checkers.overlapping_leases import overlapping_leases
from regime.checkers.owner_mutex import owner_mutex
from regime.checkers.resource_violations import resource_violations
from regime.checkers.token_regressions import token_regressions
from regime.checkers.untold_losses import untold_losses
from regime.history import Op, Recorder, read
from regime.resource import Entry

TTL = 1.0


def got(token: int, call: float, end: float, until: float = 0.0, *, shared: bool = False) -> Op:
    facts: dict[str, Any] = {"token": token, "shared": shared} | ({"until": until} if until else {})
    return Op(f"a{token}", "acquire", call, end, facts)


def gave(token: int, call: float, end: float, released: bool = True) -> Op:
    return Op(f"a{token}", "release", call, end, {"token": token, "released": released})


def looked(token: int, at: float, until: float) -> Op:
    return Op(f"a{token}", "look", at, at, {"token": token, "until": until})


def refused(call: float, end: float) -> Op:
    return Op("r", "acquire", call, end, {"refused": True})


def waited_in_vain(call: float, end: float) -> Op:
    return Op("v", "acquire", call, end, {"refused": True, "timeout": end - call})


def waited(token: int, call: float, end: float) -> Op:
    return Op("w", "acquire", call, end, {"token": token, "timeout": 2.0})


def unknown(call: float) -> Op:
    return Op("u", "acquire", call, math.inf)


def forgot(call: float, end: float) -> Op:
    return Op("faults", "forget", call, end)


MUTEX = [
    (True, "nothing", []),
    (True, "one after the other", [got(1, 0, 1), gave(1, 2, 3), got(2, 4, 5)]),
    (True, "the next was asked for early", [got(1, 0, 1), got(2, 0.5, 3), gave(1, 2, 4)]),
    (True, "both orders are open, one is right", [got(2, 0, 10), got(1, 0, 10), gave(2, 11, 12), gave(1, 0, 9)]),
    (True, "a release that was never answered", [got(1, 0, 1), gave(1, 2, math.inf), got(2, 3, 4)]),
    (True, "a release in doubt", [got(1, 0, 1), gave(1, 2, 3, released=False), got(2, 4, 5)]),
    (False, "two at once", [got(1, 0, 1), got(2, 2, 3), gave(1, 4, 5)]),
    (False, "the second returned before the first began to give back", [got(1, 0, 1), got(2, 0, 1.5), gave(1, 2, 3)]),
    (False, "given back twice", [got(1, 0, 1), gave(1, 2, 3), gave(1, 4, 5)]),
    (False, "never given back", [got(1, 0, 1), got(2, 2, 3)]),
]


@pytest.mark.parametrize(("good", "story", "ops"), MUTEX, ids=[story for _, story, _ in MUTEX])
def test_owner_mutex(good: bool, story: str, ops: list[Op]) -> None:
    assert (owner_mutex(ops) == []) is good


FREED = [got(1, 0, 0.05), gave(1, 0.06, 0.1)]
# Asked for at 0.05, granted at 0.3 or later: who holds it believes for as long as if it had been granted at 0.05.
LATE = [got(1, 0, 0.1), gave(1, 0.3, 0.4), got(2, 0.05, 0.5, until=1.04)]
FORGOTTEN = [got(1, 0, 0.1), forgot(0.2, 0.3), got(2, 0.35, 0.4)]
LEASES = [
    (True, "one after the other", [got(1, 0, 0.1), gave(1, 0.2, 0.3), got(2, 0.4, 0.5)]),
    (True, "after the ttl", [got(1, 0, 0.1), got(2, 0.5, 1.2)]),
    (True, "after the ttl, by a clock that runs fast", [got(1, 0, 0.1), got(2, 0.5, 0.985)]),
    (True, "long after its grant was answered late", [got(1, 0, 0.9), got(2, 0.5, 1.0)]),
    (True, "made to forget", [got(1, 0, 0.1), forgot(0.2, 0.3), got(2, 0.25, 0.4)]),
    (True, "refused while held", [got(1, 0, 0.1), refused(0.2, 0.3), gave(1, 0.4, 0.5)]),
    (True, "refused by an unknown one", [unknown(0.0), refused(0.2, 0.3)]),
    (
        True,
        "refused by one who was handed it, did not know, and got it later",
        [*FREED, waited(3, 0.05, 1.5), refused(0.2, 0.3), got(2, 0.9, 1.0), gave(2, 1.1, 1.2)],
    ),
    (True, "held until it ended", [got(1, 0, 0.1, until=0.99), looked(1, 0.9, 0.99), got(2, 0.95, 1.1)]),
    (True, "given back in doubt", [got(1, 0, 0.1), gave(1, 0.2, 0.3, released=False), got(2, 0.4, 0.5)]),
    (True, "given back as soon as not believed", [*LATE, got(3, 0.9, 1.2), gave(2, 1.25, 1.25, released=False)]),
    (True, "given back as soon as not believed, and killed before saying so", [*LATE, got(3, 0.9, 1.2)]),
    (True, "given back in doubt by one who was forgotten", [*FORGOTTEN, gave(1, 0.45, 0.5), gave(2, 0.6, 0.7)]),
    (True, "refused by one who has just waited in vain", [*FREED, waited_in_vain(0.05, 0.2), refused(0.25, 0.3)]),
    (False, "while it was believed", [*LATE, got(3, 0.9, 1.0), gave(2, 1.25, 1.25, released=False)]),
    (False, "not believed, and given back for certain later", [*LATE, got(3, 0.9, 1.2), gave(2, 1.22, 1.25)]),
    (False, "given back for another by one who was forgotten", [*FORGOTTEN, gave(1, 0.45, 0.5), got(3, 0.6, 0.7)]),
    (False, "before the ttl", [got(1, 0, 0.1), got(2, 0.5, 0.9)]),
    (False, "before the ttl of a renewal", [got(1, 0, 0.1), looked(1, 0.8, 1.7), got(2, 1.1, 1.4)]),
    (False, "renewed after it was forgotten", [got(1, 0, 0.1), forgot(0.2, 0.3), looked(1, 0.9, 1.8)]),
    (False, "renewed after another had it", [got(1, 0, 0.1), got(2, 1.1, 1.2), gave(2, 1.3, 1.4), looked(1, 1.5, 2.4)]),
    (False, "given back by one who had lost it", [got(1, 0, 0.1), got(2, 1.1, 1.2), gave(1, 1.3, 1.4)]),
    (False, "refused while free", [got(1, 0, 0.1), gave(1, 0.2, 0.3), refused(0.4, 0.5)]),
    (
        False,
        "refused while free, and nobody waits yet",
        [*FREED, waited(3, 0.4, 1.5), refused(0.2, 0.3), got(2, 0.9, 1.0), gave(2, 1.1, 1.2)],
    ),
    (False, "a lower token later", [got(2, 0, 0.1), gave(2, 0.2, 0.3), got(1, 0.4, 0.5)]),
    (False, "one token twice", [got(1, 0, 0.1), gave(1, 0.2, 0.3), got(1, 0.4, 0.5)]),
    (
        False,
        "minted after the lock was taken",  # 2 was set first and minted last: it never had the lock when 1 had
        [got(2, 0, 0.3), forgot(0.05, 0.1), got(1, 0.11, 0.2), gave(1, 0.4, 0.5)],
    ),
]


@pytest.mark.parametrize(("good", "story", "ops"), LEASES, ids=[story for _, story, _ in LEASES])
def test_lease_model(good: bool, story: str, ops: list[Op]) -> None:
    assert (lease_model(ops, ttl=TTL, drift=0.02) == []) is good


def test_lease_model_says_what_fits_nowhere_and_what_stood_around_it() -> None:
    """The search went furthest with 4 in front of 3, where 3 does not fit any more than behind 2."""
    bad = [*LATE, got(3, 0.9, 1.0), got(4, 0.95, 1.6), gave(2, 1.25, 1.25, released=False), got(5, 9, 10)]

    [found] = lease_model(bad, ttl=TTL, drift=0.02)
    first, *around = found.split("\n")

    assert "grant 3 [0.9000, 1.0000] fits nowhere" in first
    assert "Standing(owner=4," in first
    assert [line.split()[:2] for line in around[1:]] == [
        ["a1", "acquire"],
        ["a2", "acquire"],
        ["a1", "release"],
        ["a3", "acquire"],
        ["a4", "acquire"],
        ["a2", "release"],
    ]
    assert around[2].endswith("token 2, until 0.1400")
    assert around[-1].endswith("[  0.3500,   0.3500] token 2, released False")


def test_what_fits_nowhere_is_what_comes_after_all_that_fits() -> None:
    """With 2 in its place 3 does not fit; left out until later, it lets more of the others be, and fits no more."""
    others = [gave(3, 1.1, 1.2), got(4, 1.3, 1.4), gave(4, 1.5, 1.6)]

    [found] = lease_model([got(2, 0, 5), got(3, 0.8, 0.9), *others, gave(2, 6, 7)], ttl=TTL, drift=0.02)

    assert "grant 3 [0.8000, 0.9000] fits nowhere" in found


def test_what_stands_around_is_not_all_there_is() -> None:
    ops = [got(i, i / 100, i / 100 + 0.005) for i in range(1, 300)]

    [found] = lease_model(ops, ttl=TTL, drift=0.02)

    assert len(found.split("\n")) == MOST + 3
    assert found.endswith(" more")


@pytest.mark.parametrize("seed", range(20))
def test_lease_model_on_a_true_history_and_on_one_with_a_lie(seed: int) -> None:
    """A simulated server that is right, seen by callers who are late; then one grant is moved to before its time."""
    chance = random.Random(seed)
    ops: list[Op] = []
    moment, free_at = 0.0, 0.0
    for token in range(1, 300):
        moment = max(moment + chance.uniform(0, 0.1), free_at)
        ends = moment + TTL
        early, late = chance.uniform(0, 0.3), chance.uniform(0, 0.3)
        ops.append(got(token, moment - early, moment + late, until=moment - early + 0.99 * TTL))
        if chance.random() < 0.7:
            done = moment + late + chance.uniform(0, 0.2)
            free_at = done + 0.01
            ops.append(gave(token, done, free_at + chance.uniform(0, 0.2)))
        else:
            free_at = ends
    assert lease_model(ops, ttl=TTL, drift=0.02) == []

    holders = sorted((op for op in ops if op.what == "acquire"), key=lambda op: op.token)
    gives = {op.token: op.call for op in ops if op.what == "release"}
    for first, second in pairwise(holders):
        if first.token not in gives and first.end + 0.3 < first.until:
            lie = got(second.token, first.end + 0.1, first.end + 0.2)
            later = [op for op in ops if op.token != second.token]
            assert lease_model([*later, lie], ttl=TTL, drift=0.02) != []
            break


def test_a_search_without_end_is_a_failure() -> None:
    """Thirty at once, none of which may come first: 2^30 orders."""
    events = [Event("x", i / 100, 100, token=i) for i in range(1, 31)]
    events.append(Event("never", 0, 100))

    def step(state: int, event: Event) -> int | None:
        return None if event.what == "never" else state ^ (1 << event.token)

    assert "ran out of its budget" in str(why_not(events, 0, step, budget=20_000))


def test_token_regressions() -> None:
    assert token_regressions([got(1, 0, 1), got(2, 2, 3), got(3, 2.5, 3)]) == []
    assert token_regressions([got(2, 0, 1), got(1, 0.5, 3)]) == []  # at the same time: either may be the later one
    assert "after 2" in token_regressions([got(2, 0, 1), got(1, 1.5, 3)])[0]
    assert "twice" in token_regressions([got(1, 0, 1), got(1, 0.5, 3)])[0]
    together = [got(1, 0, 1, shared=True), got(1, 2, 3, shared=True)]
    assert token_regressions(together) == []
    assert "twice" in token_regressions([*together, got(1, 4, 5)])[0]
    assert "after 2" in token_regressions([together[0], got(2, 1.2, 1.5), together[1]])[0]


def test_resource_violations() -> None:
    log = [Entry(1, "get", "", ""), Entry(1, "set", "w1", ""), Entry(2, "get", "", ""), Entry(2, "set", "w2", "w1")]
    assert resource_violations(log) == []
    assert len(resource_violations([*log, Entry(1, "set", "w3", "w1")])) == 1


def test_lost_updates() -> None:
    log = [Entry(1, "set", "w1", ""), Entry(2, "set", "w2", "w1"), Entry(3, "set", "w3", "w1")]
    ops = [Op("a", "write", 0, 1, {"write": f"w{i}", "written": i != 2}) for i in (1, 2, 3)]
    assert lost_updates(ops, log, "w3") == []
    ops[1].facts["written"] = True
    assert lost_updates(ops, log, "w3") == ["lost_updates: w2 of a was acknowledged"]
    assert len(lost_updates(ops, log, None)) == 3


def test_late_writes() -> None:
    ops = [Op("a", "write", 0, 1, {"write": "w1", "left": 0.2})]
    assert late_writes(ops) == []
    assert late_writes([*ops, Op("a", "write", 0, 1, {"write": "w2", "left": 0.0})]) != []


def test_untold_losses() -> None:
    ops = [Op("a", "over", 0, 1, {"token": 1, "told": True}), Op("a", "over", 0, math.inf, {"token": 2})]
    assert untold_losses(ops) == []  # the second was killed while it waited
    assert untold_losses([*ops, Op("a", "over", 0, 2, {"token": 3, "told": False})]) != []


def test_overlapping_leases() -> None:
    first, second = got(1, 0, 0.1, until=0.99), got(2, 0.5, 1.0, until=1.5)
    assert overlapping_leases([first, second]) == []
    assert overlapping_leases([first, looked(1, 0.9, 1.2), second]) != []
    assert overlapping_leases([first, looked(1, 0.9, 1.2), second], at_once=2) == []
    assert overlapping_leases([first, looked(1, 0.9, 1.2), gave(1, 0.95, 0.97), second]) == []
    assert overlapping_leases([first, looked(1, 0.9, 1.2), second], slack=0.3) == []


def test_a_killed_workers_operation_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    recorder = Recorder(path)
    number = recorder.call("a", "acquire", name="x")
    recorder.note("a", "look", token=7)
    recorder.back(number, token=7)
    recorder.call("a", "release", token=7)
    recorder.close()

    acquire, look, release = read([path])
    assert (acquire.token, acquire.name, acquire.known) == (7, "x", True)
    assert look.call == look.end
    assert not release.known
