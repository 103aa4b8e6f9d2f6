"""Connections of our own end with the client by whose recipe they were made."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import redis

from coordkit import AcquireTimeout, Lock
from coordkit.testing.servers import wait_until


def test_they_end_with_their_client(coordkit_redis_server: Any, coordkit_redis: Any, coordkit_namespace: str) -> None:
    """A client for each job is common; asyncio's are closed with their loop, or when they were idle for a while."""
    name = coordkit_namespace.replace(":", "-")

    def there() -> int:
        return sum(one["name"] == name for one in coordkit_redis.client_list())

    client = redis.Redis.from_url(coordkit_redis_server.url, client_name=name)
    lock = Lock(client, f"{coordkit_namespace}:job", ttl=60)
    with lock, pytest.raises(AcquireTimeout):
        lock.acquire(timeout=0.5)  # listens, too
    assert there() == 2
    client.close()
    del client, lock
    gc.collect()

    assert wait_until(lambda: there() == 0, 10)
