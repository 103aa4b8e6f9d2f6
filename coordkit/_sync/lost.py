"""The loss of what one holds, as something to look at and to wait for."""

from __future__ import annotations

from coordkit._ports import Event
from coordkit._run import run


class Lost:
    """Whether a lease, a leadership or a membership was lost; false while it holds."""

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Return whether it was lost."""
        return self._event.is_set()

    __bool__ = is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the loss, at most ``timeout`` seconds (None: for ever); return whether it was lost."""
        return run(self._event.wait(timeout))

    def __repr__(self) -> str:
        return f"<Lost {self.is_set()}>"
