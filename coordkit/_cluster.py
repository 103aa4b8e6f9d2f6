"""What both Redis ports know of a Redis Cluster: which of its nodes has what, and what they say when they do not.

We speak to each node over lines of our own, as to a single server, because a Cluster's client sends again what it got
no answer to, and nobody learns of it: a release that was carried out, and sent again, says that it found nothing. The
client keeps the map of the nodes; we only have it look anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import redis.asyncio.cluster
import redis.cluster
from redis import exceptions

from coordkit import _redis_answers
from coordkit._ports import Call

_UNDONE = (exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)

UNASKED = exceptions.TryAgainError("not asked yet")
"""Stands among the replies for that of a call that was not sent yet."""

ASKING = b"*1\r\n$6\r\nASKING\r\n"
"""Sent ahead of a script to the node that a slot is on its way to."""

FAILED = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    OSError,
)
"""How a client fails that looks at the nodes."""

_PAUSES = (0.0, 0.0, 0.02, 0.05, 0.1)  # the first send, the first redirection, and then whatever it is takes its time
_LONGEST = 0.25


def pauses() -> Iterator[float]:
    """Give the seconds to wait before the calls that are still undone are sent."""
    yield from _PAUSES
    yield from repeat(_LONGEST)


def is_undone(reply: object) -> bool:
    """Whether a node says that it did not carry out a call: it may be sent again, and nobody need know.

    The keys are at another, now (MOVED) or for a moment (ASK); or on their way (TRYAGAIN); or the Cluster is down.
    """
    return isinstance(reply, _UNDONE)


def look(key: bytes) -> tuple[Any, ...]:
    """Return a command that does nothing, for which a client must find out who has ``key``; scripts have the right."""
    return ("EVAL", "return 0", 1, key)


class Map:
    """A client's map of the nodes, and whom it names there that was silent since the client looked."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._silent: set[str] = set()

    def node_of(self, key: bytes | str) -> Any | None:
        """Return the node that has ``key``; None where the client should look first."""
        try:
            node = self._client.get_node_from_key(key)
        except exceptions.RedisClusterException:  # not looked at yet, or nobody has it at this moment
            return None
        return None if node.name in self._silent else node

    def name_of_node(self, key: bytes | str) -> str:
        """Return the name of the node that has ``key``, as far as the client knows; "" if it does not."""
        try:
            return str(self._client.get_node_from_key(key).name)
        except exceptions.RedisClusterException:
            return ""

    def doubt(self, name: str, error: BaseException) -> None:
        """Take note of what came instead of an answer: another may be in this node's place soon."""
        if _redis_answers.is_silence(error):
            self._silent.add(name)

    def is_good(self, keys: Sequence[bytes]) -> bool:
        """Whether the client knows a node for each of the keys, and none that was silent since it looked."""
        return all(self.node_of(key) is not None for key in keys)

    def looked(self) -> None:
        """Take note that the client has looked at the nodes."""
        self._silent.clear()

    def knows(self, key: bytes, moved: exceptions.MovedError) -> bool:
        """Whether the client has learned meanwhile what a node said of ``key``."""
        host, port = self._client.nodes_manager.remap_host_port(moved.host, moved.port)
        return self.name_of_node(key) == f"{host}:{port}"

    def by_node(
        self, calls: Sequence[Call], which: Sequence[int], replies: list[Any], trouble: BaseException | None
    ) -> list[tuple[Any, bytes, list[int]]]:
        """Return which node to send which calls, and what ahead of each of them.

        Where nobody is known to have its keys, the reply is ``trouble``, which is why.
        """
        found: dict[tuple[str, bytes], tuple[Any, bytes, list[int]]] = {}
        for i in which:
            said, ahead = replies[i], b""
            try:
                if isinstance(said, exceptions.AskError) and not isinstance(said, exceptions.MovedError):
                    node, ahead = self._at(said), ASKING
                else:
                    node = self._client.get_node_from_key(calls[i].keys[0])
            except exceptions.RedisClusterException as error:
                replies[i] = trouble or error
            else:
                found.setdefault((node.name, ahead), (node, ahead, []))[2].append(i)
        return list(found.values())

    def _at(self, ask: exceptions.AskError) -> Any:
        """Return the node that a slot is on its way to, which may have none yet, so that the client knows of none."""
        host, port = self._client.nodes_manager.remap_host_port(ask.host, ask.port)
        if known := self._client.get_node(host=host, port=port):
            return known
        if isinstance(self._client, redis.cluster.RedisCluster):
            return redis.cluster.ClusterNode(host, port)  # type: ignore[no-untyped-call]  # redis-py has no types there
        return redis.asyncio.cluster.ClusterNode(host, port, **self._client.nodes_manager.connection_kwargs)
