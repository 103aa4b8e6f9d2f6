"""What `ShardedRedis` stands in for: each public name of redis-py's clients is there, or it is said here why not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import redis.asyncio.client
import redis.client
from redis.commands.core import AsyncCoreCommands, CoreCommands
from redis.commands.sentinel import SentinelCommands

from coordkit.errors import CrossShardError
from coordkit.routing import rendezvous
from coordkit.routing.client import client, client_aio, pipeline, pipeline_aio
from coordkit.routing.commands.router import Router
from coordkit.routing.pubsub import pubsub, pubsub_aio

THEIRS = "of redis-py's own making"
PINGED = "quiet shards are pinged unasked"
OF_A_CLIENT = {
    "from_url": "a sharded client is made of clients, each of which may be made so",
    "from_pool": "as from_url",
    "initialize": "connections are made when they are needed",
    "parse_response": "it reads from one connection",
    "get_retry": "each client's own: on(shard).get_retry()",
    "set_retry": "as get_retry",
    "get_cache": "each client's own: on(shard).get_cache()",
    "load_external_module": "it gives a function to one client: on(shard)",
    "himport_registry": "each client's own, as what is prepared",
    "response_callbacks": "each client's own, which set_response_callback sets on all",
    "RESPONSE_CALLBACKS": "as response_callbacks",
    **dict.fromkeys(
        [name for name in vars(SentinelCommands) if name.startswith("sentinel")], "they are asked of a Sentinel"
    ),
}
OF_A_PIPELINE = {
    "immediate_execute_command": f"{THEIRS}: after watch execute_command sends at once",
    "pipeline_execute_command": f"{THEIRS}: execute_command queues",
    "annotate_exception": THEIRS,
    "raise_first_error": THEIRS,
    "parse_response": THEIRS,
    "load_scripts": f"{THEIRS}: a script that is queued is sent as its text",
    "discard": "reset() forgets what is queued, before anything was sent",
    "UNWATCH_COMMANDS": THEIRS,
}
OF_A_SUBSCRIBER = {
    "execute_command": "it speaks over one connection",
    "parse_response": "it reads from one connection",
    "handle_message": THEIRS,
    "on_connect": THEIRS,
    "connect": "connections are made when they are needed",
    "ping": PINGED,
    "check_health": PINGED,
    "clean_health_check_responses": PINGED,
    "is_health_check_response": PINGED,
    "HEALTH_CHECK_MESSAGE": PINGED,
    "PUBLISH_MESSAGE_TYPES": THEIRS,
    "UNSUBSCRIBE_MESSAGE_TYPES": THEIRS,
    "get_sharded_message": "of a Cluster's: get_message hears all shards",
}
# Arguments that name one server, or what its pool is.
OF_ONE_SERVER = {"target_node", "close_connection_pool", "pubsub", "sharded_pubsub"}
KINDS = [
    pytest.param(redis.Redis, client.ShardedRedis, OF_A_CLIENT, id="client"),
    pytest.param(redis.asyncio.Redis, client_aio.ShardedRedis, OF_A_CLIENT, id="client-asyncio"),
    pytest.param(redis.client.Pipeline, pipeline.ShardedPipeline, OF_A_PIPELINE, id="pipeline"),
    pytest.param(redis.asyncio.client.Pipeline, pipeline_aio.ShardedPipeline, OF_A_PIPELINE, id="pipeline-asyncio"),
    pytest.param(redis.client.PubSub, pubsub.ShardedPubSub, OF_A_SUBSCRIBER, id="pubsub"),
    pytest.param(redis.asyncio.client.PubSub, pubsub_aio.ShardedPubSub, OF_A_SUBSCRIBER, id="pubsub-asyncio"),
]


def public(kind: type) -> set[str]:
    """Return the public names of a class; of a pipeline, which is a client to redis-py, its own and the commands."""
    if kind in (redis.client.Pipeline, redis.asyncio.client.Pipeline):
        commands = CoreCommands if kind is redis.client.Pipeline else AsyncCoreCommands
        return {name for name in {*vars(kind), *dir(commands)} if not name.startswith("_")}
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("theirs", "ours", "reasons"), KINDS)
def test_every_public_name_is_there_or_left_out_on_purpose(theirs: type, ours: type, reasons: dict[str, str]) -> None:
    left_out = public(theirs) - public(ours)
    assert left_out <= set(reasons), "say here why, or have it"
    assert not set(reasons) & public(ours), "what is there needs no excuse"


@pytest.mark.parametrize(("theirs", "ours", "reasons"), KINDS)
def test_what_is_there_is_called_as_theirs_is(theirs: type, ours: type, reasons: dict[str, str]) -> None:
    """What is not refused takes their positional arguments, in their order; what is of one server's is left out."""
    for name in (public(theirs) & public(ours)) - {"lock", "watch"}:
        own, other = getattr(ours, name), getattr(theirs, name)
        if not inspect.isfunction(own) or not own.__module__.startswith("coordkit"):
            continue  # redis-py's own, which is theirs
        if own.__annotations__.get("return") == "NoReturn":
            continue
        given = [each.name for each in inspect.signature(own).parameters.values() if each.kind < each.VAR_POSITIONAL]
        wanted = [each.name for each in inspect.signature(other).parameters.values() if each.kind < each.VAR_POSITIONAL]
        wanted = [each for each in wanted if each not in OF_ONE_SERVER]
        assert given[: len(wanted)] == wanted, name


@pytest.mark.parametrize("kind", [client.ShardedRedis, client_aio.ShardedRedis])
@pytest.mark.parametrize(
    "name", ["keyspace_notifications", "himport_prepare", "himport_discard", "himport_discard_all", "client", "monitor"]
)
def test_what_belongs_to_one_client_says_what_to_use(kind: Any, name: str) -> None:
    shards = kind({"a": (redis.asyncio.Redis if kind is client_aio.ShardedRedis else redis.Redis)(port=1)})
    with pytest.raises(CrossShardError, match=r"on\(shard\)|client_for\(key\)|pubsub\(\)"):
        getattr(shards, name)()


@pytest.mark.parametrize("words", [("HIMPORT SET", "k", "f", 1), ("himport", b"prepare", "f"), (b"HIMPORT", "SET")])
def test_what_redis_py_prepares_for_its_connections_is_not_sent_over_others(words: tuple[Any, ...]) -> None:
    router = Router(rendezvous(["a", "b"]))
    for refuse in (router.plan, router.plan_everywhere):
        with pytest.raises(CrossShardError, match=r"the connections of one client: client_for\(key\)\.himport_prepare"):
            refuse(words, {})
