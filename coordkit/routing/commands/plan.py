"""What is sent where for one command, and what the replies to it mean: the words in which `Router` says so.

A command is *routed* to the one shard of its keys, *split* where each key stands for itself, *broadcast* where each
shard has something to do or to say, *merged* where their replies are one, or *refused* with CrossShardError. None goes
silently to one shard: ``keyless`` has the rule for each that has no key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

from coordkit.errors import CoordError, PartialFailure, StoreRefused, StoreUnavailable, TooFewReplicas

Join = Callable[[Sequence[Any]], Any]


_SHOWN = 100


def listed(where: Mapping[Any, str]) -> str:
    """Return keys and their shards for an error: all of them, as far as anybody would read."""
    said = ", ".join(f"{key!r} on {shard}" for key, shard in islice(where.items(), _SHOWN))
    return said if len(where) <= _SHOWN else f"{said}, and {len(where) - _SHOWN} more keys (`.shards` has all)"


def first(replies: Sequence[Any]) -> Any:
    """Return the first of the replies: of one shard, or of shards that all say the same."""
    return replies[0]


class Part(NamedTuple):
    """What one shard is sent. ``names`` are the keys (of a broadcast: the shard) that its reply is about."""

    shard: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    names: tuple[Any, ...]
    places: tuple[int, ...] = ()  # where these keys stood among all keys of the command


class Plan(NamedTuple):
    """What is sent, to which shards, and how their replies become one."""

    command: str
    action: Literal["route", "split", "broadcast", "merge", "reply"]
    parts: tuple[Part, ...]
    join: Join = first
    in_turn: bool = False  # each part is sent when the one before was answered, where it is not in a pipeline

    def keys(self) -> list[Any]:
        """Return the keys that it is about, as they were given; none for a broadcast."""
        return [name for part in self.parts for name in part.names] if self.action in {"route", "split"} else []

    def settle(self, replies: Sequence[Any]) -> Any:
        """Return the command's reply from those of its parts; an error among them stands in its place.

        Raise the error of a command that went to one shard. Of one that went to several: StoreUnavailable if none
        answered, StoreRefused if each refused, the server's own error if each gave one, and PartialFailure otherwise.
        """
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not errors:
            return self.join(replies)
        if len(self.parts) == 1:
            raise errors[0]
        if len(errors) == len(self.parts):
            self._settle_alike(errors)
        ok: dict[Any, Any] = {}
        failed: dict[Any, tuple[str, Exception]] = {}
        for part, reply in zip(self.parts, replies, strict=True):
            for i, name in enumerate(part.names):
                if isinstance(reply, Exception):
                    failed[name] = (part.shard, reply)
                else:
                    ok[name] = reply[i] if self.action == "split" and self.command == "MGET" else reply
        raise PartialFailure(
            self.command.replace("|", " "),
            f"{len(failed)} of {len(ok) + len(failed)} {'keys' if self.action == 'split' else 'shards'} failed "
            f"(first: {errors[0]}); nothing was sent again: look at .ok and .failed and repeat what may be repeated",
            ok=ok,
            failed=failed,
        ) from errors[0]

    def _settle_alike(self, errors: Sequence[Exception]) -> None:
        if any(isinstance(error, TooFewReplicas) for error in errors):
            return  # something was done
        for kind, what in ((StoreUnavailable, "answered"), (StoreRefused, "carried it out")):
            if all(isinstance(error, kind) for error in errors):
                why = f"none of its {len(errors)} shards {what}: {'; '.join(map(str, errors))}"
                raise kind(self.command.replace("|", " "), why) from (errors[0].__cause__ or errors[0])
        if not any(isinstance(error, CoordError) for error in errors):
            raise errors[0]


class Question(NamedTuple):
    """What a server has to say before this command can be routed; any shard may be asked, once."""

    ask: tuple[Any, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


class Explanation(NamedTuple):
    """What would be done with a command: see `Router.explain`."""

    command: str
    action: Literal["route", "split", "broadcast", "merge", "reply", "refuse", "ask"]
    shards: dict[Any, str]
    why: str
