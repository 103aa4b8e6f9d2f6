"""A connection that asyncio tasks share is dropped while much is under way on it, as the fence does."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import redis
import redis.asyncio

from coordkit.aio import ShardedRedis
from coordkit.errors import StoreUnavailable
from coordkit.routing.ways.batch import TAKE
from coordkit.testing.processes import start_redis


@pytest.fixture(scope="module")
def server() -> Any:
    with start_redis(args=["--enable-debug-command", "yes"]) as started:
        yield started


@pytest.mark.parametrize("how", ["awaited", "cancelled", "closed"])
async def test_the_loop_has_nothing_to_complain_of(server: Any, how: str) -> None:
    """Whoever still waits is told; who was cancelled, or is a coroutine that was closed, is nobody's affair."""
    said: list[Any] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: said.append(context))
    shards = ShardedRedis({"a": redis.asyncio.Redis.from_url(server.url)})
    with redis.Redis.from_url(server.url) as stalling, redis.Redis.from_url(server.url) as dropping:
        try:
            await shards.set("k", 0)
            await shards.set("big", b"x")
            stalled = stalling.connection_pool.get_connection(*TAKE)
            drop = dropping.connection_pool.get_connection(*TAKE)
            stalled.send_command("DEBUG", "SLEEP", "0.3")
            drop.send_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            calls: list[Any] = [
                *(shards.incr("k") for _ in range(20)),
                *(shards.pipeline().incr("k").incr("l").execute() for _ in range(20)),
                *(shards.execute_command("SET", "big", b"x" * 100_000) for _ in range(3)),
            ]
            if how == "closed":
                for call in calls:
                    call.send(None)  # up to where it waits for the reply
                    call.close()
                outcomes: list[Any] = []
            else:
                tasks = [asyncio.ensure_future(call) for call in calls]
                await asyncio.sleep(0.05)
                for task in tasks[:: 2 if how == "cancelled" else 99]:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                del tasks
            assert all(isinstance(each, StoreUnavailable | asyncio.CancelledError) for each in outcomes)
            await asyncio.to_thread(drop.read_response)
            del outcomes, calls
            wire = shards._ways["a"]._home().shared
            while wire is not None and wire.usable:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0.01)
            del wire
            gc.collect()
            await asyncio.sleep(0.01)
            assert said == []
        finally:
            await shards.aclose()
            loop.set_exception_handler(before)
