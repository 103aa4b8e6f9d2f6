"""The exhaustive check of the quorum lock, and the proof that it can fail: every way in which others do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sim.quorum_model import EVERY_DAY, Model

from coordkit._ports import Script
from coordkit.core import ballot, quorum, quorum_set

Patch = pytest.MonkeyPatch
Won = Mapping[int, int]


@pytest.mark.parametrize("what", EVERY_DAY)
def test_no_order_of_events_breaks_the_promise(what: str) -> None:
    """Tokens are never given out twice, and rise from each attempt to those that begin after it returned."""
    broken, states, complete = EVERY_DAY[what].explore()

    assert broken is None, "\n".join(broken or [])
    assert complete
    assert states > 1000


# -- mutants: the counter-examples of the literature, put into the code


def _edit(patch: Patch, module: Any, name: str, old: str, new: str) -> None:
    script: Script = getattr(module, name)
    assert old in script.source, f"{script.name}.lua changed: this mutant must be rewritten"
    patch.setattr(module, name, script._replace(source=script.source.replace(old, new)))


def no_second_phase(patch: Patch) -> Model:
    """The highest ballot of a majority is the token at once."""
    patch.setattr(ballot, "agreed", lambda won, majority: max(won.values()) if len(won) >= majority else None)
    return Model()


def least_of_the_ballots(patch: Patch) -> Model:
    patch.setattr(ballot, "agreed", lambda won, majority: min(won.values()) if len(won) >= majority else None)
    return Model()


def confirmed_without_the_hold(patch: Patch) -> Model:
    """The late write counts although somebody else has the vote by now."""
    _edit(patch, quorum, "_CONFIRM", "redis.call('GET', KEYS[1]) ~= ARGV[1] or ", "")
    return Model()


def _everywhere(patch: Patch) -> None:
    was = ballot.to_confirm

    def to_confirm(won: Won, majority: int) -> ballot.SecondRound | None:
        todo = was(won, majority)
        if todo is None:
            return None
        return todo._replace(at=tuple(i for i in range(3) if won.get(i) != todo.token))

    patch.setattr(ballot, "to_confirm", to_confirm)


def confirmed_where_no_vote_was_seen(patch: Patch) -> Model:
    """The vote stands there, but it is a later hold than the one that was asked for."""
    _edit(patch, quorum, "_CONFIRM", " or last > token", "")
    _everywhere(patch)
    return Model(attempts=3, late=False, releases=False)


def confirmed_after_a_repeated_request(patch: Patch) -> Model:
    """A client library sends the request again, and wins again, after another came and went."""
    _edit(patch, quorum, "_CONFIRM", " or last > token", "")
    return Model(attempts=3, repeats=1, ballots=(0, 1, 1), late=False, releases=False)


def the_median(patch: Patch) -> Model:
    """All votes won: the middle one is low enough on a majority, and high enough on another majority."""

    def agreed(won: Won, majority: int) -> int | None:
        return sorted(won.values())[majority - 1] if len(won) == 3 else was(won, majority)

    was = ballot.agreed
    patch.setattr(ballot, "agreed", agreed)
    return Model(attempts=3, late=False, releases=False)


def a_renewal_makes_the_key_again(patch: Patch) -> Model:
    _edit(patch, quorum, "_RENEW", "return 0", "redis.call('SET', KEYS[1], ARGV[1]) return 1")
    return Model(renewals=True, releases=False)


def attempts_share_an_id(patch: Patch) -> Model:
    """One id for each lock, thread or acquisition, where there must be one for each attempt."""
    return Model(shared_id=True, attempts=3, late=False, releases=False)


def a_minority_confirms(patch: Patch) -> Model:
    was = ballot.to_confirm

    def to_confirm(won: Won, majority: int) -> ballot.SecondRound | None:
        todo = was(won, majority)
        return todo and todo._replace(agreed=todo.agreed + 1)

    patch.setattr(ballot, "to_confirm", to_confirm)
    return Model()


def who_forgot_votes(patch: Patch) -> Model:
    _edit(
        patch,
        quorum,
        "_VOTE",
        "if not roster or not highest or not floor then\n  return {-1, ''}\nend",
        "roster, highest, floor = ARGV[3], highest or 0, floor or 0",
    )
    return Model(losses=1)


def who_lost_its_highest_votes(patch: Patch) -> Model:
    _edit(patch, quorum, "_VOTE", "or not highest or not floor then", "or not floor then")
    _edit(
        patch,
        quorum,
        "_VOTE",
        "local highest, floor = tonumber(redis.call('GET', KEYS[4]) or '')",
        "local highest, floor = tonumber(redis.call('GET', KEYS[4]) or '0')",
    )
    return Model(losses=1, loses="highest", forgotten=True)


def a_failed_attempt_takes_its_number_back(patch: Patch) -> Model:
    """Also where it was won by another meanwhile."""
    undo = "redis.call('SET', KEYS[2], (redis.call('GET', KEYS[2]) or 1) - 1)"
    _edit(patch, quorum, "_RELEASE", "if not mine then", f"if not mine then {undo}")
    return Model(attempts=3, ballots=(1, 1, 1), late=False)


def an_expired_ballot_begins_at_zero(patch: Patch) -> Model:
    _edit(
        patch,
        quorum,
        "_VOTE",
        "local number = last and tonumber(last) or highest",
        "local number = tonumber(last or 0)",
    )
    return Model(forgotten=True)


# -- and the ways in which a server must not come back

SEATED_ANEW = Model(losses=1, readmits=True, init=0, late=False, releases=False)


def seated_above_nothing(patch: Patch) -> Model:
    """It votes again, and remembers nothing."""
    _edit(patch, quorum_set, "_SEAT", "math.max(tonumber(ARGV[3]), ", "math.max(0, ")
    return SEATED_ANEW


def attempts_count_by_any_roster(patch: Patch) -> Model:
    """An attempt goes on that counts on what was forgotten in the middle of it."""
    _edit(patch, quorum, "_VOTE", "if roster ~= ARGV[3] then", "if false then")
    _edit(patch, quorum, "_CONFIRM", "if roster ~= ARGV[3] or", "if")
    return SEATED_ANEW


MUTANTS: list[Callable[[Patch], Model]] = [
    no_second_phase,
    least_of_the_ballots,
    confirmed_without_the_hold,
    confirmed_where_no_vote_was_seen,
    confirmed_after_a_repeated_request,
    the_median,
    a_renewal_makes_the_key_again,
    attempts_share_an_id,
    a_minority_confirms,
    who_forgot_votes,
    who_lost_its_highest_votes,
    a_failed_attempt_takes_its_number_back,
    an_expired_ballot_begins_at_zero,
    seated_above_nothing,
    attempts_count_by_any_roster,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.__name__ for mutant in MUTANTS])
def test_the_model_kills(mutant: Callable[[Patch], Model], monkeypatch: Patch) -> None:
    """Put a known mistake into the code, and some order of events breaks the promise."""
    assert mutant(monkeypatch).search() is not None


def test_what_is_not_promised() -> None:
    """A server that comes back one write behind is not noticed: that is why the documentation says which settings."""
    assert Model(losses=1, loses="last write").search() is not None


def test_the_clock_covers_what_was_forgotten() -> None:
    """Also then a clock that goes on keeps the order of what does not overlap."""
    model = Model(losses=1, loses="last write", advancing=True, order_only=True, late=False)

    assert model.search() is None
