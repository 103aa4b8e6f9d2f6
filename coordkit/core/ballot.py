"""The rule of the quorum lock, without any I/O: when is a ballot a token?

N instances, each with a counter that never falls; a vote is one hold of one instance by one attempt, and raises the
counter: that number is the attempt's ballot there. An attempt may return the token ``t`` if there is one majority on
every instance of which its vote gave a ballot of at most ``t``, and on which the counter came to ``t`` or more during
that same hold. Two attempts that return share an instance; there their holds follow each other, so the later ballot,
and with it the later token, is above the earlier token. No clock, no ttl and no order of messages is part of this
proof; that no counter falls is, and ``core/quorum_set.py`` sees to it.

"During the same hold" is what a script on the instance can prove (``quorum_confirm.lua``): the vote is still the
attempt's, no two attempts share an id, nothing but a vote makes a key, and the counter is not above ``t``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class SecondRound(NamedTuple):
    """No majority agrees: raise the ballots of ``at`` to ``token``; with ``agreed`` they must make a majority."""

    token: int
    agreed: int
    at: tuple[int, ...]


def agreed(won: Mapping[int, int], majority: int) -> int | None:
    """Return the ballot on which a majority agrees: it is the token, whatever the others have; or None.

    A higher ballot elsewhere can only stem from attempts that never returned.
    """
    ballots = list(won.values())
    for ballot in ballots[: len(ballots) - majority + 1]:  # what a majority has is among the first of them
        if ballots.count(ballot) >= majority:
            return ballot
    return None


def to_confirm(won: Mapping[int, int], majority: int) -> SecondRound | None:
    """Return what a second round trip must confirm, or None while fewer than a majority are won."""
    if len(won) < majority:
        return None
    token = max(won.values())
    behind = tuple(seat for seat, ballot in won.items() if ballot != token)
    return SecondRound(token, len(won) - len(behind), behind)


def may_yet_agree(won: Mapping[int, int], majority: int, pending: int) -> bool:
    """Whether answers that are still owed could make a majority agree."""
    most = max(Counter(won.values()).values(), default=0)
    return most + pending >= majority
