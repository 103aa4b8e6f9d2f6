"""Refuse the past: the comparing side of a fencing token, for values that live in Redis.

A paused holder may wake up after its lease ended and write. No lock can prevent that; the resource can, if it
remembers the highest token it has seen and refuses every lower one in the same step in which it writes.

Compare on *entry*, not only on writing: claim the fence (or read through it) before the first read. Otherwise a new
holder may read, then the paused one writes (its token is still the highest that was *seen*), then the new one
overwrites it, and an acknowledged update is gone.

Not promised: the order of two writes under *one* token when the first got no answer (``StoreUnavailable``): it may be
on its way yet, and land after the second.
"""

from __future__ import annotations

from typing import Any

from coordkit._ports import Call, Runtime, Script, Store
from coordkit.core.answer import answered
from coordkit.core.checks import check_value
from coordkit.core.lock import text
from coordkit.core.token import Token
from coordkit.errors import StaleToken
from coordkit.scripts import load

_CLAIM = load("fence_guard", "fence_claim")
_GET = load("fence_guard", "fence_get")
_SET = load("fence_guard", "fence_set")
_DELETE = load("fence_guard", "fence_delete")


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

    async def set(self, key: str | bytes, value: str | bytes | int, token: int) -> None:
        await self._guarded(_SET, token, key, check_value(value))

    async def delete(self, key: str | bytes, token: int) -> None:
        await self._guarded(_DELETE, token, key)

    async def _guarded(
        self, script: Script, token: int, key: str | bytes | None = None, *values: str | bytes | int
    ) -> Any:
        number, holder = _check_token(token)
        keys = (self._key,) if key is None else (self._key, _check_key(key))
        call = Call(script, keys, (f"{number:020d}", holder, *values))
        # Asked again only if the connection was dead: a write that is merely slow may land after a later one of ours.
        reply = await answered(self._runtime, lambda: self._store.run(self.name, call), self._runtime.now())
        if reply[0]:
            return reply
        seen, by = int(reply[1]), text(reply[2])
        why = f"token {number} is late: the resource has seen {seen}" + (f" of {by}" if by else "")
        raise StaleToken(self.name, f"{why}; stop working", token=number, seen=seen)


def _check_token(token: int) -> tuple[int, str]:
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"token must be an int (lease.token), got {token!r}")
    if not 0 < token < 1 << 63:
        raise ValueError(f"token must be between 1 and 2**63 - 1, got {token!r}")
    return int(token), token.holder if isinstance(token, Token) else ""


def _check_key(key: str | bytes) -> bytes:
    if not isinstance(key, str | bytes):
        raise TypeError(f"key must be a str or bytes, got {key!r}")
    return key.encode() if isinstance(key, str) else key
