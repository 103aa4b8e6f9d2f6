"""The rights that the README says a user needs: enough for all that a kind does, and none of them too many.

The table is read from the README, so that what is written is what is tested.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordkit import AcquireTimeout, CoordError
from coordkit.testing.deployments import tell

README = Path(__file__).resolve().parents[2] / "README.md"
TOLD = "to be told, also"
ROWS = {  # by kind: the rows of the table that count
    "lock": ("`Lock`, `MultiLock`", TOLD),
    "several": ("`Lock`, `MultiLock`", TOLD),
    "read": ("`Lock`, `MultiLock`", "`ReadWriteLock`, also", TOLD),
    "write": ("`Lock`, `MultiLock`", "`ReadWriteLock`, also", TOLD),
    "permit": ("`Lock`, `MultiLock`", "`Semaphore`, also", TOLD),
    "copied": ("`Lock`, `MultiLock`", "`min_replicas`, `fsync`, also", TOLD),
    "redis-py": ("`Lock`, `MultiLock`",),
    "quorum": ("`QuorumLock`",),
    "fence": ("`Fence`",),
}
kinds = pytest.mark.parametrize("kind", ROWS)
QUEUES = {"read": "rw:queue", "write": "rw:queue", "permit": "semaphore:queue"}
# Where these are lacking nothing is told; the right to count listeners serves those only whose subscription broke
# unnoticed, and a refused PING is an answer as well.
UNNOTICED = {"+ping", "+pubsub|numsub"}


def rights(*rows: str) -> list[str]:
    """Return what the rows of the README's table name: commands, keys and channels."""
    found: list[str] = []
    for row in rows:
        line = next(line for line in README.read_text().splitlines() if line.startswith(f"| {row} |"))
        for code in re.findall(r"`([^`]+)`", line.removeprefix(f"| {row} |")):
            found += code.replace(r"\|", "|").split()
    return [each for each in dict.fromkeys(found) if each != "+waitaof"]  # Redis 7.2; it is test_confirm.py's


@pytest.fixture
def servers(kind: str, request: pytest.FixtureRequest) -> list[Any]:
    if kind == "quorum":
        return list(request.getfixturevalue("coordkit_redis_quorum"))
    if kind == "copied":
        return [request.getfixturevalue("coordkit_redis_replicated").primary]
    return [request.getfixturevalue("coordkit_redis_server")]


@pytest.fixture(scope="module")
def users() -> Iterator[list[tuple[Any, str]]]:
    """Delete users when all is over: what a test left is given back in the background, by the same user."""
    made_here: list[tuple[Any, str]] = []
    yield made_here
    for server, name in made_here:
        tell(server, "ACL", "DELUSER", name)


@pytest.fixture
def client_of(flavour: Any, servers: list[Any], coordkit_namespace: str, users: Any) -> Callable[..., list[Any]]:
    """Give a way to make clients, one for each server, of a user who has some rights and no more."""

    def make(*allowed: str) -> list[Any]:
        for server in servers:
            tell(server, "SCRIPT", "FLUSH")  # so that they must be taught
            wanted = ("reset", "resetchannels", "on", ">secret", f"~{coordkit_namespace}*", *allowed)
            tell(server, "ACL", "SETUSER", coordkit_namespace, *wanted)
            users.append((server, coordkit_namespace))
        return [flavour.redis(server.url, username=coordkit_namespace, password="secret") for server in servers]

    return make


def made(flavour: Any, clients: list[Any], kind: str, name: str) -> Any:
    options: dict[str, Any] = {"ttl": 60}
    if kind == "quorum":
        return flavour.QuorumLock(flavour.Quorum(clients), name, **options)
    if kind == "several":
        return flavour.MultiLock(clients[0], [f"{name}-a", name], **options)
    if kind in ("read", "write"):
        return getattr(flavour.ReadWriteLock(clients[0], name, **options), kind)
    if kind == "permit":
        return flavour.Semaphore(clients[0], name, permits=1, **options)
    if kind == "copied":
        options["min_replicas"] = 1
    if kind == "redis-py":
        options["compatible_with"] = "redis-py"
    return flavour.Lock(clients[0], name, **options)


