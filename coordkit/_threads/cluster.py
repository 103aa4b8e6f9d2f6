"""The ways to the nodes of a Redis Cluster, of the blocking flavour.

What goes to one node goes in one pipeline, bounded in time, and is sent once, as to a single server. What a node says
that it did not carry out is sent where it says, or after a while. The client is asked for nothing but to look at the
nodes: where one of them says that its map is old, or was silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import sleep
from typing import Any

from redis import exceptions

from coordkit import _cluster, _redis
from coordkit._ports import Call, Confirm
from coordkit._threads.lines import Lines
from coordkit._threads.runtime import not_in_a_forked_child, now
from coordkit._threads.turns import Turns

Ask = Callable[[Lines, list[Call], bytes], list[Any]]


class Nodes:
    """The ways to the nodes of one Cluster; safe for many threads."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._patience = _redis.patience(client.nodes_manager)
        self._lines: dict[str, Lines] = {}  # by the name of the node
        self._map = _cluster.Map(client)
        self.name_of_node = self._map.name_of_node
        self.reset()
        not_in_a_forked_child(self)

    def reset(self) -> None:
        """Forget who is looking: a thread of the parent's."""
        self._looking = Turns()

    def ask(self, call: Call, *, yielding: bool = False) -> Any:
        """Run one script; a reply that is an error is returned."""
        node = self._map.node_of(call.keys[0])
        if node is None:
            return self.ask_many([call], None)[0]
        try:
            reply = self._to(node).ask(call, yielding=yielding)
        except Exception as error:
            self._map.doubt(node.name, error)
            raise
        return self._all([call], [reply], _many(None), None)[0] if _cluster.is_undone(reply) else reply

    def ask_many(self, calls: Sequence[Call], within: float | None) -> list[Any]:
        """Run scripts in one pipeline for each node; a reply that is an error, or none that came, is in the list."""
        return self._all(calls, [_cluster.UNASKED] * len(calls), _many(within), within)

    def ask_confirmed(self, call: Call, confirm: Confirm) -> list[Any]:
        """Run one script, and wait for the copies of what it wrote; return the reply and the answer to the wait."""
        [replies] = self._all([call], [_cluster.UNASKED], _confirmed(confirm), None)
        if isinstance(replies, Exception):
            raise replies
        return list(replies)

    def close(self) -> None:
        """Close what is idle; the ways can still be used."""
        for lines in list(self._lines.values()):
            lines.close()

    def _all(self, calls: Sequence[Call], replies: list[Any], ask: Ask, within: float | None) -> list[Any]:
        """Ask until no reply says that its call was not carried out, or the time is up."""
        until = now() + min(within or self._patience, self._patience)
        for pause in _cluster.pauses():
            left = [i for i, reply in enumerate(replies) if _cluster.is_undone(reply)]
            if not left or (pause and now() + pause > until):
                break
            sleep(pause)
            trouble = self._learn(calls, left, replies)
            for node, ahead, mine in self._map.by_node(calls, left, replies, trouble):
                try:
                    answered = ask(self._to(node), [calls[i] for i in mine], ahead)
                except Exception as error:  # noqa: BLE001  this node's affair
                    self._map.doubt(node.name, error)
                    answered = [error] * len(mine)
                for i, reply in zip(mine, answered, strict=True):
                    replies[i] = reply
        return replies

    def _to(self, node: Any) -> Lines:
        line = self._lines.get(node.name)
        return line or self._lines.setdefault(node.name, Lines(self._client.get_redis_connection(node)))

    # -- looking

    def _learn(self, calls: Sequence[Call], left: Sequence[int], replies: Sequence[Any]) -> Exception | None:
        """Have the client look at what the replies cast doubt upon; return why the nodes could not be looked at."""
        keys = [calls[i].keys[0] for i in left]
        for key, said in zip(keys, [replies[i] for i in left], strict=True):
            if isinstance(said, exceptions.MovedError):
                self._look(partial(self._map.knows, key, said), partial(self._find, key))
            elif isinstance(said, exceptions.ClusterDownError):
                self._map.doubt(self._map.name_of_node(key), said)
        return self._look(partial(self._map.is_good, keys), self._look_around)

    def _look(self, known: Callable[[], bool], look: Callable[[], None]) -> Exception | None:
        """Look, one thread at a time, unless another did meanwhile; wait for it no longer than for an answer."""
        until = now() + self._patience
        while not known() and now() < until:
            if (turn := self._looking.take()) is None:
                self._looking.wait(until - now())
                continue
            try:
                look()
            except _cluster.FAILED as error:
                return error
            finally:
                self._looking.end(turn)
            break
        return None

    def _find(self, key: bytes) -> None:
        self._client.execute_command(*_cluster.look(key))

    def _look_around(self) -> None:
        self._client.nodes_manager.initialize()
        self._map.looked()


def _many(within: float | None) -> Ask:
    return lambda lines, calls, ahead: lines.ask_many(calls, within, ahead)


def _confirmed(confirm: Confirm) -> Ask:
    def ask(lines: Lines, calls: list[Call], ahead: bytes) -> list[Any]:
        replies = lines.ask_confirmed(calls[0], confirm, ahead)
        return [replies[0] if _cluster.is_undone(replies[0]) else replies]

    return ask
