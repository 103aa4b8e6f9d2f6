"""The ways to the nodes of a Redis Cluster, of the blocking flavour.

A Cluster client asks one command after another and follows the keys. Here what goes to one node goes in one pipeline,
bounded in time; the client is asked only where its map of the nodes has turned out to be old, which renews the map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from coordkit import _cluster, _redis
from coordkit._ports import Call, Confirm
from coordkit._threads.lines import Lines


class Nodes:
    """The ways to the nodes of one Cluster; ``ask`` runs one script through the client, and returns its errors."""

    def __init__(self, client: Any, ask: Callable[[Call], Any]) -> None:
        self._client = client
        self._ask = ask
        self._lines: dict[str, Lines] = {}  # by the name of the node

    def ask_many(self, calls: Sequence[Call], within: float | None) -> list[Any]:
        """Run scripts in one pipeline for each node; a reply that is an error is in the list."""
        replies: list[Any] = [None] * len(calls)
        self._ask_each(calls, range(len(calls)), within, replies)
        lost = [i for i, reply in enumerate(replies) if _cluster.is_lost(reply)]
        if not lost:
            return replies
        replies[lost[0]] = self._ask(calls[lost[0]])
        if len(lost) > 1 and not _cluster.is_lost(replies[lost[0]]):  # so the client knows where to ask now
            self._ask_each(calls, lost[1:], within, replies)
            for i in lost[1:]:
                if _cluster.is_elsewhere(replies[i]):
                    replies[i] = self._ask(calls[i])
        return replies

    def ask_confirmed(self, call: Call, confirm: Confirm) -> list[Any]:
        """Run one script, and wait for the copies of what it wrote; return the reply and the answer to the wait."""
        try:
            replies = self._to(self._client.get_node_from_key(call.keys[0])).ask_confirmed(call, confirm)
            _cluster.raise_if_elsewhere(replies)
        except exceptions.MovedError:
            pass
        except exceptions.RedisError as error:
            if not _redis.is_silence(error):
                raise
        else:
            return replies
        reply = self._ask(call)  # the client follows the keys; what is asked twice does what asking once does
        if isinstance(reply, Exception):
            raise reply
        replies = self._to(self._client.get_node_from_key(call.keys[0])).ask_confirmed(call, confirm)
        _cluster.raise_if_elsewhere(replies)
        return replies

    def _ask_each(self, calls: Sequence[Call], which: Sequence[int], within: float | None, replies: list[Any]) -> None:
        for node, mine in _cluster.by_node(self._client, calls, which):
            try:
                answered = self._to(node).ask_many([calls[i] for i in mine], within)
            except Exception as error:  # noqa: BLE001  this node's affair
                answered = [error] * len(mine)
            for i, reply in zip(mine, answered, strict=True):
                replies[i] = reply

    def _to(self, node: Any) -> Lines:
        line = self._lines.get(node.name)
        return line or self._lines.setdefault(node.name, Lines(self._client.get_redis_connection(node)))
