"""The epoch fence on real servers, both flavours: what a connection must have seen, and whom the fence drops."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import redis.asyncio.retry
import redis.retry
import shard_ports
from redis.backoff import ConstantBackoff

from coordkit._run import run
from coordkit.errors import StoreRefused, StoreUnavailable
from coordkit.routing.fence.fence import Greeting, drop_connections, local_key, raise_epoch
from coordkit.routing.ways.errors import Outdated
from coordkit.testing.processes import start_redis

TOPOLOGY = "users"
EPOCH = local_key(TOPOLOGY, "epoch")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Give a server of our own: here all connections are dropped again and again."""
    with start_redis() as server:
        yield server


@pytest.fixture
def plain(server: Any) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, socket_timeout=10) as client:
        client.flushall()
        client.set(EPOCH, 1)
        yield client


# The ways in which a command goes out: by itself or in a batch; on the one connection that tasks share, or on one that
# is taken for it (under threads each is).
ALONE, ALONE_TAKEN, BATCH, BATCH_TAKEN = "alone", "alone, taken", "in a batch", "in a batch, taken"
COUNT = "return redis.call('INCR', KEYS[1])"


class Routed:
    """A client that routes by some epoch, over connections that were greeted."""

    def __init__(self, flavour: Any, url: str, epoch: int, **options: Any) -> None:
        self.port: Any = shard_ports.port(flavour, "a", flavour.redis(url, **options), TOPOLOGY, epoch)
        self.epoch = epoch

    def by(self, epoch: int) -> Routed:
        """Return a client that routes by another epoch, over the same connections."""
        other = copy.copy(self)
        other.port, other.epoch = type(self.port)(self.port._way, epoch), epoch
        return other

    async def do(self, *command: Any) -> Any:
        [reply] = await self.port.ask([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def count(self, how: str) -> Any:
        """Count "n" on, in one of the ways; return what it is now."""
        quick, slow = ("INCR", "n"), ("EVAL", COUNT, 1, "n")
        if how in (BATCH, BATCH_TAKEN):
            return await self.do(*(quick if how == BATCH else slow))
        reply = self.port._way.execute(quick if how == ALONE else slow, {}, self.epoch)
        return await reply if inspect.isawaitable(reply) else reply


@pytest.fixture(params=[ALONE, ALONE_TAKEN, BATCH, BATCH_TAKEN])
def how(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def routed(flavour: Any, server: Any, plain: Any) -> Callable[..., Routed]:
    def make(epoch: int, **options: Any) -> Routed:
        return Routed(flavour, server.url, epoch, **{"socket_timeout": 10, **options})

    return make


async def test_a_shard_that_knows_no_epoch_is_refused(routed: Any, plain: Any, flavour: Any, server: Any) -> None:
    plain.delete(EPOCH)
    with pytest.raises(StoreRefused, match="knows no epoch of topology 'users'"):
        await routed(1).do(b"INCR", "n")
    plain.set(EPOCH, "many")
    with pytest.raises(StoreRefused, match="no number"):
        await routed(1).do(b"INCR", "n")
    not_greeted = shard_ports.port(flavour, "a", flavour.redis(server.url, socket_timeout=10))
    with pytest.raises(StoreRefused, match="no number; somebody wrote it by hand"):
        await raise_epoch(not_greeted, TOPOLOGY, 2)
    assert plain.get(EPOCH) == b"many"
    plain.delete(EPOCH)
    with pytest.raises(StoreRefused, match="knows no epoch"):
        await raise_epoch(not_greeted, TOPOLOGY, 2)
    assert not plain.exists("n", EPOCH)


def test_a_shard_that_lost_its_epoch_is_refused_by_who_knows_better() -> None:
    floor = 4
    greeting = Greeting(TOPOLOGY, "a", lambda: floor)
    assert greeting.heard(b"4") == greeting.heard("4") == 4
    with pytest.raises(StoreRefused, match=r"epoch 3 .* was told 4"):
        greeting.heard(b"3")


async def test_an_epoch_never_falls(routed: Any, plain: Any, flavour: Any, server: Any) -> None:
    port = routed(9).port
    assert (await raise_epoch(port, TOPOLOGY, 5)).epoch == 5
    assert (await raise_epoch(port, TOPOLOGY, 5)).epoch == 5
    assert (await raise_epoch(port, TOPOLOGY, 3)).epoch == 5
    assert plain.get(EPOCH) == b"5"
    plain.delete(EPOCH)
    fresh = await raise_epoch(shard_ports.port(flavour, "a", flavour.redis(server.url)), TOPOLOGY, 7, create=True)
    assert (fresh.epoch, fresh.replicas, fresh.on_disk) == (7, 0, False)


class Scripted:
    """A shard that says what a test has written down."""

    shard, patience = "a", 10.0

    def __init__(self, waitaof: Any, appendfsync: Any) -> None:
        self.says: dict[Any, Any] = {b"EVAL": 7, b"INFO": b"", b"WAIT": 0, b"WAITAOF": waitaof, b"CONFIG": appendfsync}
        self.heard: list[Any] = []

    async def ask(self, commands: Any) -> list[Any]:
        self.heard += [command[0] for command in commands]
        return [self.says[command[0]] for command in commands]


@pytest.mark.parametrize("policy", [[b"appendfsync", b"everysec"], {b"appendfsync": b"always"}])
def test_an_epoch_that_should_be_on_the_disk_and_is_not_is_asked_for_again(policy: Any) -> None:
    port: Any = Scripted([0, 0], policy)
    with pytest.raises(StoreUnavailable, match=r"epoch 7 was not on its disk within 4 s; .* in a crash"):
        run(raise_epoch(port, TOPOLOGY, 7))


@pytest.mark.parametrize(
    ("waitaof", "policy"),
    [
        ([0, 0], [b"appendfsync", b"no"]),
        ([0, 0], redis.ResponseError("NOPERM this user has no permissions to run the 'config|get' command")),
        (redis.ResponseError("unknown command 'WAITAOF'"), None),
        (redis.ResponseError("WAITAOF cannot be used when numlocal is set but appendonly is disabled."), None),
    ],
)
def test_where_a_disk_is_not_forced_or_says_nothing_the_epoch_stands_all_the_same(waitaof: Any, policy: Any) -> None:
    port: Any = Scripted(waitaof, policy)
    assert run(raise_epoch(port, TOPOLOGY, 7)) == (7, 0, False)
    port.heard.clear()
    assert run(raise_epoch(port, TOPOLOGY, 7, disk=False)) == (7, 0, False)
    assert port.heard == [b"EVAL", b"INFO", b"EVAL", b"WAIT"]


def test_a_replica_that_is_away_is_not_waited_for_but_named() -> None:
    port: Any = Scripted(None, None)
    port.says[b"INFO"] = b"role:master\r\nconnected_slaves:1\r\n"
    with pytest.raises(StoreUnavailable, match=r"1 of its 2 replicas are connected; .* bring it back"):
        run(raise_epoch(port, TOPOLOGY, 7, replicas=2))
    assert port.heard == [b"EVAL", b"INFO"]


async def test_what_was_routed_by_an_older_epoch_is_not_sent(routed: Any, plain: Any, how: str) -> None:
    """Over a connection that was idle, over one that was made since, and again when the newer topology is known."""
    client, late = routed(1), routed(1)
    assert await client.count(how) == 1
    mover = routed(2).port
    await raise_epoch(mover, TOPOLOGY, 2)
    assert await client.count(how) == 2  # until it is dropped: nothing was promised yet
    assert await drop_connections(mover) is not None

    for each in (client, late):
        # The idle connection is dead; whether that is seen before anything is sent is the way's affair.
        with pytest.raises((Outdated, StoreUnavailable)):
            await each.count(how)
        with pytest.raises(Outdated) as outdated:
            await each.count(how)
        assert (outdated.value.seen, outdated.value.decided) == (2, 1)
    assert plain.get("n") == b"2"
    assert await routed(2).count(how) == 3


async def test_who_still_routes_by_the_old_epoch_gets_no_connection_of_who_has_the_new_one(
    routed: Any, plain: Any, how: str
) -> None:
    """While one thread or task adopts a topology, others of the client have decided by the one before."""
    old = routed(1)
    new = old.by(2)
    assert await old.count(how) == 1
    mover = routed(2).port
    await raise_epoch(mover, TOPOLOGY, 2)
    for told in (2, 3):
        await drop_connections(mover)
        assert await _counted(new, how) == told
        for _ in range(2):  # over the connection that the other has just given back
            with pytest.raises(Outdated) as outdated:
                await old.count(how)
            assert (outdated.value.seen, outdated.value.decided) == (2, 1)
    assert plain.get("n") == b"3"
    assert await new.count(how) == 4  # and the connection is there yet


async def _counted(client: Routed, how: str) -> Any:
    """Count on, over a connection that may have been dropped: then nothing was executed, and once more it is."""
    with suppress(StoreUnavailable):
        return await client.count(how)
    return await client.count(how)


@pytest.mark.parametrize("raised", [True, False])
async def test_the_retries_of_the_users_client_carry_nothing_over(
    routed: Any, plain: Any, flavour: Any, raised: bool, how: str
) -> None:
    """They reconnect and send again by themselves: what was decided before would be sent after the handshake."""
    kind: Any = redis.asyncio.retry.Retry if flavour.is_async else redis.retry.Retry
    again = kind(ConstantBackoff(0.01), 20)
    lost = [redis.ConnectionError, redis.TimeoutError]
    client = routed(1, retry=again, retry_on_timeout=True, retry_on_error=lost)
    mover = routed(2).port
    assert await client.count(how) == 1
    if raised:
        await raise_epoch(mover, TOPOLOGY, 2)
    plain.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    waiting = flavour.spawn(lambda: client.count(how))
    await flavour.until(lambda: plain.info("clients")["blocked_clients"] == 1)
    await drop_connections(mover)
    with pytest.raises(StoreUnavailable, match="unknown"):
        await waiting.result()
    plain.execute_command("CLIENT", "UNPAUSE")
    assert plain.get("n") == b"1"
    if raised:
        for _ in range(2):
            with pytest.raises(Outdated):
                await client.count(how)
        assert plain.get("n") == b"1"
    else:
        assert await client.count(how) == 2


async def test_a_connection_made_between_raising_and_dropping(routed: Any, plain: Any, how: str) -> None:
    stale, fresh, mover = routed(1), routed(2), routed(2).port
    await raise_epoch(mover, TOPOLOGY, 2)
    with pytest.raises(Outdated):
        await stale.count(how)
    assert await fresh.count(how) == 1
    await drop_connections(mover)
    with pytest.raises(Outdated):
        await stale.count(how)
    assert plain.get("n") == b"1"


async def test_who_waits_for_the_server_is_dropped_unserved(routed: Any, plain: Any, flavour: Any, server: Any) -> None:
    """A blocked client, one that waits for CLIENT PAUSE to end, an open transaction, a subscriber."""
    blocked, paused, mover = routed(1), routed(1), routed(2).port
    assert await paused.do(b"PING") == b"PONG"
    with redis.Redis.from_url(server.url, single_connection_client=True) as opened:
        subscriber = opened.pubsub()
        subscriber.subscribe("news")
        subscriber.get_message(timeout=5)
        opened.connection.send_command("MULTI")
        opened.connection.send_command("INCR", "n")
        assert [opened.connection.read_response() for _ in range(2)] == [b"OK", b"QUEUED"]
        waiting = flavour.spawn(lambda: blocked.do(b"BLPOP", "queue", 0))
        await flavour.until(lambda: plain.info("clients")["blocked_clients"] == 1)
        await raise_epoch(mover, TOPOLOGY, 2)
        plain.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        postponed = flavour.spawn(lambda: paused.do(b"INCR", "n"))
        await flavour.until(lambda: plain.info("clients")["blocked_clients"] == 2)
        assert await drop_connections(mover, subscribers=True)
        plain.execute_command("CLIENT", "UNPAUSE")

        plain.rpush("queue", "job")
        for each in (waiting, postponed):
            with pytest.raises(StoreUnavailable):
                await each.result()
        with pytest.raises(redis.ConnectionError):
            opened.connection.send_command("EXEC")
            opened.connection.read_response()
        with pytest.raises(redis.ConnectionError):
            subscriber.connection.read_response()
        subscriber.close()
    assert plain.lrange("queue", 0, -1) == [b"job"]
    assert not plain.exists("n")


@pytest.mark.parametrize("how", ["acl", "renamed"])
async def test_where_client_kill_is_forbidden(flavour: Any, plain: Any, server: Any, how: str) -> None:
    if how == "acl":
        plain.acl_setuser("mover", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client|kill"])
        client = Routed(flavour, server.url, 2, username="mover", password="any")
        await raise_epoch(client.port, TOPOLOGY, 2)
        assert await drop_connections(client.port) is None
        plain.acl_deluser("mover")
        return
    with start_redis(args=["--rename-command", "CLIENT", ""]) as managed:
        with redis.Redis.from_url(managed.url) as own:
            own.set(EPOCH, 1)
        client = Routed(flavour, managed.url, 2)
        await raise_epoch(client.port, TOPOLOGY, 2)
        assert await drop_connections(client.port) is None


async def test_every_replica_has_the_epoch_or_it_is_asked_again(
    flavour: Any, coordkit_redis_replicated: Any, coordkit_faults: Any
) -> None:
    topology = f"{TOPOLOGY}-{flavour.name}"
    replicated = coordkit_redis_replicated
    port = shard_ports.port(flavour, "a", flavour.redis(replicated.primary.url, socket_timeout=10))
    await flavour.until(lambda: _replicas_of(replicated) == 2)
    raised = await raise_epoch(port, topology, 3, create=True)
    assert raised.replicas == 2
    for replica in replicated.replicas:
        with redis.Redis.from_url(replica.url) as client:
            assert client.get(local_key(topology, "epoch")) == b"3"
        replica_port = shard_ports.port(flavour, "a", flavour.redis(replica.url, socket_timeout=10))
        for known in (2, 3):  # it writes what stands there, too: else it would be said of a copy, which may be old
            with pytest.raises(StoreRefused, match="read only replica"):
                await raise_epoch(replica_port, topology, known)
    coordkit_faults.pause(replicated.replicas[0])
    with pytest.raises(StoreUnavailable, match="1 of its 2 replicas had epoch 4"):
        await raise_epoch(port, topology, 4, patience=0.2)
    coordkit_faults.heal()
    assert (await raise_epoch(port, topology, 4)).replicas == 2


def _replicas_of(replicated: Any) -> int:
    with redis.Redis.from_url(replicated.primary.url) as client:
        return int(client.info("replication")["connected_slaves"])


async def test_the_epoch_survives_a_kill_and_a_restart(flavour: Any) -> None:
    with start_redis(appendonly="always") as server:
        port = shard_ports.port(flavour, "a", flavour.redis(server.url, socket_timeout=10))
        raised = await raise_epoch(port, TOPOLOGY, 3, create=True)
        with redis.Redis.from_url(server.url) as client:
            knows = b"WAITAOF" in [name.upper().encode() for name in client.command()]
        assert raised.on_disk == knows  # where the server can say so, it did
        server.restart()  # as after kill -9
        with redis.Redis.from_url(server.url) as client:
            assert client.get(EPOCH) == b"3"
        stale = Routed(flavour, server.url, 2)
        with pytest.raises(Outdated):
            await stale.do(b"INCR", "n")
