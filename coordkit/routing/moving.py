"""Bring keys from the source of a move to its target: each once, whoever does it, however often and however late.

While slots are moving, the target serves them, and each key is brought before a command touches it there: by the
client that wants it, or by the mover, which goes through all. Both do the same:

1. *look* at the target: which of the keys were brought, and what is the time there;
2. *read* the others at the source: DUMP and PTTL;
3. *take* at the target, in one script for each batch: a key that is not marked is marked and restored, one that is
   marked is left alone;
4. the mover alone: *remove* at the source, once the target's replicas have it, and its append-only file. A client
   leaves that to the mover: a failover of the target then costs no more than its own last writes.

Each step may be repeated, by anybody, in any order with those of others. What could go wrong, and why it does not:

- A late take would resurrect a key that was deleted at the target since: it is marked, so nothing is restored. A key
  that is not at the source is marked as well.
- A late take after the move would find no mark. The move is closed on the target (``move_close.lua``) when nothing is
  left at the source, and *before* the topology says that the target owns the slots: from then on a take is refused,
  and those who route by the move find that everything is there. After the next change of these slots their connections
  are gone (`fence`).
- A late removal would remove something newer: there is nothing newer at the source, where nobody writes keys of these
  slots while the move lasts. The fence sees to that: all connections of those who still wrote there were dropped
  *before* the move was opened on the target (``move_begin.lua``), and nothing is taken before that.
- A target that starts anew, or fails over, may have lost its last takes. Nothing was removed at the source before the
  target's replicas and disk had it, and who had taken it looks again (`mover`); nor is what a client remembers relied
  on over connections that were made later (`decision`). So what is lost is what had happened there since, as ever.
- What is at the target and not marked is left over from another time, because whoever writes there brings the key
  first: it is replaced, or removed if the source has no such key. The mover comes only to keys that the source has, so
  what is left over of others is dropped before the move begins (`leftovers`).

**Time to live.** PTTL counts by the source's clock, and that of the target may differ. The target's time when PTTL was
answered is at most what it said in step 1 and what has passed since, by our clock; what is restored ends then, plus
what PTTL said. So it never ends earlier than at the source: the key of a lock would let another in, whom its holder
does not expect. Later by what passed between the first two steps, two round trips; they are done again if that was more
than a tenth of a second, three times at most. However long anybody is paused after that, it ends when it should, and is
not restored if that has passed. A key without a time to live has none afterwards.

**A move that is rolled back** goes the other way: the source is what was the target. A key that the first move had
brought is taken as above. One that it had not brought is already where it should be: it is marked, and kept. If the
first move was closed, all is at the source. Which it is cannot change any more, because the source was fenced.

Not moved: how long ago or how often a key was used (its rank for eviction).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from coordkit._ports import Call, Runtime
from coordkit.core.answer import answered
from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing.fence import local_key
from coordkit.routing.shard_port import Command, ShardPort
from coordkit.routing.walk import Walk, replies
from coordkit.scripts import load

_BEGIN = load("move_begin")
_CLOSE = load("move_close")
_LOOK = load("move_look")
_TAKE = load("move_take")

AT_ONCE = 64
"""Keys in one script: other clients of the target wait for it."""

BYTES_AT_ONCE = 1 << 20
"""Bytes of values in one script; a single key may have more."""

_READ_AT_ONCE = 4 << 20  # bytes of memory of keys that are read in one pipeline; a single key may have more
_FEW = 8  # keys in one pipeline where the source does not tell how large they are

_PAUSE, _LONGEST = 0.005, 0.2  # seconds between two looks whether a move has begun
_GONE = -2  # what PTTL says of a key that is not there
_SHARP, _TRIES = 0.1, 3  # seconds within which a time to live is known exactly enough, and how often that is tried
_REMEMBERED = 1 << 16  # keys that a client knows to be brought; then it forgets them all


class Moved(Protocol):
    """What moving needs to know of a move: `coordkit.routing.Move` has it."""

    @property
    def number(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def undoes(self) -> int:
        """The number of the move that this one rolls back, or 0."""
        ...


class Brought(NamedTuple):
    """What one call brought: how many keys it took, their bytes as DUMP gives them, and the largest of them."""

    keys: int = 0
    size: int = 0
    largest: int = 0
    largest_key: bytes = b""
    over: bool = False  # the move is over: everything is at the target

    def plus(self, other: Brought) -> Brought:
        """Return the sum of both."""
        largest = max((self, other), key=lambda each: each.largest)
        total = self.keys + other.keys, self.size + other.size
        return Brought(*total, largest.largest, largest.largest_key, self.over or other.over)


class Carrier:
    """Brings keys of one move, over fenced ways to its two shards; safe for many at once.

    ``patience`` (seconds) is how long to wait for a move that has been announced and not been opened.
    """

    def __init__(
        self,
        runtime: Runtime,
        topology: str,
        move: Moved,
        source: ShardPort,
        target: ShardPort,
        *,
        patience: float = 10.0,
    ) -> None:
        self.move = move
        self._runtime = runtime
        self._source = source
        self._target = target
        self._patience = patience
        self._topology = topology
        self._moves = local_key(topology, "moves")
        self._marks = local_key(topology, f"moved:{move.number}")
        self._former = local_key(topology, f"moved:{move.undoes}") if move.undoes else None
        self._known = _Known(0)
        self._sizes = True  # whether the source tells how large a key is

    # -- for clients, before a command

    async def ensure(self, keys: Iterable[bytes]) -> int:
        """Return once all ``keys`` are at the target; raise StoreUnavailable if they cannot be brought.

        What is returned is how many connections to the target had been made before it was asked: over a later one the
        keys need not be there (`coordkit.routing.decision`). Costs nothing for keys that this carrier knows to be
        there, one round trip if they are, else three.
        """
        made = self._target.made
        known = self._known
        if known.made != made:
            known = self._known = _Known(made)
        missing = [] if known.over else [key for key in dict.fromkeys(keys) if key not in known.keys]
        if not missing:
            return made
        if (await self.bring(missing, remove=False)).over:
            known.over = True
        elif len(known.keys) + len(missing) > _REMEMBERED:
            known.keys = set(missing)
        else:
            known.keys.update(missing)
        return made

    # -- for clients and the mover

    async def bring(self, keys: Sequence[bytes], *, remove: bool = True) -> Brought:
        """Bring keys, many to a script, and remove them at the source; return what this call itself took."""
        total = Brought()
        for at in range(0, len(keys), AT_ONCE):
            total = total.plus(await self._bring(keys[at : at + AT_ONCE], remove=remove))
            if total.over:
                break
        return total

    async def _bring(self, keys: Sequence[bytes], *, remove: bool) -> Brought:
        looked = await self._look(keys)
        if looked is None:
            return Brought(over=True)
        taken = Brought()
        portions = await self._portions([key for key, mark in zip(keys, looked.marks, strict=True) if not mark])
        for some in portions:
            found = await self._found(some, looked if len(portions) == 1 else await self._look(some))
            if found is None:
                return Brought(over=True)
            for batch in _batches(found):
                one = await self._take(batch)
                if one.over:
                    return one
                taken = taken.plus(one)
        if remove:
            await self.remove(keys)  # those that were marked as well: whoever brought them has left them
        return taken

    async def _portions(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        """Return which keys to read together: so many that no server, nor we, have to hold or send too much at once."""
        if len(keys) > 1 and self._sizes:
            sizes = await self._source.ask([(b"MEMORY", b"USAGE", key) for key in keys])
            self._sizes = not any(isinstance(size, Exception) for size in sizes)  # else it is not allowed to
            if self._sizes:
                return _portioned(keys, [int(size or 0) for size in sizes])
        return [list(keys[at : at + _FEW]) for at in range(0, len(keys), _FEW)]

    async def _found(self, keys: Sequence[bytes], looked: _Looked | None) -> list[_Read] | None:
        """Read at the source after a look at the target; None if the move is over.

        Where that took too long to know how long they live, that alone is asked again: what they are does not change.
        """
        read: list[_Read] | None = None
        tries = 0
        while looked is not None:
            read = await self._read(keys) if read is None else await self._timed(read)
            took = self._runtime.now() - looked.sent
            tries += 1
            if took <= _SHARP or tries == _TRIES or all(each.ends < 0 for each in read):
                present = looked.time + math.ceil(took * 1000)
                return [each._replace(ends=present + each.ends if each.ends >= 0 else 0) for each in read]
            looked = await self._look(keys)
        return None

    async def _timed(self, read: Sequence[_Read]) -> list[_Read]:
        lefts = await self.replies(self._source, [(b"PTTL", each.key) for each in read])
        return [
            each._replace(ends=int(left), value=b"" if left == _GONE else each.value)
            for each, left in zip(read, lefts, strict=True)
        ]

    async def _look(self, keys: Sequence[bytes]) -> _Looked | None:
        """Return when we asked, the target's time in ms, and which keys are marked; None if the move is over."""
        until = self._runtime.now() + self._patience
        pause = _PAUSE
        call = Call(_LOOK, (self._moves, self._marks), (self.move.number, *keys))
        while True:
            sent = self._runtime.now()
            state, time, *marked = await self._asked(self._target, call)
            if state == b"open":
                return _Looked(sent, int(time), [int(mark) for mark in marked])
            if state == b"over":
                return None
            if self._runtime.now() >= until:
                raise self._not_begun()
            if pause >= _LONGEST:  # it may be that it cannot begin
                await self.replies(self._source, [(b"PING",)])
            await self._runtime.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    def _not_begun(self) -> StoreUnavailable:
        return StoreUnavailable(
            self._target.shard,
            f"move {self.move.number} from {self.move.source!r} was announced {self._patience:.0f} s ago and has not "
            "begun: who announced it has stopped, and nobody resumed it; the command was not sent. Let the rebalancer "
            "run (`coordkit reshard resume`)",
        )

    async def _read(self, keys: Sequence[bytes]) -> list[_Read]:
        if not keys:
            return []
        kept = await self._kept(keys)
        read = await self.replies(
            self._source, [command for key in keys for command in ((b"DUMP", key), (b"PTTL", key))]
        )
        found = []
        for key, value, left in zip(keys, read[::2], read[1::2], strict=True):
            gone = left == _GONE or key in kept  # between the two it may have ended
            found.append(_Read(key, b"" if gone or value is None else bytes(value), int(left), kept=key in kept))
        return found

    async def _kept(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return those that the move which is rolled back had not brought: they never left."""
        if self._former is None:
            return set()
        commands: list[Command] = [(b"SISMEMBER", self._former, key) for key in keys]
        state, marks, *brought = await self.replies(self._source, [*self._of_former(self._former), *commands])
        self._check_former(state, marks)
        if state == b"over":
            return set()
        return {key for key, mark in zip(keys, brought, strict=True) if not mark}

    async def _take(self, batch: Sequence[_Read]) -> Brought:
        args: list[bytes | str | int] = [self.move.number]
        for each in batch:
            args += [each.value, each.ends, "keep" if each.kept else "take"]
        call = Call(_TAKE, (self._moves, self._marks, *(each.key for each in batch)), args)
        state, *taken = await self._asked(self._target, call)
        if state == b"over":  # it was open when we looked
            return Brought(over=True)
        if state != b"open":  # somebody removed what says so
            raise self._not_begun()
        total = Brought()
        for each, fresh in zip(batch, taken, strict=True):
            if fresh and each.value:
                total = total.plus(Brought(1, len(each.value), len(each.value), each.key))
        return total

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Remove keys at the source, which are at the target."""
        await self.replies(self._source, [(b"UNLINK", *keys)])

    # -- for the mover

    async def state(self) -> str:
        """Return "open", "over", or "" if it has not begun."""
        state, _ = await self._asked(self._target, Call(_LOOK, (self._moves, self._marks), (self.move.number,)))
        return bytes(state).decode()

    async def begin(self) -> None:
        """Open the move on its target. Both shards must have been fenced: what is left of its past is forgotten."""
        await self._asked(self._target, Call(_BEGIN, (self._moves, self._marks), (self.move.number,)))

    async def close(self, *, source_lost: bool = False, begun: bool = True) -> int:
        """Close it, when nothing is left at the source, and before the topology says so; return how many it touched."""
        args = self.move.number, "1" if begun else ""
        touched = await self._asked(self._target, Call(_CLOSE, (self._moves, self._marks), args))
        if self._former is not None and not source_lost:
            call = Call(_CLOSE, (self._moves, self._former), (self.move.undoes, ""))
            await self._asked(self._source, call)
        return int(touched)

    async def close_all(self) -> None:
        """Close each move that is still open on the target: of one that was turned round, nobody else does."""
        [found] = await self.replies(self._target, [(b"HGETALL", self._moves)])
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        for number in [int(number) for number, state in pairs if state == b"open"]:
            marks = local_key(self._topology, f"moved:{number}")
            await self._asked(self._target, Call(_CLOSE, (self._moves, marks), (number, "")))

    def former(self) -> Walk | None:
        """Return the way through the keys that the move which is rolled back had brought; None if this one is none."""
        if self._former is None:
            return None
        also, heard = self._of_former(self._former), self._check_former
        return Walk(partial(self.replies, self._source), b"SSCAN", self._former, also=also, heard=heard)

    def _of_former(self, marks: bytes) -> list[Command]:
        return [(b"HGET", self._moves, self.move.undoes), (b"EXISTS", marks)]

    def _check_former(self, state: Any, marks: int) -> None:
        """Raise if what the former move had brought is not known any more: it would be taken for never brought."""
        if (state == b"open") != bool(marks):
            raise StoreRefused(
                self._source.shard,
                f"it does not know any more what move {self.move.undoes} had brought (an eviction, a hand, a copy that "
                "is older): nobody can tell whether a key is newer here or at "
                f"{self._target.shard!r}; nothing was removed. Bring back its data as it was (a replica, the file), or "
                "compare both shards by hand",
            )

    # -- asking: all of it stands being asked twice, and the fence may just have dropped our connection

    async def _asked(self, port: ShardPort, call: Call) -> Any:
        return await answered(self._runtime, lambda: port.run(call), self._runtime.now())

    async def replies(self, port: ShardPort, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that stand being sent twice; raise the first refusal among them."""
        return await replies(self._runtime, port, commands)


class _Known:
    """What a client knows of the target, as long as no more connections to it are made than ``made``."""

    def __init__(self, made: int) -> None:
        self.made = made
        self.keys: set[bytes] = set()  # that were brought
        self.over = False  # all were


class _Looked(NamedTuple):
    sent: float  # when we asked
    time: int  # of the target then or later, in ms
    marks: list[int]


class _Read(NamedTuple):
    key: bytes
    value: bytes
    ends: int  # in so many ms, negative if never; then when, by the target's clock, 0 if never
    kept: bool


def _portioned(keys: Sequence[bytes], sizes: Sequence[int]) -> list[list[bytes]]:
    """Return keys in portions of limited size."""
    portions: list[list[bytes]] = []
    total = 0
    for key, size in zip(keys, sizes, strict=True):
        total += size
        if not portions or total > _READ_AT_ONCE:
            portions.append([])
            total = size
        portions[-1].append(key)
    return portions


def _batches(found: Sequence[_Read]) -> Iterator[list[_Read]]:
    """Yield what fits into one script each."""
    batch: list[_Read] = []
    size = 0
    for each in found:
        if batch and size + len(each.value) > BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each.value)
    if batch:
        yield batch
