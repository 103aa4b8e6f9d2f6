"""How scripts are asked for, as commands and as the bytes of the protocol: for both Redis ports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from coordkit._ports import Call, Confirm, Form, Script


def evalsha(call: Call) -> tuple[Any, ...]:
    """Return the command that runs a script which the server knows."""
    return ("EVALSHA", call.script.sha, *_plain(len(call.keys), *call.keys, *call.args))


def _plain(*words: bytes | str | int) -> tuple[bytes, ...]:
    """Return words as bytes, for the same reason as ``without_numbers``."""
    # As `_words` has them: an enumeration's own str is its name, and no value.
    return tuple(
        word if isinstance(word, bytes) else b"%d" % word if isinstance(word, int) else word.encode() for word in words
    )


NUMBERS = frozenset({int, float})


def without_numbers(words: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same words: hiredis crashes where a signal handler (Ctrl-C) raises while it formats a number."""
    return tuple([repr(word).encode() if type(word) in NUMBERS else word for word in words])


def packed(call: Call) -> bytes:
    """Return the same as the bytes of the protocol: half the time goes when a client packs each command anew."""
    if call.form is not None:
        return filled(call.form, str(call.args[0]))
    return _head(call.script.sha, tuple(call.keys), len(call.args)) + _words(call.args)


PING = b"*1\r\n$4\r\nPING\r\n"
"""Sent ahead of a script, in one piece, so that whom the script tells something hears of it before we do.

Redis writes to its clients in the opposite of the order in which it first had something for each of them. Whoever hands
a lock on would wake first, and on a busy machine the one who waits for it would wait for that, too.
"""


def filled(form: Form, first: str) -> bytes:
    """Return a form with its first argument, as the bytes of the protocol; nearly all of them are made once."""
    word = first.encode()
    before, after = form.packed or _packed_around(form)
    return b"".join((before[len(word)], word, after))


def _packed_around(form: Form) -> tuple[_Before, bytes]:
    form.packed = packed = _Before(form), b"\r\n" + _words(form.args)
    return packed


class _Before(dict[int, bytes]):
    """What is sent in front of the first argument of a form, by the length of that: nearly always the same."""

    def __init__(self, form: Form) -> None:
        self._head = _head(form.script.sha, tuple(form.keys), 1 + len(form.args))

    def __missing__(self, length: int) -> bytes:
        before = self[length] = self._head + b"$%d\r\n" % length
        return before


def _words(args: Sequence[bytes | str | int]) -> bytes:
    parts = []
    for arg in args:
        if isinstance(arg, int):
            parts.append(_number(arg))  # a ttl: always the same few
        else:
            value = arg if isinstance(arg, bytes) else arg.encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _head(sha: str, keys: tuple[bytes, ...], args: int) -> bytes:
    words = (b"EVALSHA", sha.encode(), b"%d" % len(keys), *keys)
    return b"*%d\r\n" % (len(words) + args) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@lru_cache(maxsize=1024)
def _number(value: int) -> bytes:
    digits = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(digits), digits)


def evals(calls: Sequence[Call]) -> list[tuple[Any, ...]]:
    """Return the commands that teach the server each script once, and run it by name from then on."""
    taught: set[Script] = set()
    commands: list[tuple[Any, ...]] = []
    for call in calls:
        if call.script in taught:
            commands.append(evalsha(call))
        else:
            taught.add(call.script)
            commands.append(("EVAL", call.script.source, *_plain(len(call.keys), *call.keys, *call.args)))
    return commands


def confirming(command: tuple[Any, ...], confirm: Confirm) -> list[tuple[Any, ...]]:
    """Return the commands that write, and wait for the copies."""
    within = max(1, math.ceil(confirm.within * 1000))  # 0 would wait for ever
    copies = (1, confirm.replicas) if confirm.fsync else (confirm.replicas,)
    return [command, ("WAITAOF" if confirm.fsync else "WAIT", *_plain(*copies, within))]
