"""Both flavours of coordkit for one text of a worker: an ``async def`` that blocks in threads, or suspends in tasks."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordkit._run import run

Actor = Callable[[], Coroutine[Any, Any, None]]


async def maybe(value: Any) -> Any:
    """Await what an asyncio call gave; hand on what a blocking call gave."""
    return await value if inspect.isawaitable(value) else value


class Flavour:
    """``blocking`` or ``asyncio``: its API, its clients, how it sleeps, and how its actors run side by side."""

    def __init__(self, name: str) -> None:
        self.is_async = name == "asyncio"
        self.api = importlib.import_module("coordkit.aio" if self.is_async else "coordkit")
        self._redis = importlib.import_module("redis.asyncio" if self.is_async else "redis")

    def connect(self, url: str, timeout: float) -> Any:
        return self._redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)

    async def close(self, client: Any) -> None:
        await maybe((getattr(client, "aclose", None) or client.close)())

    async def sleep(self, seconds: float) -> None:
        if self.is_async:
            await asyncio.sleep(max(0.0, seconds))
        else:
            time.sleep(max(0.0, seconds))  # noqa: ASYNC251 - in the blocking flavour there is no loop to block

    def run(self, actors: Sequence[Actor]) -> None:
        """Run all of them to their ends; raise the first error of any."""
        if self.is_async:
            asyncio.run(_tasks(actors))
        else:
            _threads(actors)


async def _tasks(actors: Sequence[Actor]) -> None:
    await asyncio.gather(*(actor() for actor in actors))


def _threads(actors: Sequence[Actor]) -> None:
    errors: list[BaseException] = []

    def body(actor: Actor) -> None:
        try:
            run(actor())
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=body, args=(actor,), daemon=True) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
