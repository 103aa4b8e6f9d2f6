"""The ways to the nodes of a Redis Cluster, of the asyncio flavour.

What goes to one node goes over one connection, bounded in time, and is sent once, as to a single server. What a node
says that it did not carry out is sent where it says, or after a while. The client is asked for nothing but to look at
the nodes: where one of them says that its map is old, or was silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from redis import exceptions

from coordkit import _cluster, _redis, _redis_packing
from coordkit._asyncio.lines import Lines
from coordkit._asyncio.runtime import life
from coordkit._ports import Call, Confirm
from coordkit._threads.runtime import now

Ask = Callable[[Lines, list[Call], bytes], Awaitable[list[Any]]]


class Nodes:
    """The ways to the nodes of one Cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._patience = _redis.patience(client.nodes_manager)
        self._lines: dict[str, Lines] = {}  # by the name of the node
        self._map = _cluster.Map(client)
        self.name_of_node = self._map.name_of_node
        self._looking: dict[bytes, asyncio.Task[None]] = {}  # by the key that is looked for, or b"" for all

    async def ask(self, call: Call, *, yielding: bool = False) -> Any:
        """Run one script; a reply that is an error is returned."""
        node = self._map.node_of(call.keys[0])
        if node is None:
            return (await self.ask_many([call], None))[0]
        try:
            reply = await self._to(node).ask(_redis_packing.packed(call), lambda: call, yielding=yielding)
        except Exception as error:
            self._map.doubt(node.name, error)
            raise
        return (await self._all([call], [reply], _many(None), None))[0] if _cluster.is_undone(reply) else reply

    async def ask_many(self, calls: Sequence[Call], within: float | None) -> list[Any]:
        """Run scripts in one pipeline for each node; a reply that is an error, or none that came, is in the list."""
        return await self._all(calls, [_cluster.UNASKED] * len(calls), _many(within), within)

    async def ask_confirmed(self, call: Call, confirm: Confirm) -> list[Any]:
        """Run one script, and wait for the copies of what it wrote; return the reply and the answer to the wait."""
        [replies] = await self._all([call], [_cluster.UNASKED], _confirmed(confirm), None)
        if isinstance(replies, Exception):
            raise replies
        return list(replies)

    async def close(self) -> None:
        """Close what nobody uses now, under this event loop; the ways can still be used."""
        for lines in list(self._lines.values()):
            await lines.close()

    async def _all(self, calls: Sequence[Call], replies: list[Any], ask: Ask, within: float | None) -> list[Any]:
        """Ask until no reply says that its call was not carried out, or the time is up."""

        async def send(node: Any, ahead: bytes, mine: list[int]) -> None:
            try:
                answered = await ask(self._to(node), [calls[i] for i in mine], ahead)
            except Exception as error:  # noqa: BLE001  this node's affair
                self._map.doubt(node.name, error)
                answered = [error] * len(mine)
            for i, reply in zip(mine, answered, strict=True):
                replies[i] = reply

        until = now() + min(within or self._patience, self._patience)
        for pause in _cluster.pauses():
            left = [i for i, reply in enumerate(replies) if _cluster.is_undone(reply)]
            if not left or (pause and now() + pause > until):
                break
            await asyncio.sleep(pause)
            trouble = await self._learn(calls, left, replies)
            await asyncio.gather(*(send(*each) for each in self._map.by_node(calls, left, replies, trouble)))
        return replies

    def _to(self, node: Any) -> Lines:
        line = self._lines.get(node.name)
        return line or self._lines.setdefault(node.name, Lines(node))

    # -- looking

    async def _learn(self, calls: Sequence[Call], left: Sequence[int], replies: Sequence[Any]) -> BaseException | None:
        """Have the client look at what the replies cast doubt upon; return why the nodes could not be looked at."""
        keys = [calls[i].keys[0] for i in left]
        for key, said in zip(keys, [replies[i] for i in left], strict=True):
            if isinstance(said, exceptions.MovedError) and not self._map.knows(key, said):
                await self._look(key, partial(self._client.execute_command, *_cluster.look(key)))
            elif isinstance(said, exceptions.ClusterDownError):
                self._map.doubt(self._map.name_of_node(key), said)
        return None if self._map.is_good(keys) else await self._look(b"", self._look_around)

    async def _look(self, what: bytes, look: Callable[[], Coroutine[Any, Any, None]]) -> BaseException | None:
        """Look, once for all tasks that want it; wait for it no longer than for an answer."""
        looking = self._looking.get(what)
        if looking is None or looking.get_loop() is not asyncio.get_running_loop():
            looking = self._looking[what] = life().spawn(look())
            looking.add_done_callback(partial(self._looked, what))
        await asyncio.wait([looking], timeout=self._patience)  # whoever is cancelled leaves it to the others
        return looking.exception() if looking.done() and not looking.cancelled() else None

    def _looked(self, what: bytes, looking: asyncio.Task[None]) -> None:
        if self._looking.get(what) is looking:
            del self._looking[what]
        if not looking.cancelled():
            looking.exception()  # else asyncio complains, should nobody wait any more

    async def _look_around(self) -> None:
        if not self._client.nodes_manager.slots_cache:
            await self._client.initialize()  # which does more than look, the first time
        else:
            await self._client.nodes_manager.initialize()
        self._map.looked()


def _many(within: float | None) -> Ask:
    return lambda lines, calls, ahead: lines.ask_many(calls, within, ahead)


def _confirmed(confirm: Confirm) -> Ask:
    async def ask(lines: Lines, calls: list[Call], ahead: bytes) -> list[Any]:
        replies = await lines.ask_confirmed(calls[0], confirm, ahead)
        return [replies[0] if _cluster.is_undone(replies[0]) else replies]

    return ask
