"""What the replies to a `ShardPort`'s commands mean, for both flavours."""

from __future__ import annotations

from typing import Any

from redis import exceptions  # noqa: TID251  replies of redis-py are read here

from coordkit import _redis_answers
from coordkit.errors import CoordError, StoreUnavailable


def answers(shard: str, replies: list[Any]) -> list[Any]:
    """Return the replies, refusals named; raise StoreUnavailable if one is missing."""
    for i, reply in enumerate(replies):
        if isinstance(reply, StoreUnavailable):
            raise reply
        if isinstance(reply, Exception) and not isinstance(reply, CoordError):
            replies[i] = _redis_answers.named(reply, shard, "the shard")
    return replies


def must_be_taught(reply: Any) -> bool:
    """Return whether the server does not know the script."""
    return isinstance(reply, Exception) and isinstance(reply.__cause__, exceptions.NoScriptError)


def unnamed(reply: Any) -> Any:
    """Return a refusal as the client told it, a reply as it is."""
    return reply.__cause__ or reply if isinstance(reply, CoordError) else reply
