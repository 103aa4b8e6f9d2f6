"""W6 and W7, by the numbers of ``notes/testing.md``: who does what over which faults, and which mutants must be found.

Each is there twice, because faults of the ensemble take long: what is done to workers and to znodes, and (``-quorum``)
what is done to the three nodes. A mutant comes with the faults that bring it to light: those are fired first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from regime.checkers.late_writes import late_writes
from regime.checkers.lost_updates import lost_updates
from regime.checkers.overlapping_leases import overlapping_leases
from regime.checkers.resource_violations import resource_violations
from regime.checkers.terms import ended, foreign_terms, unheard_ends
from regime.checkers.token_regressions import token_regressions
from regime.checkers.untold_losses import untold_losses
from regime.checkers.views import backward_views, flaps, made_up_members, wrong_differences
from regime.history import Op
from regime.resource import Entry
from regime.weather import Weather
from regime.zoo_elections import ElectionWeather, orphans
from regime.zoo_ghosts import GhostWeather
from regime.zoo_groups import GroupWeather, not_converged

TIMEOUT = 1.0  # of the sessions, in seconds


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run when it is over."""

    ops: list[Op]
    log: list[Entry] = field(default_factory=list)
    final: str | None = None


def elections(evidence: Evidence) -> list[str]:
    """Check W6: tokens, beliefs, the resource, and that each loss was told."""
    ops = ended(evidence.ops)
    names = {op.name for op in ops if op.what == "acquire"}
    found: list[str] = []
    for name in sorted(names):
        ours = [op for op in ops if op.name == name]
        found += token_regressions(ours) + overlapping_leases(ours)
    found += resource_violations(evidence.log) + lost_updates(ops, evidence.log, evidence.final)
    found += late_writes(ops) + untold_losses(ops) + foreign_terms(evidence.ops)
    return found + unheard_ends(evidence.ops, bound=2 * TIMEOUT + 2.0)


def groups(evidence: Evidence) -> list[str]:
    """Check W7: what watchers were told."""
    ops = evidence.ops
    stolen = [f"stolen: {op.identity} of {op.actor}: {op.why}" for op in ops if op.what == "stolen"]
    return backward_views(ops) + wrong_differences(ops) + made_up_members(ops) + flaps(ops) + stolen


@dataclass(frozen=True)
class ZooWorkload:
    """One row of the table in ``notes/testing.md``, section 2.5."""

    work: str  # in zoo_actors.py
    weather: type[Weather]
    checker: Callable[[Evidence], list[str]]
    at_rest: Callable[..., list[str]]  # asked when nobody begins anything any more
    faults: tuple[str, ...]
    mutants: dict[str, tuple[str, ...]]  # and the faults that bring each to light
    paths: tuple[str, ...]
    resource: bool = False
    workers: int = 5
    calm: int = 0  # so many of them write next to nothing while they lead

    @property
    def parents(self) -> tuple[str, ...]:
        """Return the znodes whose children are the line, or the members."""
        return tuple(f"{path}/candidates" for path in self.paths) if self.work == "elect" else self.paths


_ELECTIONS = ("/jobs/busy", "/jobs/quiet-1", "/jobs/quiet-2")
_W6 = ("pause_leader", "kill_leader", "expire_leader", "forget_session", "requests_lost", "replies_lost", "blip")
_W6 += ("pause_in_line", "znode_deleted", "first_two_deleted", "name_made_again", "parent_deleted")
_W7 = ("pause_member", "kill_member", "expire_member", "watcher_cut_off", "blip", "forget_session")
_W7 += ("znode_deleted", "parent_deleted")

WORKLOADS = {
    "W6": ZooWorkload(
        "elect",
        ElectionWeather,
        elections,
        orphans,
        _W6,
        {
            "sequence_is_the_token": ("parent_deleted",),
            "takes_over_unchecked": ("first_two_deleted", "pause_in_line"),
            "loss_is_not_announced": ("blip", "znode_deleted"),
            "adopts_an_old_znode": ("forget_session",),
            "sleeps_through_a_reconnect": ("blip",),
        },
        _ELECTIONS,
        resource=True,
    ),
    "W6-quorum": ZooWorkload(
        "elect",
        GhostWeather,
        elections,
        orphans,
        ("follower_cut_off", "late_answer", "quorum_lost", "leader_paused", "leader_cut_off"),
        {"connected_is_proof": ("follower_cut_off",), "lease_counted_from_the_reply": ("late_answer",)},
        _ELECTIONS,
        resource=True,
        calm=2,
    ),
    "W7": ZooWorkload(
        "gather",
        GroupWeather,
        groups,
        not_converged,
        _W7,
        {
            "watches_are_not_set_anew": ("blip",),
            "does_not_join_again": ("expire_member",),
            "flaps_at_a_reconnect": ("blip",),
            "updates_are_missed": ("znode_deleted",),
            "keeps_the_old_sessions_znode": ("forget_session",),
        },
        ("/members",),
        workers=3,
    ),
    "W7-quorum": ZooWorkload(
        "gather",
        GroupWeather,
        groups,
        not_converged,
        ("follower_restarted", "quorum_lost", "leader_paused", "leader_cut_off"),
        {},
        ("/members",),
        workers=3,
    ),
}
