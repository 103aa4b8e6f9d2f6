"""What both Redis ports know of a Redis Cluster: which of its nodes has what, and which answers send us elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions

from coordkit import _redis
from coordkit._ports import Call


def name_of_node(client: Any, key: str) -> str:
    """Return the name of the node that has ``key``, as far as the client knows; "" if it does not."""
    try:
        return str(client.get_node_from_key(key).name)
    except exceptions.RedisError:  # not looked at yet, or not covered at this moment
        return ""


def by_node(client: Any, calls: Sequence[Call], which: Sequence[int]) -> list[tuple[Any, list[int]]]:
    """Return ``which`` of the calls go to which node, as far as the client knows: a list for each node."""
    found: dict[str, tuple[Any, list[int]]] = {}
    for i in which:
        node = client.get_node_from_key(calls[i].keys[0])
        found.setdefault(node.name, (node, []))[1].append(i)
    return list(found.values())


def is_redirection(reply: object) -> bool:
    """Whether a node says that the keys are elsewhere, or on their way."""
    return isinstance(reply, exceptions.AskError | exceptions.TryAgainError)  # MovedError is an AskError


def is_lost(reply: object) -> bool:
    """Whether there was no answer from the node that should have the keys, or it says that it has them no longer."""
    return is_redirection(reply) or (isinstance(reply, Exception) and _redis.is_silence(reply))


def raise_if_elsewhere(replies: list[Any]) -> None:
    """Raise the error of a node that sends us to another."""
    if isinstance(replies[0], exceptions.MovedError):
        raise replies[0]
