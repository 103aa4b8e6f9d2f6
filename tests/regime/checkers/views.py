"""What watchers of a group were told, held against itself: nobody sees an older state, no change is made up.

Data are numbered by whoever writes them, so of one identity the later ones are greater. That the last view is the
servers' own list is asked when all is quiet (``zoo_gathering.py``).
"""

from __future__ import annotations

from collections.abc import Iterable

from regime.history import Op


def backward_views(ops: Iterable[Op]) -> list[str]:
    """Return the views that show an identity with older data than the same watcher had seen."""
    wrong: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for view in (op for op in ops if op.what == "view"):
        for identity, data in view.members.items():
            if data < seen.get((view.actor, identity), ""):
                before = seen[view.actor, identity]
                wrong.append(f"backward_views: {view.actor} saw {identity} with {data} after {before}")
            seen[view.actor, identity] = data
    return wrong


def wrong_differences(ops: Iterable[Op]) -> list[str]:
    """Return the views whose joined, left and updated are not what is different from the watcher's view before."""
    wrong: list[str] = []
    last: dict[str, dict[str, str]] = {}
    for view in ops:
        if view.what == "unavailable":
            last.pop(view.actor, None)  # it begins anew
        if view.what != "view":
            continue
        before, members = last.get(view.actor, {}), view.members
        updated = [each for each in before.keys() & members.keys() if before[each] != members[each]]
        true = [sorted(part) for part in (members.keys() - before.keys(), before.keys() - members.keys(), updated)]
        if view.difference != true:
            wrong.append(f"wrong_differences: {view.actor} was told {view.difference}, and it is {true}")
        last[view.actor] = members
    return wrong


def made_up_members(ops: Iterable[Op]) -> list[str]:
    """Return the members that were seen before anybody had begun to write that they are there."""
    written: set[tuple[str, str]] = set()
    wrong: list[str] = []
    for op in ops:
        if op.what in ("join", "update", "canary"):
            written.add((op.identity, op.data))
        elif op.what == "view":
            wrong += [
                f"made_up_members: {op.actor} saw {identity} with {data}"
                for identity, data in op.members.items()
                if (identity, data) not in written
            ]
    return wrong


def flaps(ops: Iterable[Op]) -> list[str]:
    """Return who was seen to leave in a time in which nothing happened that ends a membership."""
    ops = list(ops)
    calm = [op for op in ops if op.what == "calm"]
    return [
        f"flaps: {view.actor} saw {op.identity} leave, and it had only {op.why}"
        for op in calm
        for view in ops
        if view.what == "view" and op.call <= view.call <= op.end and op.identity in view.difference[1]
    ]
