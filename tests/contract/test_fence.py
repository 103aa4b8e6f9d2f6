"""Refusing the past, in both flavours, on a real Redis: standalone, Sentinel, Cluster."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from coordkit import CrossShardError, StaleToken, StoreRefused, Token
from coordkit.testing.processes import start_redis


@pytest.fixture
def client(deployment: Any) -> Any:
    return deployment.redis()


@pytest.fixture
def fence(flavour: Any, client: Any, coordkit_namespace: str) -> Any:
    return flavour.Fence(client, f"{coordkit_namespace}:ledger")


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


async def test_a_fence_never_expires(fence: Any, key: str, maybe: Any, client: Any, coordkit_namespace: str) -> None:
    """A resource that forgets lets the late ones in."""
    stored = f"coordkit:1:{{{coordkit_namespace}:ledger}}:fence"
    await maybe(fence.set(key, 1, token=5, ttl=10))
    assert await maybe(client.pttl(stored)) == -1
    await maybe(client.expire(stored, 100))  # by hand, or by an eviction policy's friend
    await maybe(fence.claim(token=5))
    assert await maybe(client.pttl(stored)) == -1


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
    await maybe(fence.claim(token=6))
    await maybe(fence.claim(token=Token(6, "you")))  # nor can whoever comes after one; but from then on he is known
    with pytest.raises(StaleToken, match="6 of you"):
        await maybe(fence.claim(token=Token(6, "me")))
    await maybe(fence.claim(token=6))
    with pytest.raises(StaleToken, match="6 of you"):
        await maybe(fence.claim(token=Token(6, "me")))


async def test_tokens_beyond_53_bits_keep_their_order(fence: Any, maybe: Any) -> None:
    """Lua compares numbers as doubles, in which these two are equal."""
    await maybe(fence.claim(token=2**63 - 1))
    with pytest.raises(StaleToken):
        await maybe(fence.claim(token=2**63 - 2))


async def test_a_locks_token_fits(flavour: Any, fence: Any, key: str, maybe: Any, client: Any) -> None:
    lock = flavour.Lock(client, fence.name, ttl=10)
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


async def test_a_guarded_key_of_another_type(fence: Any, key: str, maybe: Any, client: Any) -> None:
    await maybe(client.rpush(key, "a list"))
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await maybe(fence.get(key, token=1))


async def test_a_value_that_expires(fence: Any, key: str, maybe: Any, client: Any) -> None:
    await maybe(fence.set(key, "soon gone", token=1, ttl=100))
    assert 90_000 < await maybe(client.pttl(key)) <= 100_000
    await maybe(fence.set(key, "stays", token=1))

    assert await maybe(client.pttl(key)) == -1


async def test_a_replica_guards_nothing(flavour: Any, maybe: Any) -> None:
    """Its copy may be old: also the holder who has claimed already, and writes nothing by reading, is told."""
    with start_redis() as primary, start_redis(replica_of=primary) as replica:
        there, here = (flavour.Fence(flavour.redis(server.url), "ledger") for server in (primary, replica))
        await maybe(there.set("{ledger}:42", "100", token=5))
        with redis.Redis.from_url(replica.url) as copy:
            await flavour.until(lambda: copy.get("{ledger}:42") == b"100")

        with pytest.raises(StoreRefused, match="read-only replica"):
            await maybe(here.get("{ledger}:42", token=5))


# -- a user's script under the guard


VALUES = [
    "return 7",
    "return -1.9",
    "return 'text'",
    "return ''",
    "return nil",
    "return false",
    "return true",
    "",
    "return 1, 2",
    "return {}",
    "return {0, '00000000000000000009', 'somebody'} -- looks like a refusal",
    "return {1, {2, {'three', false}}, 4, nil, 6}",
    "return redis.status_reply('FINE')",
    "return {redis.status_reply('FINE'), 'a'}",
    "return redis.call('GET', KEYS[1])",
    "return redis.call('SET', KEYS[1], ARGV[1])",
    "return {#KEYS, #ARGV, KEYS[1], ARGV[1], ARGV[2]}",
    "return redis.call('MGET', unpack(KEYS))",
    "local guard, refused = 1, 2\nlocal function f(x) return x + guard + refused end\nreturn f(ARGV[2])",
    "return select('#', ...)",
    "return redis.call('HGETALL', KEYS[2])",
    "-- only a remark",
]


@pytest.mark.parametrize("script", VALUES)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_what_a_script_returns_is_what_eval_returns(
    flavour: Any, maybe: Any, coordkit_redis_server: Any, coordkit_namespace: str, script: str, protocol: int
) -> None:
    client = flavour.redis(coordkit_redis_server.url, protocol=protocol)
    fence, tag = flavour.Fence(client, f"{coordkit_namespace}:ledger"), f"{{{coordkit_namespace}:ledger}}"
    keys, args = [f"{tag}:value", f"{tag}:table"], ["first", 2]
    await maybe(client.hset(keys[1], mapping={"a": 1, "b": 2}))

    expected = await maybe(client.eval(script, 2, *keys, *args))

    for _ in range(2):  # by its text, then by its name
        got = await maybe(fence.run(script, keys=keys, args=args, token=3))
        assert (got, type(got)) == (expected, type(expected))


async def test_errors_inside_a_list_are_handed_back(fence: Any, maybe: Any) -> None:
    got = await maybe(fence.run("return {1, redis.error_reply('ERR mine'), 3}", token=1))

    assert (got[0], str(got[1]), got[2]) == (1, "mine", 3)
    assert isinstance(got[1], redis.ResponseError)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("local x = \nreturn {", r"user_script:2"),
        ("return 1 end", r"rror compiling script"),
        ("return redis.error_reply('ERR my own words')", "my own words"),
        ("-- one\nerror('thrown here')", "user_script:2: thrown here"),
        ("\n\nreturn nothing_of_that_name", "user_script:3: .*nothing_of_that_name"),
        ("return redis.call('LPUSH', KEYS[1], 1)", "WRONGTYPE"),
        ("return redis.call('NOSUCH')", "nknown"),
    ],
)
async def test_an_error_of_a_script_says_what_and_where(
    fence: Any, key: str, maybe: Any, script: str, said: str
) -> None:
    await maybe(fence.set(key, "text", token=4))
    for _ in range(2):
        with pytest.raises(StoreRefused, match=f"(?s)ledger: .*{said}") as caught:
            await maybe(fence.run(script, keys=[key], token=4))
        assert isinstance(caught.value.__cause__, redis.ResponseError)


async def test_a_late_script_does_not_run(fence: Any, key: str, maybe: Any) -> None:
    add = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    assert await maybe(fence.run(add, keys=[key], args=[5], token=8)) == 5
    with pytest.raises(StaleToken) as caught:
        await maybe(fence.run(add, keys=[key], args=[5], token=7))
    assert (caught.value.token, caught.value.seen) == (7, 8)
    assert await maybe(fence.run(add, keys=[key], args=[5], token=9)) == 10

    with pytest.raises(StaleToken):  # running it claimed
        await maybe(fence.claim(token=8))


async def test_a_script_that_failed_has_claimed(fence: Any, maybe: Any) -> None:
    with pytest.raises(StoreRefused):
        await maybe(fence.run("error('no')", token=8))
    with pytest.raises(StaleToken):
        await maybe(fence.claim(token=7))
    await maybe(fence.claim(token=8))


async def test_a_server_without_memory_refuses_before_the_script(flavour: Any, maybe: Any) -> None:
    with start_redis(args=["--maxmemory-policy", "noeviction"]) as server:
        client = flavour.redis(server.url)
        fence = flavour.Fence(client, "ledger")
        await maybe(fence.set("{ledger}:42", "100", token=4))
        await maybe(client.config_set("maxmemory", 1))
        for access in (
            lambda: fence.run("return redis.call('DEL', KEYS[1])", keys=["{ledger}:42"], token=5),
            lambda: fence.claim(token=5),
            lambda: fence.set("{ledger}:42", "0", token=5),
            lambda: fence.delete("{ledger}:42", token=5),
        ):
            with pytest.raises(StoreRefused, match="out of memory"):
                await maybe(access())
        await maybe(client.config_set("maxmemory", 0))

        assert await maybe(fence.get("{ledger}:42", token=4)) == b"100"  # refused as a whole: 5 was not remembered


# -- on a Cluster


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
async def test_guarded_keys_share_the_tag_on_a_cluster(fence: Any, key: str, maybe: Any) -> None:
    other = f"{key}:too"
    await maybe(fence.set(key, "1", token=5))
    add = "redis.call('SET', KEYS[2], ARGV[1]) return redis.call('INCRBY', KEYS[1], ARGV[1])"

    assert await maybe(fence.run(add, keys=[key, other], args=[4], token=5)) == 5
    assert await maybe(fence.get(other, token=5)) == b"4"
    with pytest.raises(StaleToken):
        await maybe(fence.run(add, keys=[key, other], args=[4], token=4))
    with pytest.raises(CrossShardError, match="tag"):
        await maybe(fence.run(add, keys=[key, "elsewhere"], args=[4], token=5))
