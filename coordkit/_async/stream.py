"""What all streams have in common, for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from coordkit.core import checks

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs

T = TypeVar("T")


class Core(Protocol):
    """What a stream reads from, and has to let go of."""

    def close(self) -> None: ...
    def let_go(self) -> None: ...


class Stream(Generic[T]):
    """Iterate over it, and close it (or leave its ``async with``) when done.

    Made as one of its kinds, never by itself.
    """

    __slots__ = ("_core", "_following")

    def __init__(self, core: Core, following: Callable[[float | None], Coroutine[Any, Any, T | None]]) -> None:
        self._core = core
        self._following = following

    async def next(self, timeout: float | None = None) -> T | None:
        """Wait for news and return it; None after ``timeout`` seconds without any, or if the stream is closed."""
        return await self._following(checks.check_timeout(timeout))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        news = await self._following(None)
        if news is None:
            raise StopAsyncIteration
        return news

    def close(self) -> None:
        """End the stream; a reader that waits for it, in another thread or task, ends as well."""
        self._core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._core.let_go()  # a loop that was left by break leaves no listener behind
