"""Pick one of several equal nodes: at random, in turn, in turn by weight, the least busy, or always the same for a key.

A node is anything hashable: a replica, a member of a Group. A picker may be shared by threads and tasks: it reads one
snapshot per pick, so a list that was just replaced never gives an index beyond its end. It does not know whether a node
is well; after a failure pick again with ``exclude=``, or have ``SetAside`` (see ``health``) remember it.
"""

from __future__ import annotations

import random
import threading  # noqa: TID251  a picker is shared by threads and tasks alike
from collections.abc import Collection, Hashable, Iterable, Mapping
from hashlib import blake2b
from itertools import count
from math import gcd
from types import MappingProxyType
from typing import Generic, TypeVar

from coordkit.errors import NoNodes
from coordkit.routing.placement.slots import tagged

N = TypeVar("N", bound=Hashable)

# The turn of smooth weighted round robin is worked out in advance; this bounds its memory and the time it takes.
LONGEST_TURN = 10_000


class Random(Generic[N]):
    """Pick each node with equal chance. ``seed`` makes the sequence repeatable."""

    def __init__(self, nodes: Iterable[N] = (), *, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
        self._nodes = distinct(nodes)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return a node that is not in ``exclude``; raise NoNodes if there is none."""
        nodes = self._nodes
        if exclude:
            nodes = tuple(node for node in nodes if node not in exclude)
        if not nodes:
            raise nothing("random", exclude)
        return nodes[self._random.randrange(len(nodes))]

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on."""
        self._nodes = distinct(nodes)


class RoundRobin(Generic[N]):
    """Pick the nodes in turn, in the order given."""

    def __init__(self, nodes: Iterable[N] = ()) -> None:
        self._turn = count()  # next() of it is one step in C: two threads never get the same number
        self._nodes = distinct(nodes)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return the next node that is not in ``exclude``; raise NoNodes if there is none."""
        return _next("round robin", self._nodes, next(self._turn), exclude)

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on."""
        self._nodes = distinct(nodes)


class SmoothWeightedRoundRobin(Generic[N]):
    """Pick the nodes in turn, each as often as its weight says, and spread evenly within the turn.

    ``weights`` are positive ints whose sum, divided by their greatest common divisor, is at most 10000.
    Source: nginx's smooth weighted balancing (commit 52327e06); ties go to the node that was named first.
    """

    def __init__(self, weights: Mapping[N, int] = MappingProxyType({})) -> None:
        self._place = count()
        self._turn = _smooth_turn(weights)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return the next node that is not in ``exclude``; raise NoNodes if there is none."""
        return _next("smooth weighted round robin", self._turn, next(self._place), exclude)

    def update(self, weights: Mapping[N, int]) -> None:
        """Replace the nodes and their weights, for the next pick on."""
        self._turn = _smooth_turn(weights)


class LeastOutstanding(Generic[N]):
    """Pick the node with the fewest picks that were not given back by ``done``; equals in turn.

    It knows of the picks of this process alone.
    """

    def __init__(self, nodes: Iterable[N] = ()) -> None:
        self._turn = count()
        self._mutex = threading.Lock()
        self._busy = dict.fromkeys(distinct(nodes), 0)

    def pick(self, *, exclude: Collection[N] = ()) -> N:
        """Return the least busy node that is not in ``exclude``, busier by one; raise NoNodes if there is none."""
        with self._mutex:
            nodes = [node for node in self._busy if node not in exclude]
            if not nodes:
                raise nothing("least outstanding", exclude)
            first = next(self._turn) % len(nodes)
            best = min(nodes[first:] + nodes[:first], key=self._busy.__getitem__)  # min() returns the first of equals
            self._busy[best] += 1
            return best

    def done(self, node: N) -> None:
        """Say that a pick of ``node`` is over, however it ended; what is gone from the nodes is nobody's concern."""
        with self._mutex:
            if self._busy.get(node):
                self._busy[node] -= 1

    def update(self, nodes: Iterable[N]) -> None:
        """Replace the nodes, for the next pick on; those that stay are as busy as they were."""
        named = distinct(nodes)
        with self._mutex:
            self._busy = {node: self._busy.get(node, 0) for node in named}


class Sticky:
    """Pick the same node for the same key, for as long as it is there; nodes are texts.

    A key whose node goes, or is excluded, has another until that is back; other keys keep theirs. Keys with one
    ``{tag}`` stay together. Source: rendezvous hashing, Thaler and Ravishankar 1998.
    """

    def __init__(self, nodes: Iterable[str] = ()) -> None:
        self.update(nodes)

    def pick(self, key: str | bytes, *, exclude: Collection[str] = ()) -> str:
        """Return the node of ``key`` that is not in ``exclude``; raise NoNodes if there is none."""
        hashed = tagged(key.encode() if isinstance(key, str) else key)
        scores = [(_score(begun, hashed), node) for node, begun in self._nodes if node not in exclude]
        if not scores:
            raise nothing("sticky", exclude)
        return max(scores)[1]

    def update(self, nodes: Iterable[str]) -> None:
        """Replace the nodes, for the next pick on."""
        self._nodes = [(node, _begun(node)) for node in distinct(nodes)]


def _begun(node: str) -> blake2b:
    name = node.encode()
    return blake2b(len(name).to_bytes(4, "big") + name, digest_size=8, person=b"coordkit-stick-1")


def _score(begun: blake2b, key: bytes) -> bytes:
    digest = begun.copy()  # half the cost of beginning anew
    digest.update(key)
    return digest.digest()


def _next(picker: str, nodes: tuple[N, ...], place: int, exclude: Collection[N]) -> N:
    if nodes and not exclude:
        return nodes[place % len(nodes)]
    for step in range(len(nodes)):
        node = nodes[(place + step) % len(nodes)]
        if node not in exclude:
            return node
    raise nothing(picker, exclude)


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


def distinct(nodes: Iterable[N]) -> tuple[N, ...]:
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise TypeError(f"nodes={nodes!r}; an iterable of nodes, such as a list, is allowed")
    named = tuple(nodes)
    if len(set(named)) != len(named):
        raise ValueError(f"nodes={list(named)!r} names one more than once; each is allowed once")
    return named


def nothing(picker: str, exclude: Collection[object]) -> NoNodes:
    excluded = f" beside the excluded {list(exclude)!r}" if exclude else ""
    return NoNodes(picker, f"there is no node to pick{excluded}; give it nodes with update()")
