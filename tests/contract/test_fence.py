"""Refusing the past, in both flavours, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit import StaleToken, StoreRefused, Token


@pytest.fixture
def fence(flavour: Any, coordkit_redis_server: Any, coordkit_namespace: str) -> Any:
    return flavour.Fence(flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:ledger")


@pytest.fixture
def key(coordkit_namespace: str) -> str:
    return f"{{{coordkit_namespace}:ledger}}:42"


async def test_a_lower_token_is_refused_by_every_access(fence: Any, key: str, maybe: Any) -> None:
    await maybe(fence.set(key, "100", token=8))
    refused = [
        lambda: fence.claim(token=7),
        lambda: fence.get(key, token=7),
        lambda: fence.set(key, "0", token=7),
        lambda: fence.delete(key, token=7),
    ]
    for access in refused:
        with pytest.raises(StaleToken, match=r"token 7 is late.* 8") as caught:
            await maybe(access())
        assert (caught.value.token, caught.value.seen) == (7, 8)

    assert await maybe(fence.get(key, token=8)) == b"100"


async def test_every_access_raises_the_fence(fence: Any, key: str, maybe: Any) -> None:
    """Reading too: the trap is that the new holder has read, and the late one writes before it does."""
    accesses = [
        lambda token: fence.claim(token=token),
        lambda token: fence.get(key, token=token),
        lambda token: fence.set(key, "1", token=token),
        lambda token: fence.delete(key, token=token),
    ]
    for token, access in enumerate(accesses, 10):
        await maybe(access(token))
        with pytest.raises(StaleToken):
            await maybe(fence.claim(token=token - 1))


async def test_the_same_token_passes_again(fence: Any, key: str, maybe: Any) -> None:
    token = Token(5, "me")
    await maybe(fence.claim(token=token))
    await maybe(fence.set(key, 1, token=token))
    await maybe(fence.set(key, 2, token=token))

    assert await maybe(fence.get(key, token=token)) == b"2"
    await maybe(fence.delete(key, token=token))
    assert await maybe(fence.get(key, token=token)) is None


async def test_an_equal_token_of_another_holder_is_refused(fence: Any, maybe: Any) -> None:
    """A source that lost its state may repeat a number; the holder tells the two apart."""
    await maybe(fence.claim(token=Token(5, "me")))
    with pytest.raises(StaleToken, match="5 of me"):
        await maybe(fence.claim(token=Token(5, "you")))
    await maybe(fence.claim(token=5))  # a bare number has lost its holder on the way: it cannot be told apart


async def test_tokens_beyond_53_bits_keep_their_order(fence: Any, maybe: Any) -> None:
    """Lua compares numbers as doubles, in which these two are equal."""
    await maybe(fence.claim(token=2**63 - 1))
    with pytest.raises(StaleToken):
        await maybe(fence.claim(token=2**63 - 2))


async def test_a_locks_token_fits(flavour: Any, fence: Any, key: str, maybe: Any, coordkit_redis_server: Any) -> None:
    lock = flavour.Lock(flavour.redis(coordkit_redis_server.url), fence.name, ttl=10)
    async with flavour.within(lock) as first:
        await maybe(fence.set(key, "first", token=first.token))
    async with flavour.within(lock) as second:
        await maybe(fence.claim(token=second.token))
        with pytest.raises(StaleToken):
            await maybe(fence.set(key, "late", token=first.token))

    assert await maybe(fence.get(key, token=second.token)) == b"first"


async def test_bytes_go_through_unchanged(fence: Any, key: str, maybe: Any) -> None:
    value = bytes(range(256))
    await maybe(fence.set(key.encode(), value, token=1))

    assert await maybe(fence.get(key, token=1)) == value


async def test_a_guarded_key_of_another_type(
    flavour: Any, fence: Any, key: str, maybe: Any, coordkit_redis: Any
) -> None:
    coordkit_redis.rpush(key, "a list")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await maybe(fence.get(key, token=1))
    coordkit_redis.delete(key)
