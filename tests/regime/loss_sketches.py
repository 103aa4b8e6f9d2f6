"""Two ways to move counters between servers that lose, as small as they can be: the controls of the loss experiment.

The map is a file that clients look at every few milliseconds, in the place of a znode with a watch.

- ``copy``: copy all keys, then switch the map. Whoever writes in between, or has not seen the new map, loses.
- ``barrier``: three states, STABLE, MOVING, STABLE; keys are moved on first touch and by the mover, each once; the
  mover waits until every client that is alive has adopted MOVING, and for a second more. Whoever is stopped meanwhile
  writes to the old owner when it runs again.

The experiment must tell these from the library (``notes/routing.md``, 7.4), which has what they lack: the fence.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from regime.loss_place import COUNTERS, Change, Client, Gaps, Move, Place, State, counter, slot

from coordkit.errors import ShardDown, StoreUnavailable
from coordkit.routing.placement.slots import slot_of

MOVED = "sketch:moved"
LOOK = 0.005  # seconds between two looks at the map
ALIVE = 0.4  # whoever has not been heard of for so many seconds is waited for no more
MORE = 1.0  # seconds that the barrier waits after the last adoption
_NO_ANSWER = (redis.ConnectionError, redis.TimeoutError, OSError)

# RESTORE without REPLACE, once for each key: a second one could bring back what was deleted meanwhile.
_TAKE = """
if redis.call('SADD', KEYS[2], KEYS[1]) == 1 then redis.call('RESTORE', KEYS[1], ARGV[1], ARGV[2]) end
"""


class Map(NamedTuple):
    """Who owns which slot, and what moves."""

    epoch: int
    owners: dict[int, str]
    move: Move | None = None

    @staticmethod
    def of(text: str) -> Map:
        facts = json.loads(text)
        move = facts["move"]
        owners = {int(slot): owner for slot, owner in facts["owners"].items()}
        return Map(facts["epoch"], owners, Move.of(move) if move else None)

    def __str__(self) -> str:
        return json.dumps({"epoch": self.epoch, "owners": self.owners, "move": self.move})

    def moving(self, slot: int) -> Move | None:
        """Return the move that clients take part in; one since no epoch is none of their business."""
        return self.move if self.move is not None and self.move.since and slot in self.move.slots else None


class MapFile:
    """The map of all, changed by whoever knows the last one."""

    def __init__(self, place: Place) -> None:
        self._path = Path(place.directory) / "map"

    def read(self) -> Map:
        return Map.of(self._path.read_text())

    def age(self) -> int:
        return self._path.stat().st_mtime_ns

    def put(self, new: Map) -> None:
        """Write a map that is one epoch after the last one."""
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.exists() and self.read().epoch != new.epoch - 1:
                raise RuntimeError(f"the map was changed by another: epoch {new.epoch} comes late")
            draft = self._path.with_suffix(f".{os.getpid()}")
            draft.write_text(str(new))
            draft.replace(self._path)


class Sketch:
    """One of the two, by its name."""

    spared = ("roll_back",)

    def __init__(self, name: str) -> None:
        self.name = name
        self._three_states = name == "barrier"

    # -- of the experiment itself

    def prepare(self, place: Place, _stack: ExitStack) -> Place:
        names = list(place.urls)
        MapFile(place).put(Map(1, {slot(number): names[number % 2] for number in range(COUNTERS)}))
        (Path(place.directory) / "adopted").mkdir(exist_ok=True)
        return place

    def state(self, place: Place) -> State:
        now = MapFile(place).read()
        return State(now.epoch, now.owners, () if now.move is None else (now.move,))

    def draw(self, place: Place, chance: random.Random) -> Change:
        """Draw some of the slots that one shard owns, to another shard."""
        owners = MapFile(place).read().owners
        owned = {name: sorted(slot for slot, owner in owners.items() if owner == name) for name in place.urls}
        source = max(owned, key=lambda name: (len(owned[name]), name))
        target = chance.choice([name for name in place.urls if name != source])
        slots = chance.sample(owned[source], len(owned[source]) * 2 // 3)
        return Change(frozenset(slots), Move(source, target, tuple(sorted(slots))))

    # -- of a client

    def client(self, place: Place, name: str, _flavour: str, gaps: Gaps) -> Client:
        return _Client(place, name, gaps)

    # -- of the mover

    def carry_out(self, place: Place, what: Any, pace: float, _slack: float) -> None:
        move, file = Move.of(what), MapFile(place)
        now = file.read()
        if all(now.owners[slot] == move.target for slot in move.slots) and now.move is None:
            return
        with _plain(place.urls[move.source]) as source, _plain(place.urls[move.target]) as target:
            if not self._three_states:
                _copy(file, now, move, source, target, pace)
                return
            if now.move is None:
                now = Map(now.epoch + 1, now.owners, move._replace(since=now.epoch + 1))
                file.put(now)
            _wait_for_all(place, now.epoch)
            while keys := _keys_of(source, move):
                for key in keys:
                    bring(key, source.execute_command, target.execute_command)
                    time.sleep(pace)
            file.put(Map(now.epoch + 1, now.owners | dict.fromkeys(move.slots, move.target)))
            target.delete(MOVED)


def _copy(file: MapFile, now: Map, move: Move, source: redis.Redis, target: redis.Redis, pace: float) -> None:
    if now.move is None:  # said for the experiment's eyes; the clients do nothing about it
        now = Map(now.epoch + 1, now.owners, move)
        file.put(now)
    for key in _keys_of(source, move):
        value: Any = source.dump(key)
        if value is not None:
            target.restore(key, 0, value, replace=True)
        time.sleep(pace)
    file.put(Map(now.epoch + 1, now.owners | dict.fromkeys(move.slots, move.target)))
    time.sleep(0.2)
    for key in _keys_of(source, move):
        source.unlink(key)


def bring(
    key: Any, source: Callable[..., Any], target: Callable[..., Any], step: Callable[[], None] = lambda: None
) -> None:
    """Move one key on first touch, as whoever comes there first."""
    value = source("DUMP", key)
    if value is None:
        return
    ttl = max(0, source("PTTL", key))
    step()
    target("EVAL", _TAKE, 2, key, MOVED, ttl, value)
    step()
    source("UNLINK", key)


class _Client:
    def __init__(self, place: Place, name: str, gaps: Gaps) -> None:
        self._gaps = gaps
        self._file = MapFile(place)
        self._adopted = Path(place.directory) / "adopted" / name
        self._map = self._file.read()
        options = {"socket_timeout": 5, "socket_connect_timeout": 5, "retry": Retry(NoBackoff(), 0)}
        self._shards = {name: redis.Redis.from_url(url, **options) for name, url in place.urls.items()}
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def incr(self, key: str) -> Any:
        return self._ask("INCR", key)

    def getdel(self, key: str) -> Any:
        return self._ask("GETDEL", key)

    def _ask(self, command: str, key: str) -> Any:
        now, slot = self._map, slot_of(key)
        move = now.moving(slot)
        owner = move.target if move else now.owners[slot]
        self._gaps.decided(key)
        try:
            if move:
                shards = self._shards[move.source], self._shards[move.target]
                bring(key, *(shard.execute_command for shard in shards), self._gaps.bringing)
        except _NO_ANSWER as error:
            raise ShardDown(owner, str(error), shard=owner) from error
        try:
            return self._shards[owner].execute_command(command, key)
        except _NO_ANSWER as error:
            raise StoreUnavailable(owner, str(error)) from error

    def _follow(self) -> None:
        seen = 0
        while not self._closed.is_set():
            age = self._file.age()
            if age != seen:
                self._map, seen = self._file.read(), age
            self._adopted.write_text(str(self._map.epoch))
            self._closed.wait(LOOK)

    def close(self) -> None:
        self._closed.set()
        self._adopted.unlink(missing_ok=True)


def _wait_for_all(place: Place, epoch: int) -> None:
    """Wait until all who are alive have adopted this epoch, and for a second more."""
    while any(_behind(path, epoch) for path in (Path(place.directory) / "adopted").iterdir()):
        time.sleep(LOOK)
    time.sleep(MORE)


def _behind(path: Path, epoch: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > ALIVE:
            return False
        return int(path.read_text() or 0) < epoch
    return False


def _keys_of(server: redis.Redis, move: Move) -> list[str]:
    keys = [counter(number) for number in range(COUNTERS) if slot(number) in move.slots]
    return [key for key in keys if server.exists(key)]


@contextlib.contextmanager
def _plain(url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(url, socket_timeout=5)
    try:
        yield client
    finally:
        client.close()
