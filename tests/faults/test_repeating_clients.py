"""Clients that send again by themselves what got no answer, and through which coordkit must speak: nobody learns of it.

A release that was carried out, and was sent again, says that it found nothing: that is no loss.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit import LeaseLost, StoreRefused
from coordkit.testing import FaultProxy

SAID_YES = b":1\r\n"


@pytest.fixture
def proxy(coordkit_faults: Any, coordkit_redis_server: Any) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_redis_server)


def client_of(flavour: Any, url: str, how: str, tries: int) -> Any:
    """Return a client that coordkit must speak through."""
    lost = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
    retry = (AsyncRetry if flavour.is_async else Retry)(NoBackoff(), tries, supported_errors=lost)
    options: dict[str, Any] = {"retry": retry, "socket_timeout": 2}
    if how == "bounded":
        return flavour.redis(url, max_connections=50, **options)
    if how == "single":
        return flavour.redis(url, single_connection_client=True, **options)
    kind = redis.asyncio.Redis if flavour.is_async else redis.Redis

    class Own(kind):  # type: ignore[valid-type, misc]  # one of two
        if flavour.is_async:

            async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
                return await super().execute_command(*args, **kwargs)
        else:

            def execute_command(self, *args: Any, **kwargs: Any) -> Any:
                return super().execute_command(*args, **kwargs)

    return flavour.closing(Own.from_url(url, **options))


def made(flavour: Any, client: Any, name: str, kind: str) -> Any:
    if kind == "lock":
        return flavour.Lock(client, name, ttl=30)
    if kind == "permit":
        return flavour.Semaphore(client, name, permits=1, ttl=30)
    return flavour.ReadWriteLock(client, name, ttl=30).write


@pytest.mark.parametrize("kind", ["lock", "permit", "write"])
@pytest.mark.parametrize("how", ["bounded", "single", "own"])
async def test_a_release_that_the_client_sent_again_is_no_loss(
    flavour: Any, proxy: Any, coordkit_namespace: str, how: str, kind: str
) -> None:
    held = made(flavour, client_of(flavour, proxy.url, how, tries=3), coordkit_namespace, kind)
    async with flavour.within(held):
        pass
    async with flavour.within(held) as lease:
        proxy.drop_reply_matching(SAID_YES)
    assert proxy.hits["drop_reply_matching"] == 1
    assert lease.remaining() == 0
    async with flavour.within(held.hold(timeout=0)):
        pass  # it was given back


async def test_a_client_that_sends_once_tells_of_a_loss(
    flavour: Any, proxy: Any, coordkit_namespace: str, coordkit_redis_server: Any
) -> None:
    lock = flavour.Lock(client_of(flavour, proxy.url, "own", tries=0), coordkit_namespace, ttl=30)
    with pytest.raises(LeaseLost, match="taken away"):
        async with flavour.within(lock):
            with redis.Redis.from_url(coordkit_redis_server.url) as admin:
                admin.delete(lock.key)


async def test_what_was_refused_for_a_moment_is_given_back_later(
    flavour: Any, coordkit_redis_server: Any, coordkit_namespace: str, maybe: Any, caplog: Any
) -> None:
    """A lock whose release met NOREPLICAS was kept for the rest of its ttl, and nobody tried again."""
    with redis.Redis.from_url(coordkit_redis_server.url) as admin:
        lock = flavour.Lock(flavour.redis(coordkit_redis_server.url), coordkit_namespace, ttl=600)
        lease = await maybe(lock.acquire())
        admin.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(StoreRefused, match="too few replicas"):
                await maybe(lease.release())
            await flavour.until(lambda: "tried again" in caplog.text)
        finally:
            admin.config_set("min-replicas-to-write", 0)
        await flavour.until(lambda: not admin.exists(lock.key))
