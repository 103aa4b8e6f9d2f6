"""What an error of redis-py means when a shard, or the way to it, gave it: the line that both flavours draw.

- No answer, and the command was certainly not sent: ShardDown (the connection failed), or StoreUnavailable (the
  client's own pool has none to give).
- No answer to what may have been sent: StoreUnavailable.
- Answered no for the server's own sake (NOAUTH, WRONGPASS, NOPERM, READONLY, OOM, MISCONF, NOREPLICAS): StoreRefused.
- Answered no because of the command (syntax, WRONGTYPE, NOSCRIPT, unknown command): redis-py's own error, as it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import redis.exceptions
from redis.exceptions import BusyLoadingError, ExecAbortError, MaxConnectionsError, ResponseError

from coordkit._redis_answers import refusal
from coordkit.errors import CoordError, PartialFailure, ShardDown, StoreRefused, StoreUnavailable, TooFewReplicas

# No answer, as redis-py tells it; a refused password is among them, because it breaks the connection.
NO_ANSWER = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)

_POOL_IS_EMPTY = ("Too many connections", "No connection available")


_TOO_LATE = (redis.exceptions.TimeoutError, TimeoutError)
_OF_A_SERVER_THAT_IS_UP = (BusyLoadingError, MaxConnectionsError)


class Outdated(Exception):
    """A connection has seen a newer epoch than the one by which a command was routed to it; nothing was sent."""

    def __init__(self, shard: str, seen: int, decided: int) -> None:
        super().__init__(f"{shard}: routed by epoch {decided}, and the connection has seen epoch {seen}")
        self.shard = shard
        self.seen = seen
        self.decided = decided


def refused(shard: str, error: Exception) -> StoreRefused | None:
    """Return what a refusal for the server's own sake means; None if it is the command that is wrong."""
    meant = refusal(error, shard, "the shard")
    if meant is not None:
        meant.__cause__ = error
    return meant


def answered(shard: str, error: Exception) -> Exception:
    """Return the error that stands in a command's place when the shard answered with ``error``."""
    return refused(shard, error) or error


def unanswered(shard: str, error: Exception, *, sent: bool) -> CoordError:
    """Return the error for a command without an answer; ``sent`` says whether it may have reached the shard."""
    meant: CoordError | None = refused(shard, error)
    if meant is not None:
        return meant
    if not sent and (isinstance(error, MaxConnectionsError) or str(error).startswith(_POOL_IS_EMPTY)):
        why = "the client's own pool has no connection left: give it a greater max_connections, or let fewer share it"
        meant = StoreUnavailable(shard, f"the command was not sent ({error}); {why}")
    elif sent:
        why = "whether the command was carried out is unknown; other shards are not affected"
        meant = StoreUnavailable(shard, f"no answer from this shard ({error}); {why}")
    else:
        why = "the command was not sent; other shards are not affected"
        meant = ShardDown(shard, f"this shard cannot be reached ({error}); {why}", shard=shard)
    meant.__cause__ = error
    return meant


def is_unreached(error: BaseException, *, sent: bool, quick: bool) -> bool:
    """Return whether ``error`` speaks for a shard that cannot be reached, for its breaker.

    A connection that broke does not: to connect anew will tell. Nor does a late reply, unless the command is a quick
    one; others may take their time.
    """
    if not isinstance(error, NO_ANSWER) or isinstance(error, _OF_A_SERVER_THAT_IS_UP) or refusal(error, "", ""):
        return False
    if not sent:
        return not str(error).startswith(_POOL_IS_EMPTY)
    return quick and isinstance(error, _TOO_LATE)


def tripped(shard: str, why: str) -> ShardDown:
    """Return the error for a command that is not sent because the shard's breaker is open."""
    meant = ShardDown(
        shard,
        f"this shard cannot be reached (it was tried often enough, the last time: {why}; it is probed in the "
        "background); the command was not sent; other shards are not affected",
        shard=shard,
    )
    meant.__cause__ = redis.exceptions.ConnectionError(why)
    return meant


def may_have_been_sent(error: Exception) -> bool:
    """Return whether a client that raised ``error`` may have sent the command.

    It has not if the error comes out of taking a connection, which comes first and only once. In a later reconnect the
    error says nothing of what an earlier attempt did.
    """
    return all(frame.f_code.co_name != "get_connection" for frame, _ in traceback.walk_tb(error.__traceback__))


def without_errors(
    commands: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], replies: list[Any], where: Sequence[str]
) -> list[Any]:
    """Return a pipeline's replies, or raise the first error among them; as in redis-py it says of which command.

    A shard's own error is not raised as it is where it is not true of all commands (it says "not sent", another was
    carried out): then PartialFailure. ``where`` has the shard of each command.
    """
    errors = [(number, reply) for number, reply in enumerate(replies) if isinstance(reply, Exception)]
    if not errors:
        return replies
    # A transaction that was discarded says so in the place of each command; the one whose fault it was comes first.
    number, error = next((found for found in errors if not isinstance(found[1], ExecAbortError)), errors[0])
    if isinstance(error, ResponseError):
        text = f"Command # {number + 1} ({_shown(commands[number])}) of pipeline caused error: {error}"
        error.args = (text, *error.args[1:])
    elif (kinds := {type(each) for _, each in errors}) != {TooFewReplicas} and (
        len(errors) < len(replies) or len(kinds) > 1
    ):
        done = {at + 1: reply for at, reply in enumerate(replies) if not isinstance(reply, Exception)}
        raise PartialFailure(
            "pipeline",
            f"{len(done)} of {len(replies)} commands were carried out (the first of the others is command # "
            f"{number + 1} ({_shown(commands[number])}): {error}); nothing was sent again: look at .ok and .failed, by "
            "the numbers of the commands from 1 on, and repeat what may be repeated, not the whole",
            ok=done,
            failed={at + 1: (where[at], each) for at, each in errors},
        ) from error
    raise error


def _shown(command: tuple[tuple[Any, ...], dict[str, Any]]) -> str:
    words = (part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in command[0])
    return " ".join(words)[:100]
