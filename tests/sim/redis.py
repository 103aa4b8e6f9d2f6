"""A simulated Redis that runs coordkit's own Lua, and a network that loses, delays and repeats.

The scripts are executed by Lua 5.1, the version inside Redis, against a dictionary with expiry. What the dictionary
answers is held against a real server by ``tests/contract/test_simulated_redis.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from lupa import lua51
from sim.inbox import SimInbox, Weather
from sim.world import Process, Wait, World

from coordkit._ports import Call, Confirm, Form
from coordkit.core.keeper import Keeper
from coordkit.errors import StoreRefused, StoreUnavailable

_LUA = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
_TABLE = _LUA.eval("function() return {} end")


@cache
def _compiled(source: str) -> Any:
    return _LUA.execute(f"return function(KEYS, ARGV, redis) {source}\nend".encode())


ASKS = {"lock_acquire", "rw_read", "rw_write", "semaphore_acquire"}
"""Scripts that grant, or queue up; all have the holder, the entry and the place as first, fourth and fifth argument,
if they wait."""

RELEASES = {"lock_release", "rw_release", "semaphore_release"}


class ReplyError(Exception):
    """An error reply of the simulated server."""


class SimRedis:
    """One server: keys with expiry, a clock of its own, and a log of every grant."""

    def __init__(self, world: World, *, epoch: float = 1.7e9, rate: float = 1.0) -> None:
        self.world = world
        self.rate = rate
        self.offset = epoch
        self.stopped_until = 0.0
        self.data: dict[bytes, tuple[Any, float | None]] = {}  # bytes, a sorted set (score by member), or a hash
        self.inboxes: dict[bytes, SimInbox] = {}  # by channel: connections that the server takes for alive
        self.replicas, self.appendonly = 0, False  # the copies that every write has by the time it is answered
        self.grants: list[tuple[float, bytes, int]] = []  # time, holder, token: what the scripts gave out
        self.overtaken: list[tuple[float, bytes, bytes]] = []  # time, who was granted, an entry that came before
        self.notes: dict[tuple[bytes, int], bytes] = {}  # what came with a token: a slot, or who it is signed by
        self.neglected: list[tuple[float, bytes]] = []  # time, an entry to whom nothing was handed
        self.breaks: dict[bytes, set[int]] = {}  # by request: the tokens that it was answered
        self._left: tuple[bytes, float] = (b"", 0.0)  # the queue that was left last, and the place there
        self._api = _TABLE()
        self._api[b"call"] = self._call
        self._api[b"pcall"] = self._call
        self._api[b"error_reply"] = self._error_reply

    # -- faults

    def stop(self, seconds: float) -> None:
        self.stopped_until = max(self.stopped_until, self.world.time + seconds)

    def wipe(self) -> None:
        self.data.clear()

    def step_clock(self, seconds: float) -> None:
        self.offset += seconds

    # -- the server

    def now(self) -> float:
        return self.offset + self.world.time * self.rate

    def get(self, key: str) -> bytes | None:
        return self._get(key.encode())

    def ends(self, key: str) -> float:
        """Return the world's time at which a key expires by itself."""
        expires = self.data[key.encode()][1]
        return float("inf") if expires is None else (expires - self.offset) / self.rate

    def run(self, call: Call) -> Any:
        keys, args = _TABLE(), _TABLE()
        for i, key in enumerate(call.keys, 1):
            keys[i] = key
        for i, arg in enumerate(call.args, 1):
            args[i] = _bytes(arg)
        place, asks, so_far = float("inf"), call.script.name in ASKS, len(self.grants)
        if asks:
            entry, place_so_far = call.args[3:5] or ("", "")
            place = self._place(call.keys[-1], _bytes(entry), _bytes(place_so_far))
        reply = _value(_compiled(call.script.source)(keys, args, self._api))
        if call.script.name == "lock_adopt" and reply[0] == 1:
            self.grants.append((self.world.time, _bytes(call.args[1]), int(reply[1])))
        if call.script.name == "lock_break" and reply[0] == 1:
            self._broken(call.keys[3].rpartition(b":")[2], int(reply[1]), so_far)
        if asks and reply[0] == 1:
            self.notes[_bytes(call.args[0]), int(reply[1])] = b"".join(reply[2:])
            self._granted(_bytes(call.args[0]), int(reply[1]), call.keys[-1], place)
        if call.script.name in RELEASES:
            self._neglects(call.script.name, call.keys)
        return reply

    def _neglects(self, script: str, keys: Sequence[bytes]) -> None:
        """Note who waits although the release could have handed something to it."""
        first = next(iter(self._sorted(keys[-1])), None)
        if first is None:
            return
        if script == "semaphore_release":
            permits = int(self._members(keys[1]).get(b"#permits", 0))
            free = len(self.live(keys[0])) < permits
        elif script == "rw_release":
            free = self._get(keys[0]) is None and (first.startswith(b"r ") or not self.live(keys[1]))
        else:
            free = self._get(keys[0]) is None
        if free:
            self.neglected.append((self.world.time, first))

    def live(self, key: bytes) -> dict[bytes, float]:
        """Return the members of a sorted set whose scores (microseconds) are yet to come, and when, by the world."""
        members = {each: (score / 1e6 - self.offset) / self.rate for each, score in self._members(key).items()}
        return {each: ends for each, ends in members.items() if ends > self.world.time}

    def hash(self, key: str) -> dict[bytes, bytes]:
        return self._members(key.encode())

    def _place(self, queue: bytes, entry: bytes, place: bytes) -> float:
        known: float = self._members(queue).get(entry, float(place or "inf"))
        return known

    def _granted(self, holder: bytes, token: int, queue: bytes, place: float) -> None:
        again = any(who == holder for _, who, _ in self.grants)
        self.grants.append((self.world.time, holder, token))
        ahead = [entry for entry, score in self._members(queue).items() if score < place]
        if ahead and not again:
            self.overtaken.append((self.world.time, holder, ahead[0]))

    def _broken(self, request: bytes, token: int, so_far: int) -> None:
        if token not in self.breaks.setdefault(request, set()):
            self.breaks[request].add(token)
            self.grants.insert(so_far, (self.world.time, request, token))  # before whom it was handed to

    def _do_publish(self, channel: bytes, data: bytes) -> int:
        inbox = self.inboxes.get(channel)
        if inbox is None:
            return 0
        words = data.split(b" ")
        if words[1:2] == [b"grant"]:
            holder, token = words[0], int(words[2])
            self.grants.append((self.world.time, holder, token))
            self.notes[holder, token] = words[-1]
            queue, place = self._left
            self.overtaken += [(self.world.time, holder, e) for e, at in self._members(queue).items() if at < place]
        inbox.send(data)
        return 1

    def _do_pubsub(self, _numsub: bytes, channel: bytes) -> Any:
        reply = _TABLE()
        reply[1], reply[2] = channel, int(channel in self.inboxes)
        return reply

    def _error_reply(self, text: bytes) -> Any:
        raise ReplyError(text.decode())

    def _get(self, key: bytes) -> bytes | None:
        entry = self.data.get(key)
        if entry is None:
            return None
        if entry[1] is not None and entry[1] <= self.now():
            del self.data[key]
            return None
        return entry[0]

    def _call(self, command: bytes, *args: Any) -> Any:
        words = [_bytes(arg) for arg in args]
        return getattr(self, f"_do_{command.decode().lower()}")(*words)

    def _do_get(self, key: bytes) -> Any:
        value = self._get(key)
        return False if value is None else value

    def _do_set(self, key: bytes, value: bytes, *options: bytes) -> Any:
        upper = [option.upper() for option in options]
        if b"NX" in upper and self._get(key) is not None:
            return False
        expires = None
        if b"PX" in upper:
            expires = self.now() + int(options[upper.index(b"PX") + 1]) / 1000
        self.data[key] = (value, expires)
        return b"OK"

    def _do_del(self, *keys: bytes) -> int:
        gone = [key for key in keys if self._get(key) is not None]
        for key in gone:
            del self.data[key]
        return len(gone)

    def _do_exists(self, key: bytes) -> int:
        return int(self._get(key) is not None)

    def _do_setrange(self, key: bytes, _offset: bytes, nothing: bytes) -> int:
        assert nothing == b"", "only writing nothing is simulated"
        return len(self._get(key) or b"")

    def _do_persist(self, key: bytes) -> int:
        value = self._get(key)
        had_expiry = value is not None and self.data[key][1] is not None
        if value is not None:
            self.data[key] = (value, None)
        return int(had_expiry)

    def _do_pexpire(self, key: bytes, ms: bytes) -> int:
        value = self._get(key)
        if value is None:
            return 0
        self.data[key] = (value, self.now() + int(ms) / 1000)
        return 1

    def _do_pttl(self, key: bytes) -> int:
        if self._get(key) is None:
            return -2
        expires = self.data[key][1]
        return -1 if expires is None else int((expires - self.now()) * 1000)

    def _members(self, key: bytes) -> dict[bytes, Any]:
        """Return the scores of a sorted set, or the fields of a hash; of one that is not there, none."""
        members: Any = self._get(key)
        return {} if members is None else members

    def _made(self, key: bytes) -> dict[bytes, Any]:
        if self._get(key) is None:
            self.data[key] = ({}, None)
        return self._members(key)

    def _removed(self, key: bytes, *members: bytes) -> list[Any]:
        """Take members out; a key without any is gone."""
        known = self._members(key)
        gone = [known.pop(member) for member in members if member in known]
        if gone and not known:
            del self.data[key]
        return gone

    def _sorted(self, key: bytes) -> list[bytes]:
        members = self._members(key)
        return sorted(members, key=lambda member: (members[member], member))

    def _do_zadd(self, key: bytes, *words: bytes) -> int:
        *options, score, member = words
        known = member in self._members(key)
        if not (b"NX" in options and known):
            self._made(key)[member] = float(score)
        return int(not known)

    def _do_zrem(self, key: bytes, *members: bytes) -> int:
        gone = self._removed(key, *members)
        if gone:
            self._left = key, gone[0]
        return len(gone)

    def _do_zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> int:
        return len(self._removed(key, *self._between(key, low, high)))

    def _between(self, key: bytes, low: bytes, high: bytes) -> list[bytes]:
        members = self._members(key)
        return [member for member in self._sorted(key) if float(low) <= members[member] <= float(high)]

    def _do_zrangebyscore(self, key: bytes, low: bytes, high: bytes, *limit: bytes) -> Any:
        inside = self._between(key, low, high)
        first, count = (int(limit[1]), int(limit[2])) if limit else (0, len(inside))
        return _table(inside[first : first + count])

    def _do_zscore(self, key: bytes, member: bytes) -> Any:
        score = self._members(key).get(member)
        return False if score is None else b"%.17g" % score

    def _do_zcard(self, key: bytes) -> int:
        return len(self._members(key))

    def _do_zrank(self, key: bytes, member: bytes) -> Any:
        order = self._sorted(key)
        return order.index(member) if member in order else False

    def _do_zrange(self, key: bytes, start: bytes, stop: bytes, *withscores: bytes) -> Any:
        order, members = self._sorted(key), self._members(key)
        last = int(stop) if int(stop) >= 0 else len(order) + int(stop)
        first = int(start) if int(start) >= 0 else max(0, len(order) + int(start))
        reply: list[bytes] = []
        for member in order[first : last + 1]:
            reply += [member, b"%.17g" % members[member]] if withscores else [member]
        return _table(reply)

    def _do_hget(self, key: bytes, field: bytes) -> Any:
        return self._members(key).get(field, False)

    def _do_hset(self, key: bytes, *words: bytes) -> int:
        new = [field for field in words[::2] if field not in self._members(key)]
        self._made(key).update(zip(words[::2], words[1::2], strict=True))
        return len(new)

    def _do_hdel(self, key: bytes, *fields: bytes) -> int:
        return len(self._removed(key, *fields))

    def _do_time(self) -> Any:
        seconds, micros = divmod(int(self.now() * 1_000_000), 1_000_000)
        reply = _TABLE()
        reply[1], reply[2] = str(seconds).encode(), str(micros).encode()
        return reply


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (format(value, ".17g") if isinstance(value, float) else str(value)).encode()


