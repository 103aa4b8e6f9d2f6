"""The workloads that run against time, by the numbers of ``notes/testing.md``: who does what, under which faults, and
which checkers look at it. Each has the mutants that it must find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from regime.checkers.late_writes import late_writes
from regime.checkers.lease_model import lease_model
from regime.checkers.lost_updates import lost_updates
from regime.checkers.overlapping_leases import overlapping_leases
from regime.checkers.owner_mutex import owner_mutex
from regime.checkers.resource_violations import resource_violations
from regime.checkers.token_regressions import token_regressions
from regime.checkers.untold_losses import untold_losses
from regime.history import Op
from regime.kinds import Kind
from regime.resource import Entry

DRIFT = 0.02  # what the checker grants the clocks; coordkit itself counts with 0.01


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run when it is over."""

    ops: list[Op]
    ttl: float
    kind: Kind
    log: list[Entry] = field(default_factory=list)
    final: str | None = None

    def by_name(self) -> list[list[Op]]:
        """Return the operations on each name: whether names are right can be said of each alone."""
        names: dict[str, list[Op]] = {}
        for op in self.ops:
            if op.name:
                names.setdefault(op.name, []).append(op)
        return list(names.values())


Checker = Callable[[Evidence], list[str]]


def _each(checker: Callable[[list[Op]], list[str]]) -> Checker:
    return lambda evidence: [line for ops in evidence.by_name() for line in checker(ops)]


def _model(evidence: Evidence) -> list[str]:
    return [line for ops in evidence.by_name() for line in lease_model(ops, ttl=evidence.ttl, drift=DRIFT)]


def _alone(evidence: Evidence) -> list[str]:
    """Check the histories of what one at a time has; who shares what is counted by the turnstile."""
    alone = evidence.kind.at_once == 1 and not evidence.kind.shared
    return _each(owner_mutex)(evidence) if alone else []


def _overlaps(evidence: Evidence) -> list[str]:
    at_once = len(evidence.ops) if evidence.kind.shared else evidence.kind.at_once
    return [line for ops in evidence.by_name() for line in overlapping_leases(ops, at_once=at_once)]


def _resource(evidence: Evidence) -> list[str]:
    return resource_violations(evidence.log) + lost_updates(evidence.ops, evidence.log, evidence.final)


def _late(evidence: Evidence) -> list[str]:
    return late_writes(evidence.ops)


def _untold(evidence: Evidence) -> list[str]:
    return untold_losses(evidence.ops)


@dataclass(frozen=True)
class Workload:
    """One row of the table in ``notes/testing.md``, section 2.5."""

    work: str  # in actors.py
    ttl: float
    checkers: tuple[Checker, ...]
    faults: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()  # mutants of other kinds than a lock
    workers: int = 5
    actors: int = 4
    names: tuple[str, ...] = ("job",)
    resource: bool = False
    clock: float | None = None  # rate of the server's clock, by the shim
    control: bool = False  # it must fail
    turnstile: bool = False  # beside the resource
    options: dict[str, Any] = field(default_factory=dict)


_TOKENS = _each(token_regressions)
_W2_FAULTS = ("pause_worker", "kill_worker", "pause_server", "restart_server", "kill_clients", "lose_reply")
_W2_FAULTS += ("lose_request", "duplicate_request", "expire_early")
_W4: dict[str, Any] = {"actors": 2, "names": tuple(f"job{i}" for i in range(8)), "options": {"renew": False}}

WORKLOADS = {
    # Nobody dies here, so the ttl is long: what the turnstile sees does not depend on who is quick.
    "W1": Workload(
        "racer",
        30.0,
        (_alone, _overlaps, _TOKENS),
        resource=True,
        turnstile=True,
        mutants=("lets_in_whoever_asks",),
        others=(
            ("either", "reads_beside_a_writer"),
            ("either", "writes_beside_readers"),
            ("permit", "one_permit_too_many"),
        ),
    ),
    "W2": Workload(
        "leases",
        0.4,
        (_model, _TOKENS, _untold),
        faults=_W2_FAULTS,
        names=("job", "other", *(f"quiet{i}" for i in range(10))),
        mutants=(
            "release_without_owner_check",
            "random_token",
            "token_minted_after_the_lock",
            "renewal_makes_it_again",
            "handed_on_counted_from_the_receipt",
        ),
    ),
    "W3": Workload(
        "fenced",
        0.4,
        (_resource, _late, _TOKENS, _untold),
        faults=("pause_before_the_look", "pause_after_the_look", *_W2_FAULTS),
        actors=2,
        resource=True,
        mutants=("fence_on_write_only", "no_fence", "no_deadline_check", "loss_is_not_announced"),
    ),
    # The clock within what is declared, and answers that are slow: the belief must not count from the answer.
    "W4": Workload(
        "deadlines",
        0.3,
        (_overlaps, _TOKENS),
        faults=("slow_answers",),
        clock=1.01,
        mutants=("ttl_counted_from_the_reply",),
        **_W4,
    ),
    "W4-beyond": Workload("deadlines", 0.3, (_overlaps,), clock=1.5, control=True, **_W4),
}