async def life(flavour: Any, clients: list[Any], kind: str, name: str, look: Any, patience: float) -> None:
    """Do all that one does with a kind: hold, renew, wait and be handed it, wait in vain, wait for a crash to end."""
    maybe = flavour.maybe
    if kind == "fence":
        await _guarded(flavour, clients[0], name)
        return
    if kind == "quorum":
        await maybe(flavour.Quorum(clients).initialise())
    wanted = made(flavour, clients, kind, name)
    ahead = made(flavour, clients, "write" if kind == "read" else kind, name)
    queue = f"coordkit:1:{{{name}}}:{QUEUES.get(kind, 'queue')}"

    async def wait() -> Any:
        return await maybe(wanted.acquire(timeout=patience))

    held = await maybe(ahead.acquire(timeout=patience))
    with pytest.raises(AcquireTimeout):
        await maybe(wanted.acquire(timeout=0.05))
    running = flavour.spawn(wait)
    if kind not in ("quorum", "redis-py"):
        await flavour.until(lambda: running.done() or tell(look, "ZCARD", queue) == 1)
    await maybe(held.renew())
    await maybe(held.release())
    lease = await running.result()
    await maybe(lease.renew())
    assert await maybe(lease.release()) is True
    if kind not in ("several", "quorum"):
        await ahead._contender.grantor.grant("somebody:who:died", 0.3)
        after = await wait()
        assert await maybe(after.release()) is True
    if kind in ("lock", "redis-py"):
        await _changes_hands(flavour, wanted, patience)


async def _changes_hands(flavour: Any, lock: Any, patience: float) -> None:
    maybe = flavour.maybe
    lease = await maybe(lock.acquire(timeout=patience))
    assert (await maybe(lock.holder())).id == lease.holder
    if lock.key != lock.name:  # what is redis-py's is not handed over
        lease = await maybe(lock.adopt(await maybe(lease.handover())))
    await maybe(lock.break_lease())
    assert await maybe(lease.release()) is False


async def _guarded(flavour: Any, client: Any, name: str) -> None:
    fence, key = flavour.Fence(client, name), f"{{{name}}}:value"
    await flavour.maybe(fence.claim(token=7))
    await flavour.maybe(fence.set(key, "x", token=7))
    assert await flavour.maybe(fence.get(key, token=7)) == b"x"
    await flavour.maybe(fence.run("return redis.call('GET', KEYS[1])", keys=[key], token=7))
    await flavour.maybe(fence.delete(key, token=7))


@kinds
async def test_the_least_rights_are_enough(
    flavour: Any, kind: str, client_of: Any, servers: list[Any], coordkit_namespace: str, caplog: Any
) -> None:
    guarded = [f"~{{{coordkit_namespace}*"] if kind == "fence" else []
    allowed = [each for each in rights(*ROWS[kind]) if each != "~jobs"]
    await life(flavour, client_of(*allowed, *guarded), kind, f"{coordkit_namespace}:job", servers[0], 20)
    assert [line for line in caplog.messages if coordkit_namespace in line or "cannot subscribe" in line] == []


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (kind, right)
        for kind in ("lock", "write", "read", "permit", "copied", "quorum", "fence")
        for right in rights(*ROWS[kind])
        if right not in UNNOTICED and (kind in ("lock", "quorum", "fence") or right in rights(ROWS[kind][1]))
    ],
)
async def test_and_none_is_too_many(
    flavour: Any, kind: str, lacking: str, client_of: Any, servers: list[Any], coordkit_namespace: str, caplog: Any
) -> None:
    """Without any of them something is refused, or a log line says that contenders must ask again."""
    guarded = [f"~{{{coordkit_namespace}*"] if kind == "fence" else []
    allowed = [each for each in rights(*ROWS[kind]) if each != lacking]
    try:
        await life(flavour, client_of(*allowed, *guarded), kind, f"{coordkit_namespace}:job", servers[0], 1.0)
    except (CoordError, AssertionError):
        return
    assert [line for line in caplog.messages if "cannot subscribe" in line]


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (kind, right)
        for kind in ("lock", "write", "read", "permit", "quorum")
        for right in rights(*ROWS[kind])
        if right.startswith("+") and right not in UNNOTICED | {"+evalsha", "+eval"}
    ],
)
async def test_who_lacks_a_right_keeps_nobody_else_out(
    flavour: Any, kind: str, lacking: str, client_of: Any, servers: list[Any], coordkit_namespace: str
) -> None:
    """A script may write before it comes to what is forbidden; its ttl is a minute here."""
    maybe, name = flavour.maybe, f"{coordkit_namespace}:left"
    others = [flavour.redis(server.url) for server in servers]
    if kind == "quorum":
        await maybe(flavour.Quorum(others).initialise())
    wanted = made(flavour, client_of(*[each for each in rights(*ROWS[kind]) if each != lacking]), kind, name)
    try:
        lease = await maybe(wanted.acquire(timeout=0))
    except CoordError:
        kinds_in_the_way = ("read", "write") if kind in ("read", "write") else (kind,)
        for one in kinds_in_the_way:
            another = made(flavour, others, one, name)
            lease = await maybe(another.acquire(timeout=5))
            assert await maybe(lease.release())
    else:
        with contextlib.suppress(CoordError):  # what was granted may need a right to be given back
            await maybe(lease.release())
        if kind != "quorum":
            await maybe(others[0].delete(wanted.key))


