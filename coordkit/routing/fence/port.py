"""What moving and fencing need of a shard: one server, spoken to in pipelines over fenced connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from coordkit._ports import Call, Confirm

Word = bytes | str | int
Command = tuple[Word, ...]


class ShardPort(Protocol):
    """The primary of one shard, for one decision. Replies are raw: bytes, never decoded; connections are greeted.

    No answer is StoreUnavailable (ShardDown, if it was certainly not sent). A connection that has seen a later epoch
    than that of the topology by which we decided is not used, and `Outdated` says so (see `fence`). Nothing is sent
    twice by itself: whoever asks decides that.
    """

    @property
    def shard(self) -> str:
        """The shard's name."""
        ...

    @property
    def patience(self) -> float:
        """How long an answer may take, in seconds; infinite where the client sets no bound."""
        ...

    @property
    def made(self) -> int:
        """How many connections have been made so far (see `decision`)."""
        ...

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one pipeline on one connection; a refusal stands in the list in its place.

        Names of commands are given as bytes: redis-py has callbacks for some that are text.
        """
        ...

    async def run(self, call: Call) -> Any:
        """Run one script; raises StoreRefused if the answer is no."""
        ...


class ScriptPort(ShardPort, Protocol):
    """The same, for those who run scripts that many share: locks."""

    async def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one pipeline; a refusal stands in the list in its place."""
        ...

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        """Run one script and wait for its copies; returns and raises what `Store.run_confirmed` does."""
        ...
