"""What both Redis ports know of a Redis Cluster: which of its nodes has what, and which answers send us elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions

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


def is_elsewhere(reply: object) -> bool:
    """Whether a node says that the keys are at another, now (MOVED) or for a moment (ASK)."""
    return isinstance(reply, exceptions.AskError)


def is_lost(reply: object) -> bool:
    """Whether the client's map of the nodes may be old: the keys are elsewhere, or the node that has them is silent.

    CLUSTERDOWN and TRYAGAIN are answers: nobody knows better, so the client need not ask around.
    """
    silence = exceptions.ConnectionError | exceptions.TimeoutError | OSError
    return is_elsewhere(reply) or isinstance(reply, silence)


def raise_if_elsewhere(replies: list[Any]) -> None:
    """Raise the error of a node that sends us to another."""
    if isinstance(replies[0], exceptions.MovedError):
        raise replies[0]
