"""Pick one of several equal nodes: at random, in turn, or in turn by weight.

A node is anything hashable: a replica, a member of a Group. A picker may be shared by threads and tasks: it reads one
snapshot per pick, so a list that was just replaced never gives an index beyond its end. It does not know whether a node
is well; after a failure pick again with ``exclude=``.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import count
from math import gcd
from typing import Generic, TypeVar

from coordkit.errors import NoNodes

N = TypeVar("N", bound=Hashable)

# The turn of smooth weighted round robin is worked out in advance; this bounds its memory and the time it takes.
LONGEST_TURN = 10_000


class Random(Generic[N]):
    """Pick each node with equal chance. ``seed`` makes the sequence repeatable."""

    def __init__(self, nodes: Iterable[N], *, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._nodes = _distinct(nodes)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return a node that is not in ``exclude``; raise NoNodes if there is none."""
        nodes = self._nodes
        if exclude:
            nodes = tuple(node for node in nodes if node not in exclude)
        if not nodes:
            raise _nothing("random", exclude)
        return nodes[self._random.randrange(len(nodes))]

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on."""
        self._nodes = _distinct(nodes)


class RoundRobin(Generic[N]):
    """Pick the nodes in turn, in the order given."""

    def __init__(self, nodes: Iterable[N]) -> None:
        self._turn = count()  # next() of it is one step in C: two threads never get the same number
        self._nodes = _distinct(nodes)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return the next node that is not in ``exclude``; raise NoNodes if there is none."""
        return _next("round robin", self._nodes, next(self._turn), exclude)

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on."""
        self._nodes = _distinct(nodes)


class SmoothWeightedRoundRobin(Generic[N]):
    """Pick the nodes in turn, each as often as its weight says, and spread evenly within the turn.

    ``weights`` are positive ints whose sum, divided by their greatest common divisor, is at most 10000.
    Source: nginx's smooth weighted balancing (commit 52327e06); ties go to the node that was named first.
    """

    def __init__(self, weights: Mapping[N, int]) -> None:
        self._place = count()
        self._turn = _smooth_turn(weights)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return the next node that is not in ``exclude``; raise NoNodes if there is none."""
        return _next("smooth weighted round robin", self._turn, next(self._place), exclude)

    def update(self, weights: Mapping[N, int]) -> None:
        """Replace the nodes and their weights, for the next pick on."""
        self._turn = _smooth_turn(weights)


def _next(picker: str, nodes: tuple[N, ...], place: int, exclude: Collection[N]) -> N:
    if nodes and not exclude:
        return nodes[place % len(nodes)]
    for step in range(len(nodes)):
        node = nodes[(place + step) % len(nodes)]
        if node not in exclude:
            return node
    raise _nothing(picker, exclude)


def _smooth_turn(weights: Mapping[N, int]) -> tuple[N, ...]:
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights={weights!r}; a mapping of nodes to positive ints is allowed")
    for node, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int):
            raise TypeError(f"weights[{node!r}]={weight!r}; a positive int is allowed")
        if weight <= 0:
            raise ValueError(f"weights[{node!r}]={weight!r}; a positive int is allowed")
    common = gcd(*weights.values()) or 1
    step = {node: weight // common for node, weight in weights.items()}
    length = sum(step.values())
    if length > LONGEST_TURN:
        raise ValueError(f"weights={dict(weights)!r} make a turn of {length} picks; at most {LONGEST_TURN} are allowed")
    current = dict.fromkeys(step, 0)
    turn: list[N] = []
    for _ in range(length):
        for node in current:
            current[node] += step[node]
        best = max(current, key=current.__getitem__)  # max() returns the first of equals, as nginx does
        current[best] -= length
        turn.append(best)
    return tuple(turn)


def _distinct(nodes: Iterable[N]) -> tuple[N, ...]:
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise TypeError(f"nodes={nodes!r}; an iterable of nodes, such as a list, is allowed")
    named = tuple(nodes)
    if len(set(named)) != len(named):
        raise ValueError(f"nodes={list(named)!r} names one more than once; each is allowed once")
    return named


def _nothing(picker: str, exclude: Collection[object]) -> NoNodes:
    excluded = f" beside the excluded {list(exclude)!r}" if exclude else ""
    return NoNodes(picker, f"there is no node to pick{excluded}; give it nodes with update()")
