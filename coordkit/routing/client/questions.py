"""What is asked of a server about a command that the table does not have, and what its answers mean."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from coordkit.routing.commands.plan import Question


def words_of(question: Question) -> tuple[Any, ...]:
    """Return the command that puts a question to a server; send it with `RAW`."""
    # The two spaces keep redis-py's callbacks for COMMAND, which drop the key specifications and decode keys, from
    # finding the name; the wire has one word after the other.
    return (f"{question.ask[0]}  {question.ask[1]}", *question.ask[2:])


def no_such_command(question: Question) -> ResponseError:
    """Return what a server says to a command that it does not know."""
    return ResponseError(f"unknown command {' '.join(map(str, question.args[:2]))!r}")


def has_no_keys(error: ResponseError) -> bool:
    """Return whether COMMAND GETKEYS said that the command has no key, which it tells as an error."""
    return "no key arguments" in str(error)