ON_A_CLUSTER = "to be told on a Cluster, also"
PLAIN = {"+publish", "+subscribe", "+pubsub|numsub"}  # for where there are no sharded channels
on_a_cluster = pytest.mark.parametrize("deployment", ["cluster"], indirect=True)


def no_channel(log: Any) -> list[str]:
    """Return what is logged of somebody who may not listen, and asks again instead."""
    return [line for line in log.messages if "cannot subscribe" in line]


async def handed_on_a_cluster(flavour: Any, deployment: Any, namespace: str, allowed: list[str], log: Any) -> None:
    """Hold, renew, wait and be handed a lock, or be logged to ask again, as a user with these rights."""
    maybe = flavour.maybe
    if int(redis.__version__.partition(".")[0]) < 6:
        allowed = [*allowed, "+info"]  # asked of each node, to know that it is a Cluster
    for server in deployment.servers.nodes:
        tell(server, "SCRIPT", "FLUSH")
        tell(server, "ACL", "SETUSER", namespace, "reset", "resetchannels", "on", ">secret", *allowed)
    try:
        options = {"username": namespace, "password": "secret"}
        lock, other = (flavour.Lock(deployment.redis(**options), f"{namespace}:job", ttl=60) for _ in range(2))
        primary = deployment.servers.primary_for(lock.key)
        held = await maybe(lock.acquire(timeout=20))
        running = flavour.spawn(lambda: maybe(other.acquire(timeout=20)))
        queue = lock.key.removesuffix("lock") + "queue"
        await flavour.until(lambda: running.done() or no_channel(log) or tell(primary, "ZCARD", queue) == 1)
        await maybe(held.renew())
        assert await maybe(held.release()) is True
        lease = await running.result()
        assert lease.token > held.token
        assert await maybe(lease.release()) is True
    finally:
        for server in deployment.servers.nodes:
            tell(server, "ACL", "DELUSER", namespace)


@on_a_cluster
@pytest.mark.parametrize("plain", [True, False], ids=["all", "sharded channels only"])
async def test_on_a_cluster(flavour: Any, deployment: Any, coordkit_namespace: str, caplog: Any, plain: bool) -> None:
    allowed = [each for each in rights(*ROWS["lock"], ON_A_CLUSTER) if plain or each not in PLAIN]
    await handed_on_a_cluster(flavour, deployment, coordkit_namespace, allowed, caplog)
    assert [line for line in caplog.messages if coordkit_namespace in line or "cannot subscribe" in line] == []


@on_a_cluster
@pytest.mark.parametrize("lacking", [each for each in rights(ON_A_CLUSTER) if each != "+pubsub|shardnumsub"])
async def test_and_none_is_too_many_on_a_cluster(
    flavour: Any, deployment: Any, coordkit_namespace: str, caplog: Any, lacking: str
) -> None:
    allowed = [each for each in rights(*ROWS["lock"], ON_A_CLUSTER) if each not in (lacking, *PLAIN)]
    try:
        await handed_on_a_cluster(flavour, deployment, coordkit_namespace, allowed, caplog)
    except (CoordError, redis.exceptions.RedisClusterException, redis.exceptions.RedisError):
        return
    if lacking == "+command" and flavour.is_async:
        return  # of an asyncio client it is asked before its own first command: where a node says that its map is old
    await flavour.until(lambda: no_channel(caplog))
