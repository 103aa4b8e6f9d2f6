"""Refuse the past: the comparing side of a fencing token, for values that live in Redis.

A paused holder may wake up after its lease ended and write. No lock can prevent that; the resource can, if it
remembers the highest token it has seen and refuses every lower one in the same step in which it writes.

Compare on *entry*, not only on writing: claim the fence (or read through it) before the first read. Otherwise a new
holder may read, then the paused one writes (its token is still the highest that was *seen*), then the new one
overwrites it, and an acknowledged update is gone.

Our own accesses stand being carried out twice, so they are asked again when no answer came. A user's script may not
(it may add, or push): it is sent once.

Not promised: the order of two writes under *one* token when the first got no answer (``StoreUnavailable``): it may be
on its way yet, and land after the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from coordkit._ports import Call, Runtime, Script, Store
from coordkit.core.answer import answered
from coordkit.core.checks import check_ttl, check_value
from coordkit.core.lock import milliseconds, text
from coordkit.core.token import check_token
from coordkit.errors import StaleToken
from coordkit.scripts import around, load

_CLAIM = load("fence_guard", "fence_claim")
_GET = load("fence_guard", "fence_get")
_SET = load("fence_guard", "fence_set")
_DELETE = load("fence_guard", "fence_delete")
_RUN = load("fence_guard", "fence_run")


class Fence:
    """The highest token seen for one resource, and the accesses it guards."""

    def __init__(self, runtime: Runtime, store: Store, name: str) -> None:
        self.name = name
        self._runtime = runtime
        self._store = store
        self._key = f"coordkit:1:{{{name}}}:fence".encode()

    async def claim(self, token: int) -> None:
        await self._guarded(_CLAIM, token)

    async def get(self, key: str | bytes, token: int) -> Any:
        reply = await self._guarded(_GET, token, key)
        return reply[1] if len(reply) > 1 else None

    async def set(self, key: str | bytes, value: str | bytes | int, token: int, ttl: float | None = None) -> None:
        keep = "" if ttl is None else milliseconds(check_ttl(ttl))
        await self._guarded(_SET, token, key, check_value("value", value), keep)

    async def delete(self, key: str | bytes, token: int) -> None:
        await self._guarded(_DELETE, token, key)

    async def run(self, script: str, keys: Sequence[str | bytes], args: Sequence[str | bytes | int], token: int) -> Any:
        checked = [_check_key(f"keys[{i}]", key) for i, key in enumerate(_check_several("keys", keys))]
        values = [check_value(f"args[{i}]", arg) for i, arg in enumerate(_check_several("args", args))]
        call = self._call(_guarding(_check_script(script)), token, checked, values)
        reply = self._passed(token, await self._store.run(self.name, call))
        return reply[1] if len(reply) > 1 else None

    async def _guarded(
        self, script: Script, token: int, key: str | bytes | None = None, *values: str | bytes | int
    ) -> Any:
        call = self._call(script, token, [] if key is None else [_check_key("key", key)], values)
        # Asked again only if the connection was dead: a write that is merely slow may land after a later one of ours.
        reply = await answered(self._runtime, lambda: self._store.run(self.name, call), self._runtime.now())
        return self._passed(token, reply)

    def _call(self, script: Script, token: int, keys: Sequence[bytes], args: Sequence[str | bytes | int]) -> Call:
        number, holder = check_token(token)
        return Call(script, (self._key, *keys), (f"{number:020d}", holder, *args))

    def _passed(self, token: int, reply: Any) -> Any:
        if reply[0]:
            return reply
        raise stale(self.name, token, int(reply[1]), text(reply[2]))


def stale(name: str, token: int, seen: int, by: str) -> StaleToken:
    """Return the error of a resource that has seen a later token, or an equal one of another holder, ``by``."""
    why = f"token {token} is late: the resource has seen {seen}" + (f" of {by}" if by else "")
    return StaleToken(name, f"{why}; stop working", token=token, seen=seen)


@lru_cache(maxsize=256)
def _guarding(script: str) -> Script:
    return around(_RUN, script)


def _check_script(script: object) -> str:
    if not isinstance(script, str):
        raise TypeError(f"script must be a str of Lua, got {script!r}")
    if script.startswith("#!"):
        raise ValueError(f"script must not begin with a '#!' line, which could not stay the first: {script[:40]!r}")
    return script


def _check_several(argument: str, value: Any) -> Any:
    if isinstance(value, str | bytes):
        raise TypeError(f"{argument} must be a sequence, got {value!r}: write [{value!r}]")
    return value


def _check_key(argument: str, key: object) -> bytes:
    if not isinstance(key, str | bytes):
        raise TypeError(f"{argument} must be a str or bytes, got {key!r}")
    return key.encode() if isinstance(key, str) else key
