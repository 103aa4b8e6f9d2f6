"""A fence when requests and answers are lost: what may be asked again is, and what may not is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordkit import StaleToken, StoreUnavailable
from coordkit.testing import FaultProxy

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
PASSED = b":1\r\n"  # how every answer of a fence begins that lets somebody through


@pytest.fixture
def proxy(coordkit_faults: Any, coordkit_redis_server: Any) -> FaultProxy:
    return coordkit_faults.proxy(coordkit_redis_server)


@pytest.fixture
def fence(flavour: Any, proxy: FaultProxy, coordkit_namespace: str) -> Any:
    return flavour.Fence(flavour.redis(proxy.url, socket_timeout=2), f"{coordkit_namespace}:ledger")


@pytest.fixture
def key(coordkit_namespace: str) -> str:
    return f"{{{coordkit_namespace}:ledger}}:42"


ACCESSES: dict[str, tuple[Callable[[Any, str], Any], Any, bytes | None]] = {
    "claim": (lambda fence, _: fence.claim(token=5), None, b"before"),
    "get": (lambda fence, key: fence.get(key, token=5), b"before", b"before"),
    "set": (lambda fence, key: fence.set(key, "after", token=5), None, b"after"),
    "set with a ttl": (lambda fence, key: fence.set(key, "after", token=5, ttl=100), None, b"after"),
    "delete": (lambda fence, key: fence.delete(key, token=5), None, None),
}


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("access", ACCESSES)
async def test_a_lost_message_costs_nothing(
    fence: Any, key: str, proxy: Any, maybe: Any, coordkit_redis: Any, access: str, lost: str
) -> None:
    call, returns, leaves = ACCESSES[access]
    await maybe(fence.set(key, "before", token=4))
    drop, needle = (proxy.drop_reply_matching, PASSED) if lost == "reply" else (proxy.drop_request_matching, b"EVALSHA")
    drop(needle)

    assert await maybe(call(fence, key)) == returns

    assert proxy.hits[drop.__name__] == 1
    assert coordkit_redis.get(key) == leaves
    with pytest.raises(StaleToken):
        await maybe(fence.claim(token=4))


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_users_script_is_sent_once(
    fence: Any, key: str, proxy: Any, maybe: Any, coordkit_redis: Any, lost: str
) -> None:
    """It adds: were it asked again, as a claim is, a lost answer would count twice."""
    assert await maybe(fence.run(ADD, keys=[key], args=[5], token=5)) == 5
    drop, needle = (proxy.drop_reply_matching, PASSED) if lost == "reply" else (proxy.drop_request_matching, b"EVALSHA")
    drop(needle)

    with pytest.raises(StoreUnavailable, match="whether it was carried out is unknown"):
        await maybe(fence.run(ADD, keys=[key], args=[5], token=5))

    assert proxy.hits[drop.__name__] == 1
    assert coordkit_redis.get(key) == (b"10" if lost == "reply" else b"5")
    assert await maybe(fence.run("return redis.call('GET', KEYS[1])", keys=[key], token=5)) == coordkit_redis.get(key)


async def test_a_refusal_whose_answer_was_lost_is_a_refusal(fence: Any, key: str, proxy: Any, maybe: Any) -> None:
    await maybe(fence.claim(token=8))
    proxy.drop_reply_matching(b"*3\r\n:0\r\n")
    with pytest.raises(StaleToken):
        await maybe(fence.set(key, "late", token=7))

    assert proxy.hits["drop_reply_matching"] == 1
    assert await maybe(fence.get(key, token=8)) is None


async def test_a_server_that_forgot_the_scripts(fence: Any, key: str, maybe: Any, coordkit_redis: Any) -> None:
    """SCRIPT FLUSH, a restart, a failover: what is not known by its name is sent as text, and carried out once."""
    for expected in (5, 10):
        coordkit_redis.script_flush()
        assert await maybe(fence.run(ADD, keys=[key], args=[5], token=5)) == expected
