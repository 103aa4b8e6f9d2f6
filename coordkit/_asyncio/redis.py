"""The Redis port of the asyncio flavour."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import redis.asyncio
from redis import exceptions

from coordkit import _redis, _redis_answers, _redis_packing
from coordkit._asyncio.cluster import Nodes
from coordkit._asyncio.inbox import Inbox
from coordkit._asyncio.lines import Lines
from coordkit._asyncio.runtime import RUNTIME, forget_closed
from coordkit._inbox import Told
from coordkit._ports import Call, Confirm, Form
from coordkit.core.keeper import Keeper
from coordkit.core.keepers import Keepers
from coordkit.core.shards import ShardedStore
from coordkit.routing.client.live_store import LiveStore


class RedisStore:
    """One client's Redis, spoken to over connections that are kept while there is work."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lines = Lines(client) if _redis.keeps_connections(client) else None
        self._nodes = Nodes(client) if _redis.is_cluster(client) else None
        self._way = self._lines or self._nodes  # None: through the client
        # A keeper for each node, where the client is of several.
        self.keeper = (
            Keepers(RUNTIME, self, self._nodes.name_of_node)
            if self._nodes
            else Keeper(RUNTIME, self, repeats=self._way is None and _redis.repeats(client))
        )
        self._where = _redis.where(client)
        self._told = Told()
        self._inboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox] = WeakKeyDictionary()

    def inbox(self) -> Inbox:
        loop = asyncio.get_running_loop()
        inbox = self._inboxes.get(loop)
        if inbox is None:
            forget_closed(self._inboxes)
            inbox = self._inboxes[loop] = Inbox(self, self._client, self._told, keeps=self._lines is not None)
        return inbox

    async def close(self) -> None:
        """Close the connections that nobody uses now, under this event loop; the store can still be used."""
        if self._way is not None:
            await self._way.close()
        inbox = self._inboxes.get(asyncio.get_running_loop())
        if inbox is not None:
            await inbox.close()

    def __str__(self) -> str:
        return self._where

    async def run(self, name: str, call: Call, *, yielding: bool = False) -> Any:
        try:
            if self._lines is not None:
                reply = await self._lines.ask(_redis_packing.packed(call), lambda: call, yielding=yielding)
            elif self._nodes is not None:
                reply = await self._nodes.ask(call, yielding=yielding)
            else:
                reply = (await self._ask([call]))[0]
        except Exception as error:
            meant = _redis_answers.translated(error, name, self._where)
            if meant is None:
                raise
            raise meant from error
        if isinstance(reply, Exception):
            raise _redis_answers.named(reply, name, self._where)
        return reply

    async def run_form(self, name: str, form: Form, first: str, *, yielding: bool = False) -> Any:
        if self._lines is None:
            return await self.run(name, form.call(first), yielding=yielding)
        try:
            data = _redis_packing.filled(form, first)
            reply = await self._lines.ask(data, lambda: form.call(first), yielding=yielding)
        except Exception as error:
            meant = _redis_answers.translated(error, name, self._where)
            if meant is None:
                raise
            raise meant from error
        if isinstance(reply, Exception):
            raise _redis_answers.named(reply, name, self._where)
        return reply

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        asked = [call for _, call in calls]
        try:
            replies = await (self._ask(asked) if self._way is None else self._way.ask_many(asked, within))
        except Exception as error:
            meant = _redis_answers.translated(error, calls[0][0], self._where)
            if meant is None:
                raise
            raise meant from error
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                replies[i] = _redis_answers.named(reply, calls[i][0], self._where)
        return replies

    def cannot_confirm(self) -> str | None:
        return _redis.cannot_confirm(self._client)

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        try:
            way = cast("Lines | Nodes", self._way)  # of the others `cannot_confirm` speaks
            replies = await way.ask_confirmed(call, confirm)
        except Exception as error:
            meant = _redis_answers.translated(error, name, self._where)
            if meant is None:
                raise
            raise meant from error
        return _redis_answers.confirmed(replies, confirm, name, self._where)

    # -- through the client, where it must be

    async def _ask(self, calls: list[Call]) -> list[Any]:
        if len(calls) > 1 and _redis.has_pipeline(self._client):
            return await self._ask_in_a_pipeline(calls)

        async def ask(call: Call) -> Any:
            try:
                return await self._client.execute_command(*_redis_packing.evalsha(call))
            except exceptions.NoScriptError:
                return await self._client.execute_command(*_redis_packing.evals([call])[0])
            except AttributeError as error:
                if not isinstance(self._client, redis.asyncio.RedisCluster):
                    raise
                # redis-py's Cluster client looks at the nodes anew, and closes connections that others write to:
                # 'NoneType' object has no attribute 'writelines'.
                raise exceptions.ConnectionError("the client closed the connection") from error

        # Each call may go to another server: its error is its own.
        return list(await asyncio.gather(*(ask(call) for call in calls), return_exceptions=True))

    async def _ask_in_a_pipeline(self, calls: list[Call]) -> list[Any]:
        async def answered(commands: list[tuple[Any, ...]]) -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return cast("list[Any]", await pipeline.execute(raise_on_error=False))

        replies = await answered([_redis_packing.evalsha(call) for call in calls])
        if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]:
            for i, reply in zip(
                unknown, await answered(_redis_packing.evals([calls[i] for i in unknown])), strict=True
            ):
                replies[i] = reply
        return replies


def store_for(client: Any) -> RedisStore | ShardedStore:
    """Return the store of an asyncio client: one for all locks on it, so that they share connections and a keeper."""
    _redis.check_client(client, flavour="asyncio")
    known: RedisStore | ShardedStore | None = vars(client).get(_ATTRIBUTE)
    return known or vars(client).setdefault(_ATTRIBUTE, _made(client))  # lives and dies with it


async def disconnect(client: Any) -> None:
    """Close the connections that the store of a client, and those of its shards, keep and nobody uses now."""
    _redis.check_client(client, flavour="asyncio")
    for one in (client, *_redis.shards_of(client)):
        if isinstance(store := vars(one).get(_ATTRIBUTE), RedisStore):
            await store.close()


def _made(client: Any) -> RedisStore | ShardedStore:
    if not hasattr(client, "store_client"):
        return RedisStore(client)
    if hasattr(client, "_live"):
        return LiveStore(RUNTIME, client, store_for)
    # Where a sharded client names itself, it is spoken to as it is, without connections of our own.
    through = RedisStore(client)

    def store_of(one: Any) -> RedisStore:
        known: RedisStore | None = vars(one).get(_ATTRIBUTE) if one is not client else through
        return known or cast("RedisStore", store_for(one))

    return ShardedStore(RUNTIME, client, store_of)


_ATTRIBUTE = "_coordkit_store"
