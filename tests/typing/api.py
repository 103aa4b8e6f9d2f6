"""Never executed: what a type checker must understand of the API, in both flavours (mypy --strict and pyright)."""

from __future__ import annotations

import redis
import redis.asyncio
from typing_extensions import assert_type

import coordkit
import coordkit.aio
from coordkit import Token


def blocking(client: redis.Redis) -> None:
    lock = coordkit.Lock(client, "jobs", ttl=10, max_hold=60)
    with lock as lease:
        assert_type(lease, coordkit.Lease)
        assert_type(lease.token, Token)
        number: int = lease.token
        print(number, lease.remaining() + 1.0, bool(lease.lost))
    with lock.hold(timeout=2) as lease:
        lease.ensure()
    assert_type(lock.try_acquire(), coordkit.Lease | None)
    assert_type(lock.acquire(timeout=None).release(), bool)

    @lock.hold()
    def job(x: int, *, y: str) -> bytes:
        return f"{x}{y}".encode()

    assert_type(job(1, y="2"), bytes)
    fence = coordkit.Fence(client, "ledger")
    fence.claim(token=7)
    fence.set("k", b"v", token=Token(7, "me"))


async def awaited(client: redis.asyncio.Redis) -> None:
    lock = coordkit.aio.Lock(client, "jobs", ttl=10)
    async with lock as lease:
        assert_type(lease, coordkit.aio.Lease)
        assert_type(lease.token, Token)
        lease.ensure()
        assert_type(await lease.lost.wait(1), bool)
    assert_type(await lock.try_acquire(), coordkit.aio.Lease | None)
    assert_type(await (await lock.acquire()).release(), bool)

    @lock.hold(timeout=0)
    async def job(x: int) -> bytes:
        return str(x).encode()

    assert_type(await job(1), bytes)
    fence = coordkit.aio.Fence(client, "ledger")
    await fence.claim(token=lease.token)
