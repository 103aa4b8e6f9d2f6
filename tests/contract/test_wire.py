"""A connection is spoken to directly where that is safe, and answers are the same either way."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit import _reader


def kept(flavour: Any, lock: Any) -> Any:
    """Return the wire that was used last."""
    lines = lock.client._coordkit_store._lines
    if flavour.is_async:
        [home] = lines._homes.values()
        return home.shared or home.idle[-1]
    return lines._idle[-1]


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 2, "decode_responses": True}])
@pytest.mark.parametrize("fast", [True, False])
async def test_both_ways_give_the_same(
    flavour: Any,
    maybe: Any,
    coordkit_redis_server: Any,
    coordkit_namespace: str,
    options: dict[str, Any],
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fast:
        monkeypatch.setattr(_reader, "_KNOWN", ())  # as without hiredis, or with a redis-py laid out in another way
    elif not _reader._KNOWN:
        pytest.skip("hiredis is not installed")
    client = flavour.redis(coordkit_redis_server.url, **options)
    lock, other = (flavour.Lock(client, coordkit_namespace, ttl=10) for _ in range(2))
    async with flavour.within(lock) as lease:
        assert type(kept(flavour, lock)).__name__ == ("FastWire" if fast else "Wire")
        assert await maybe(other.try_acquire()) is None
        await maybe(lease.renew())
        assert lease.token > 0
    async with flavour.within(other) as after:
        assert after.token > lease.token
