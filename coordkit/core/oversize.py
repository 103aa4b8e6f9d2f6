"""Finding out that data are too large for the servers, which do not say so: they hang up.

A request larger than the servers' ``jute.maxbuffer`` (1 MiB unless they are told otherwise, for all of the request)
costs the connection, and with it what else the client leads or holds. Asked for again and again, it would do so for
ever.
"""

from __future__ import annotations

from coordkit._ports import Runtime
from coordkit.errors import StoreRefused, StoreUnavailable

LARGE = 16_384
"""Bytes of data that no server is taken to refuse: there, a connection that is lost over them is a bad line."""

_DROPS = 3  # in a row, after which data are taken to be too large
_PAUSE, _LONGEST = 0.2, 5.0  # seconds before they are written again, doubled each time


class Oversize:
    """How often in a row the data of one member were written without an answer."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self._name = name
        self._runtime = runtime
        self._drops = 0
        self._next = 0.0

    def pause(self) -> float:
        """Return the seconds to wait before the data are written again."""
        return max(0.0, self._next - self._runtime.now())

    def answered(self) -> None:
        """Be told of an answer, whatever it says."""
        self._drops, self._next = 0, 0.0

    def unanswered(self, data: bytes, error: StoreUnavailable) -> StoreRefused | None:
        """Be told that there was none; return what to say if the data are too large."""
        self._drops += 1
        if self._drops > 1:
            self._next = self._runtime.now() + min(_LONGEST, _PAUSE * 2.0**self._drops)
        if self._drops < _DROPS or len(data) <= LARGE:
            return None
        self.answered()
        refused = StoreRefused(
            self._name,
            f"the connection was lost {_DROPS} times in a row over writing {len(data)} bytes of data: give less, or "
            "raise jute.maxbuffer on all servers (it bounds the whole request)",
        )
        refused.__cause__ = error
        return refused
