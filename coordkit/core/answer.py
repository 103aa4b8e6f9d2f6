"""Ask again when no answer came: only for requests that stand being carried out twice, as all our scripts do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_random_exponential

from coordkit._ports import Runtime
from coordkit.errors import StoreUnavailable

T = TypeVar("T")

_TRIES = 3  # of one request: a dropped connection heals, an outage is told soon
_PAUSES = wait_random_exponential(multiplier=0.02, max=0.5)
_AT_ONCE = 0.1  # seconds: a request that failed so soon met a dead connection, not a slow server


async def answered(
    runtime: Runtime,
    ask: Callable[[], Awaitable[T]],
    deadline: float,
    *,
    failed: StoreUnavailable | None = None,
    began: float = 0.0,
) -> T:
    """Ask up to three times; after ``deadline`` (on the runtime's clock) only if the failure came at once.

    So a caller waits its own timeout and one of the client's, and a connection that died while it was idle costs
    nobody an error. Whoever made the first try says when it ``began`` and how it ``failed``.
    """
    attempt: RetryCallState | None = None
    while True:
        if failed is None:
            began = runtime.now()
            try:
                return await ask()
            except StoreUnavailable as error:
                failed = error
        attempt = attempt or attempts()
        now = runtime.now()
        if attempt.attempt_number >= _TRIES or (now >= deadline and now - began > _AT_ONCE):
            raise failed
        failed = None
        await runtime.sleep(_PAUSES(attempt))
        attempt.attempt_number += 1


def attempts() -> RetryCallState:
    """Return what a tenacity wait strategy reads the attempt's number from; none of tenacity's machinery runs."""
    return RetryCallState(_OWNER, None, (), {})


_OWNER = AsyncRetrying()  # a state wants one