def _table(items: list[bytes]) -> Any:
    table = _TABLE()
    for i, item in enumerate(items, 1):
        table[i] = item
    return table


def _value(reply: Any) -> Any:
    """Turn what Lua returned into a reply, as Redis does: lists end at nil, false is nil, numbers are cut."""
    if reply is None or reply is False:
        return None
    if isinstance(reply, float | int):
        return int(reply)
    if isinstance(reply, bytes):
        return reply
    items: list[Any] = []
    while (item := reply[len(items) + 1]) is not None:
        items.append(_value(item))
    return items


class SimStore:
    """The Store port of one process, over a network with weather."""

    def __init__(self, process: Process, server: SimRedis, weather: Weather, *, patience: float = 0.3) -> None:
        self.process = process
        self.server = server
        self.weather = weather
        self.patience = patience
        self.keeper = Keeper(process, self)
        self._inbox = SimInbox(process, server, weather)

    def inbox(self) -> SimInbox:
        return self._inbox

    def __str__(self) -> str:
        return "simulated Redis"

    async def run(self, name: str, call: Call) -> Any:
        reply = (await self.run_many([(name, call)]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_form(self, name: str, form: Form, first: str, *, yielding: bool = False) -> Any:  # noqa: ARG002  nobody here is slow to wake
        return await self.run(name, form.call(first))

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        world, chance = self.process.world, self.process.world.random
        stormy = world.time < self.weather.until
        answer = Wait()

        def hit(share: float) -> bool:
            return stormy and chance.random() < share

        def carry_out(answering: bool) -> None:
            if self.server.stopped_until > world.time:  # its socket buffers keep what comes; it answers later
                world.after(self.server.stopped_until - world.time, lambda: carry_out(answering))
                return
            replies = [self._one(name, call) for name, call in calls]
            if answering and not hit(self.weather.lost_replies):
                self._later(lambda: answer.settle(replies), to_us=True)

        if not hit(self.weather.lost_requests):
            self._later(lambda: carry_out(True))
            if hit(self.weather.repeated):
                self._later(lambda: carry_out(False))
        self.process.after(min(self.patience, within or self.patience), lambda: answer.settle(None))
        replies = await answer
        if replies is None:
            raise StoreUnavailable(calls[0][0], "no answer")
        return list(replies)

    def cannot_confirm(self) -> str | None:
        return None

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        reply = await self.run(name, call)
        return reply, int(confirm.fsync and self.server.appendonly), self.server.replicas

    def _later(self, action: Any, *, to_us: bool = False) -> None:
        world, chance = self.process.world, self.process.world.random
        delay = self.weather.latency * chance.uniform(0.5, 2.0)
        if world.time < self.weather.until and chance.random() < self.weather.slow:
            delay += chance.uniform(0, 2 * self.patience)
        world.after(delay, action, self.process if to_us else None)

    def _one(self, name: str, call: Call) -> Any:
        try:
            return self.server.run(call)
        except ReplyError as error:
            return StoreRefused(name, str(error))
