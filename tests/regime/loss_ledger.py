"""What the clients of the loss experiment wrote down, and whether the counters agree with it.

Each process appends one short line before it asks and one when it is answered, so that SIGKILL loses nothing: an
operation without its second line has an unknown outcome. A counter must stand at no less than what was acknowledged
and at no more than that and what is unknown; what was taken out of it (GETDEL) counts as if it were there still. And as
each INCR answers with the counter, a lost one is seen a second time: the same answer given twice, or one below an
answer that had been given before it was asked.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from regime.history import now


class Count(NamedTuple):
    """One INCR or GETDEL: of which counter, from when to when, and its answer; None where none came."""

    counter: int
    call: float
    end: float
    answer: int | None
    sent: bool = True  # False where the client said that it had not sent it
    takes: bool = False  # GETDEL, whose answer is what was in it


Window = tuple[float, float, frozenset[int]]
"""From when to when which counters were certainly moving."""


class Ledger:
    """Appends to the log of one process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def asks(self, actor: int, counter: int, *, takes: bool = False) -> None:
        os.write(self._file, b"%s%d %d %.6f\n" % (b"!" if takes else b"?", actor, counter, now()))

    def answered(self, actor: int, answer: int) -> None:
        os.write(self._file, b"=%d %d %.6f\n" % (actor, answer, now()))

    def unknown(self, actor: int) -> None:
        os.write(self._file, b"x%d 0 %.6f\n" % (actor, now()))

    def not_sent(self, actor: int) -> None:
        os.write(self._file, b"-%d 0 %.6f\n" % (actor, now()))


def counts(paths: Iterable[Path]) -> list[Count]:
    """Return the operations of all logs."""
    found: list[Count] = []
    for path in paths:
        pending: dict[bytes, Count] = {}
        for line in path.read_bytes().splitlines():
            kind, (actor, number, when) = line[:1], line[1:].split()
            if kind in b"?!":
                pending[actor] = Count(int(number), float(when), math.inf, None, takes=kind == b"!")
                continue
            answer = int(number) if kind == b"=" else None
            found.append(pending.pop(actor)._replace(end=float(when), answer=answer, sent=kind != b"-"))
        found += pending.values()
    return found


class Bounds(NamedTuple):
    """What a counter may stand at."""

    least: int
    most: int


def bounds(done: Iterable[Count]) -> dict[int, Bounds]:
    """Return what each counter may stand at after these operations; what nobody counted is not named."""
    least: Counter[int] = Counter()
    most: Counter[int] = Counter()
    in_doubt: set[int] = set()  # what was taken out of these nobody knows
    for count in done:
        if count.takes:
            least[count.counter] -= count.answer or 0
            most[count.counter] -= count.answer or 0
            if count.answer is None and count.sent:
                in_doubt.add(count.counter)
        else:
            least[count.counter] += count.answer is not None
            most[count.counter] += count.sent
    return {counter: Bounds(0 if counter in in_doubt else least[counter], most[counter]) for counter in most}


def wrong(done: Sequence[Count], stands: Mapping[int, int]) -> list[str]:
    """Return what the counters have lost, or have too much, by what they stand at in the end."""
    found: list[str] = []
    for counter, (least, most) in bounds(done).items():
        value = stands[counter]
        if value < least:
            found.append(f"lost: counter {counter} stands at {value}, and {least} or more is what was acknowledged")
        elif value > most:
            found.append(f"too many: counter {counter} stands at {value}, and at most {most} is what was sent")
    return found + repeated(done)


def lost(done: Sequence[Count], stands: Mapping[int, int]) -> int:
    """Return how many acknowledged operations the counters have certainly lost."""
    return sum(max(0, least - stands[counter]) for counter, (least, _) in bounds(done).items())


def repeated(done: Iterable[Count]) -> list[str]:
    """Return the answers that were given twice, or that are below one that had been given before they were asked.

    Counters of which somebody took are left out: they begin anew.
    """
    done = list(done)
    taken = {count.counter for count in done if count.takes}
    by_counter: dict[int, list[Count]] = defaultdict(list)
    for count in done:
        if count.counter in taken:
            continue
        if count.answer is not None:
            by_counter[count.counter].append(count)
    found: list[str] = []
    for counter, its in by_counter.items():
        seen: set[int] = set()
        highest, returned = 0, list[tuple[float, int]]()
        for count in sorted(its, key=lambda count: count.call):
            answer = count.answer or 0
            while returned and returned[0][0] < count.call:
                highest = max(highest, heapq.heappop(returned)[1])
            if answer in seen:
                found.append(f"answered twice: counter {counter} said {answer} again at {count.end:.3f}")
            elif answer < highest:
                found.append(f"went back: counter {counter} said {answer} at {count.end:.3f}, after {highest}")
            seen.add(answer)
            heapq.heappush(returned, (count.end, answer))
    return found


def within(done: Iterable[Count], windows: Sequence[Window]) -> int:
    """Return how many acknowledged operations were done on counters that were moving meanwhile, from call to return."""
    return sum(
        any(begins <= count.call and count.end <= ends and count.counter in those for begins, ends, those in windows)
        for count in done
        if count.answer is not None
    )
