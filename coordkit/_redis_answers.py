"""What an error of redis-py means, and what a refusal says: for both Redis ports."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Any

from redis import exceptions

from coordkit._ports import Confirm
from coordkit.errors import CoordError, CrossShardError, StoreRefused, StoreUnavailable

_DOUBT = 3.0  # seconds for which a connection is a later one that was made after somebody began to doubt an earlier one
_ENOUGH = 300  # characters of a client's own message: a Sentinel's names every connection it tried

_CROSS_SLOT = re.compile(r"CROSSSLOT|same (key )?slot|same hash slot", re.IGNORECASE)

_HALF_DONE = re.compile(r"non local key in a cluster node")
"""How a script ends that came upon a key it had deleted itself, or its last part: its slot is on its way elsewhere."""

_REFUSALS = (
    exceptions.AuthenticationError,  # redis-py counts it among the connection errors
    exceptions.AuthorizationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
)
_NO_ANSWER = (
    exceptions.ConnectionError,  # also BusyLoadingError
    exceptions.TimeoutError,
    asyncio.TimeoutError,  # the builtin one from Python 3.11 on
    exceptions.ClusterError,  # ClusterDownError, and what a client says that was sent from node to node too often
    exceptions.RedisClusterException,
    exceptions.TryAgainError,  # the keys are on their way from one node to another:
    exceptions.AskError,  # until they are there, neither takes a script with several
    OSError,
    EOFError,
)
_RIGHTS = (
    "grant the user the command and its keys; the README lists the rights that coordkit itself needs, for locks and "
    "for a topology"
)
_Advice = tuple[tuple[type[Exception] | None, str, str], ...]
_OF_THE_SERVER: _Advice = (  # what it says of its own state and rules; redis-py takes the code off some messages
    (exceptions.AuthenticationError, "WRONGPASS", "give the client the right user name and password"),
    (None, "NOAUTH", "the server wants a password: give the client one"),
    (None, "HELLO must be called", "the server wants a password: give the client one"),
    (
        exceptions.NoPermissionError,
        "NOPERM",
        _RIGHTS,
    ),
    (None, "The user executing the script", _RIGHTS),
    (exceptions.ReadOnlyError, "READONLY", "this server is a read-only replica: point the client at the primary"),
    (exceptions.OutOfMemoryError, "maxmemory", "the server is out of memory: raise maxmemory, or free some"),
    (None, "MISCONF", "the server takes no writes because it cannot save: look at its log and its disk"),
    (None, "NOREPLICAS", "too few replicas are connected: see min-replicas-to-write"),
)
_ADVICE: _Advice = (
    *_OF_THE_SERVER,
    (None, "BUSY Redis", "a script of somebody's has run there for too long: wait for its end, or SCRIPT KILL it"),
    (None, "WRONGTYPE", "the key holds another kind of value: choose another name, or delete the key"),
    (
        None,
        "nknown command",
        "this server lacks a command that coordkit needs: see the supported versions in the README",
    ),
)


def translated(error: BaseException, name: str, server: str) -> CoordError | None:
    """Return what an error of redis-py means for the resource ``name``; None if it is none of Redis's."""
    if isinstance(error, CoordError):
        return error
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) > _ENOUGH:
        said = f"{said[:_ENOUGH]}..."
    if isinstance(error, exceptions.RedisClusterException | exceptions.ResponseError) and _CROSS_SLOT.search(said):
        return CrossShardError(name, f"{server} answered no: {said}; let the keys share a {{hash tag}}", shards={})
    if is_silence(error):
        return StoreUnavailable(name, f"no answer from {server}: {said}; whether it was carried out is unknown")
    if isinstance(error, UnicodeDecodeError):
        why = f"{server} has what is no text in the client's encoding, {error.encoding}"
        return StoreRefused(name, f"{why}; give a client without decode_responses")
    if isinstance(error, exceptions.RedisError):
        advice = next(
            (text for kind, mark, text in _ADVICE if mark in said or (kind and isinstance(error, kind))),
            "see the cause",
        )
        return StoreRefused(name, f"{server} answered no: {said}; {advice}")
    return None


def refusal(error: Exception, name: str, server: str) -> StoreRefused | None:
    """Return what an error means by which a server refuses for its own sake: password, rights, role, memory, disk.

    None for any other: what is wrong with a command itself is the affair of whoever sent it.
    """
    said = str(error)
    state = any((kind and isinstance(error, kind)) or said.startswith(mark) for kind, mark, _ in _OF_THE_SERVER)
    meant = translated(error, name, server) if state or isinstance(error, _REFUSALS) else None
    return meant if isinstance(meant, StoreRefused) else None


def confirmed(replies: list[Any], confirm: Confirm, name: str, server: str) -> tuple[Any, int, int]:
    """Return a script's reply, the local disks and the replicas that have it; raise what either error means."""
    reply, copies = replies
    if isinstance(reply, Exception):
        raise named(reply, name, server)
    if not isinstance(copies, Exception):
        return (reply, int(copies[0]), int(copies[1])) if confirm.fsync else (reply, 0, int(copies))
    said = str(copies)
    if "nknown command" in said:
        advice = "WAITAOF needs Redis 7.2 or newer: ask for replicas only, or use a newer server"
    elif "appendonly is disabled" in said:
        advice = "set `appendonly yes`, or do not ask for the disk"
    else:
        raise named(copies, name, server)
    raise StoreRefused(name, f"{server} answered no: {said}; {advice}") from copies


def is_silence(error: BaseException) -> bool:
    """Whether an error means that there was no answer, rather than a no."""
    if isinstance(error, _REFUSALS):
        return False
    return isinstance(error, _NO_ANSWER) or _HALF_DONE.search(str(error)) is not None


class Primary:
    """Whether what a way leads to is still the primary, by what it answers."""

    def __init__(self) -> None:
        self._doubted = -math.inf  # since when

    def check(self, replies: Sequence[Any], made: float, began: float) -> None:
        """Raise redis-py's ConnectionError if a server says it is no primary, and may be another one by now.

        A name, an address or a Sentinel may lead elsewhere since the connection was ``made``. So that counts as no
        answer, once: whoever asks again does so over a later connection, and is told what that server says. It may have
        been made by somebody else who asked meanwhile (``began`` is when we did).
        """
        since = self._doubted if began - self._doubted < _DOUBT else began
        if made >= since:
            return
        for reply in replies:
            if isinstance(reply, Exception) and _is_no_primary(reply):
                self._doubted = since
                raise exceptions.ConnectionError(f"the server is a primary no longer: {reply}") from reply


def _is_no_primary(error: Exception) -> bool:
    # Redis 6.2 says it inside of a message about the script.
    return isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError) or "-READONLY " in str(error)


def is_no(error: BaseException) -> bool:
    """Whether an error means that the server refused, and will again."""
    return isinstance(error, exceptions.ResponseError | StoreRefused) and not is_silence(error)


def named(reply: Exception, name: str, server: str) -> Exception:
    """Return the error of coordkit that an error among the replies means."""
    meant = translated(reply, name, server) or reply
    meant.__cause__ = reply
    return meant
