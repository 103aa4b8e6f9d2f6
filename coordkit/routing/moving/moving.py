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
from typing import Any

from coordkit._ports import Runtime
from coordkit.routing.fence.port import Command, ShardPort
from coordkit.routing.fence.walk import Walk, replies
from coordkit.routing.moving.parts import Brought, Looked, Moved, Read
from coordkit.routing.moving.source import Source
from coordkit.routing.moving.target import Target

AT_ONCE = 64
"""Keys in one script: other clients of the target wait for it."""

BYTES_AT_ONCE = 1 << 20
"""Bytes of values in one script; a single key may have more."""

_SHARP, _TRIES = 0.1, 3  # seconds within which a time to live is known exactly enough, and how often that is tried
_REMEMBERED = 1 << 16  # keys that a client knows to be brought; then it forgets them all


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
        self._target_port = target
        self._source = Source(runtime, topology, move, source)
        self._target = Target(runtime, topology, move, target, patience)
        self._known = _Known(0)

    # -- for clients, before a command

    async def ensure(self, keys: Iterable[bytes]) -> int:
        """Return once all ``keys`` are at the target; raise StoreUnavailable if they cannot be brought.

        What is returned is how many connections to the target had been made before it was asked: over a later one the
        keys need not be there (`coordkit.routing.fence.decision`). Costs nothing for keys that this carrier knows to be
        there, one round trip if they are, else three.
        """
        made = self._target_port.made
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
        portions = await self._source.portions([key for key, mark in zip(keys, looked.marks, strict=True) if not mark])
        for some in portions:
            found = await self._found(some, looked if len(portions) == 1 else await self._look(some))
            if found is None:
                return Brought(over=True)
            for batch in _batches(found):
                one = await self._target.take(batch)
                if one.over:
                    return one
                taken = taken.plus(one)
        if remove:
            await self.remove(keys)  # those that were marked as well: whoever brought them has left them
        return taken

    async def _look(self, keys: Sequence[bytes]) -> Looked | None:
        return await self._target.look(keys, self._source.ping)  # if that is gone, it may be that it cannot begin

    async def _found(self, keys: Sequence[bytes], looked: Looked | None) -> list[Read] | None:
        """Read at the source after a look at the target; None if the move is over.

        Where that took too long to know how long they live, that alone is asked again: what they are does not change.
        """
        read: list[Read] | None = None
        tries = 0
        while looked is not None:
            read = await self._source.read(keys) if read is None else await self._source.timed(read)
            took = self._runtime.now() - looked.sent
            tries += 1
            if took <= _SHARP or tries == _TRIES or all(each.ends < 0 for each in read):
                present = looked.time + math.ceil(took * 1000)
                return [each._replace(ends=present + each.ends if each.ends >= 0 else 0) for each in read]
            looked = await self._look(keys)
        return None

    # -- for the mover

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Remove keys at the source, which are at the target."""
        await self._source.remove(keys)

    async def state(self) -> str:
        """Return "open", "over", or "" if it has not begun."""
        return await self._target.state()

    async def begin(self) -> None:
        """Open the move on its target. Both shards must have been fenced: what is left of its past is forgotten."""
        await self._target.begin()

    async def close(self, *, source_lost: bool = False, begun: bool = True) -> int:
        """Close it, when nothing is left at the source, and before the topology says so; return how many it touched."""
        touched = await self._target.close(begun=begun)
        if not source_lost:
            await self._source.close_former()
        return touched

    async def close_all(self) -> None:
        """Close each move that is still open on the target: of one that was turned round, nobody else does."""
        await self._target.close_all()

    def former(self) -> Walk | None:
        """Return the way through the keys that the move which is rolled back had brought; None if this one is none."""
        return self._source.former()

    async def replies(self, port: ShardPort, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that stand being sent twice; raise the first refusal among them."""
        return await replies(self._runtime, port, commands)


class _Known:
    """What a client knows of the target, as long as no more connections to it are made than ``made``."""

    def __init__(self, made: int) -> None:
        self.made = made
        self.keys: set[bytes] = set()  # that were brought
        self.over = False  # all were


def _batches(found: Sequence[Read]) -> Iterator[list[Read]]:
    """Yield what fits into one script each."""
    batch: list[Read] = []
    size = 0
    for each in found:
        if batch and size + len(each.value) > BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each.value)
    if batch:
        yield batch
