"""Fence for threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordkit._run import run
from coordkit._sync.clients import RedisClient
from coordkit._threads.redis import store_for
from coordkit._threads.runtime import RUNTIME
from coordkit.core import checks, fence


class Fence:
    """Refuse the past, for values that live in Redis: the comparing side of a fencing token.

    Remembers the highest token seen for ``name``, and refuses every lower one (and an equal one of another holder) in
    the same step in which it reads or writes. **Claim on entry**, or read through the fence, before the first read:
    comparing only on writing still loses updates.

    Pass ``lease.token`` as it is: it carries the holder. Text is kept as UTF-8. The fence never forgets; its key is
    ``coordkit:1:{name}:fence``. On a Cluster, guarded keys must share its tag: ``{name}:...``. One fence takes tokens
    from one source only.
    """

    def __init__(self, redis: RedisClient, name: str) -> None:
        self.name = checks.check_name("name", name)
        self._core = fence.Fence(RUNTIME, store_for(redis), name)

    def claim(self, *, token: int) -> None:
        """Raise the fence to ``token``: from now on every earlier holder is refused.

        Raises ``StaleToken`` if a later holder was here, ``StoreUnavailable`` or ``StoreRefused`` as a lock does.
        """
        run(self._core.claim(token))

    def get(self, key: str | bytes, *, token: int) -> Any:
        """Claim, and return the value of ``key`` as the client decodes it, or None. Raises as ``claim`` does."""
        return run(self._core.get(key, token))

    def set(self, key: str | bytes, value: str | bytes | int, *, token: int, ttl: float | None = None) -> None:
        """Claim, and set ``key`` to ``value``, in one step; it expires after ``ttl`` seconds, None: never.

        Raises as ``claim`` does.
        """
        run(self._core.set(key, value, token, ttl))

    def delete(self, key: str | bytes, *, token: int) -> None:
        """Claim, and delete ``key``, in one step. Raises as ``claim`` does."""
        run(self._core.delete(key, token))

    def run(
        self,
        script: str,
        *,
        token: int,
        keys: Sequence[str | bytes] = (),
        args: Sequence[str | bytes | int] = (),
    ) -> Any:
        """Claim, run a Lua script of yours and return what it returns as EVAL would, in one step.

        It finds ``keys`` as KEYS and ``args`` as ARGV. A value built into the text makes a new script each time,
        and the server keeps them all. An error of the script, of its syntax too, is ``StoreRefused``; what it wrote
        before that stays, as ever in Redis. Raises as ``claim`` does.

        It is sent once, because it may not stand being carried out twice: after ``StoreUnavailable`` whether it ran is
        unknown. A client with ways of its own (a bounded pool, its own ``execute_command``) may send it again,
        by the retries that *it* was given.
        """
        return run(self._core.run(script, keys, args, token))

    def __repr__(self) -> str:
        return f"<Fence {self.name}>"
