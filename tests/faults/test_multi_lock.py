"""Several names on a server that hangs: the caller waits for it once, and not once for each name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from coordkit import StoreUnavailable
from coordkit._threads.runtime import now

NAMES = [f"m{i}" for i in range(8)]
PATIENCE = 1.0  # seconds that a client waits for an answer
FEW = PATIENCE * len(NAMES) / 2  # what a busy machine takes as well


@pytest.fixture
def several(flavour: Any, coordkit_redis_server: Any, coordkit_namespace: str) -> Any:
    client = flavour.redis(coordkit_redis_server.url, socket_timeout=PATIENCE)
    return flavour.MultiLock(client, [f"{coordkit_namespace}:{name}" for name in NAMES], ttl=60)


@pytest.fixture
def all_free(several: Any, coordkit_redis: redis.Redis) -> Callable[[], bool]:
    return lambda: not coordkit_redis.exists(*(f"coordkit:1:{{{name}}}:lock" for name in several.names))


async def test_giving_back(
    flavour: Any,
    maybe: Any,
    several: Any,
    all_free: Callable[[], bool],
    coordkit_redis_server: Any,
    coordkit_faults: Any,
) -> None:
    lease = await maybe(several.acquire())
    coordkit_faults.pause(coordkit_redis_server)
    began = now()
    with pytest.raises(StoreUnavailable):
        await maybe(lease.release())
    assert now() - began < FEW
    assert lease.remaining() == 0
    assert await maybe(lease.release()) is False
    coordkit_faults.resume(coordkit_redis_server)
    await flavour.until(all_free)  # long before the ttl


async def test_acquiring(
    flavour: Any,
    maybe: Any,
    several: Any,
    all_free: Callable[[], bool],
    coordkit_redis: redis.Redis,
    coordkit_redis_server: Any,
    coordkit_faults: Any,
) -> None:
    """The last name is another's, so we wait for it when the server hangs."""
    client = flavour.redis(coordkit_redis_server.url)
    last = await maybe(flavour.Lock(client, several.names[-1], ttl=60).acquire())
    waiting = flavour.spawn(acquired, maybe, several)
    await flavour.until(lambda: coordkit_redis.exists(f"coordkit:1:{{{several.names[-1]}}}:queue"))
    coordkit_faults.pause(coordkit_redis_server)
    began = now()
    with pytest.raises(StoreUnavailable):
        await waiting.result()
    assert now() - began < FEW
    coordkit_faults.resume(coordkit_redis_server)
    await maybe(last.release())
    await flavour.until(all_free)


async def acquired(maybe: Any, lock: Any) -> Any:
    return await maybe(lock.acquire(timeout=1.5))
