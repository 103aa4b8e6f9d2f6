"""Where the keys of a command stand.

Each command has a rule, written as a short string (``table.py`` has them all, taken from a real server):

====================  ==================================================================================================
``1:0:1``             keys from argument 1 on, to ``0`` arguments after the first, each ``1`` apart: one key
``1:-1:2``            a negative end counts from the last argument: MSET
``#2``                argument 2 is a number, and that many keys follow it: EVAL
``STREAMS@1:-1:1:2``  keys follow the word STREAMS, searched from argument 1 on, and are a half of the rest: XREAD
``sort``, ``migrate`` what the server's own specification leaves out, spelled out below
``?``                 only the server can tell: COMMAND GETKEYS, for each call
(empty)               no keys
====================  ==================================================================================================

Argument 0 is the command's name (a subcommand, where there is one, is argument 1), as they go on the wire. Rules joined
by a space add up. Source: "Command key specifications", redis.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

ASK = "?"
# The server's specification of these is incomplete, by its own word.
_SPELLED_OUT = {"SORT": "sort", "SORT_RO": "sort", "MIGRATE": "migrate"}


class _Span(NamedTuple):
    keyword: str
    start: int
    last: int
    step: int
    limit: int


class _Counted(NamedTuple):
    start: int


def word(argument: Any) -> str:
    """Return an argument as an upper-case word, as the server reads names and keywords; "" for what cannot be one."""
    if isinstance(argument, str):
        return argument.upper()
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument).decode("latin-1").upper()
    return ""


def wire_arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the arguments as they go on the wire: redis-py sends ``("CONFIG GET", "x")`` as three."""
    if not args:
        raise ValueError("args=(); a command's name and its arguments are allowed")
    name = args[0]
    if not isinstance(name, (str, bytes)) or not name.strip():
        raise TypeError(f"args[0]={name!r}; the name of a command, a non-empty str or bytes, is allowed")
    return (*name.split(), *args[1:])


def key_positions(rule: str, args: Sequence[Any]) -> list[int]:
    """Return where the keys stand in ``args``, in rising order; raise ValueError if a number of keys is not one."""
    if rule == "sort":
        return _sort_positions(args)
    if rule == "migrate":
        return _migrate_positions(args)
    found = [_counted(spec, args) if isinstance(spec, _Counted) else _spanned(spec, args) for spec in _parsed(rule)]
    return list(found[0]) if len(found) == 1 else sorted(set().union(*found))


def sort_patterns(args: Sequence[Any]) -> list[Any]:
    """Return the BY and GET patterns of a SORT through which it reads other keys."""
    patterns = [args[i + 1] for i in _options(args, 2, {"BY": 1, "GET": 1, "LIMIT": 2, "STORE": 1}, {"BY", "GET"})]
    return [pattern for pattern in patterns if b"*" in _bytes(pattern)]


def entries_of(info: Any) -> dict[str, str]:
    """Return the rule of a command and of each of its subcommands (``OBJECT|ENCODING``), from its COMMAND INFO entry.

    Entries of Redis 6.2 (seven fields or fewer) up to 8, as RESP2 lists or RESP3 maps, bytes or str.
    """
    name = word(info[0])
    entries = {name: _SPELLED_OUT.get(name, _rule_of(info))}
    if len(info) > 9:
        for subcommand in info[9]:
            entries.update(entries_of(subcommand))
    return entries


def flags_of(info: Any) -> dict[str, set[str]]:
    """Return the server's flags (``WRITE``, ``READONLY`` ...) of a command and of each of its subcommands."""
    flags = {word(info[0]): {word(flag) for flag in info[2]}}
    for subcommand in info[9] if len(info) > 9 else ():
        flags.update(flags_of(subcommand))
    return flags


def _rule_of(info: Any) -> str:
    flags = {word(flag) for flag in info[2]}
    if len(info) < 9:  # before 7.0: first, last and step only
        if "MOVABLEKEYS" in flags:
            return ASK
        first, last, step = (int(number) for number in info[3:6])
        return f"{first}:{last if last < 0 else last - first}:{step}" if first else ""
    rules = []
    for spec in info[8]:
        fields = _fields(spec)
        notes = {word(flag) for flag in fields["FLAGS"]}
        if "NOT_KEY" in notes:  # a channel
            continue
        begin, find = _fields(fields["BEGIN_SEARCH"]), _fields(fields["FIND_KEYS"])
        start, keys = _fields(begin["SPEC"]), _fields(find["SPEC"])
        rules.append(ASK if "INCOMPLETE" in notes else _spec(word(begin["TYPE"]), start, word(find["TYPE"]), keys))
    return ASK if ASK in rules else " ".join(rules)


def _spec(begin: str, start: Mapping[str, Any], find: str, keys: Mapping[str, Any]) -> str:
    if begin == "INDEX" and find == "KEYNUM" and (keys["KEYNUMIDX"], keys["FIRSTKEY"], keys["KEYSTEP"]) == (0, 1, 1):
        return f"#{start['INDEX']}"
    if begin not in {"INDEX", "KEYWORD"} or find != "RANGE":
        return ASK
    span = f"{keys['LASTKEY']}:{keys['KEYSTEP']}" + (f":{keys['LIMIT']}" if keys["LIMIT"] > 1 else "")
    if begin == "INDEX":
        return f"{start['INDEX']}:{span}"
    return f"{word(start['KEYWORD'])}@{start['STARTFROM']}:{span}"


def _fields(reply: Any) -> dict[str, Any]:
    pairs: Iterable[tuple[Any, Any]]
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {word(name): value for name, value in pairs}


@cache
def _parsed(rule: str) -> tuple[_Span | _Counted, ...]:
    specs: list[_Span | _Counted] = []
    for text in rule.split():
        if text.startswith("#"):
            specs.append(_Counted(int(text[1:])))
            continue
        keyword, _, numbers = text.rpartition("@")
        start, last, step, *limit = (int(number) for number in numbers.split(":"))
        specs.append(_Span(keyword, start, last, step, *(limit or [0])))
    return tuple(specs)


def _spanned(spec: _Span, args: Sequence[Any]) -> range:
    first = spec.start
    if spec.keyword:
        where = range(first, len(args)) if first >= 0 else range(len(args) + first, 0, -1)
        first = next((i + 1 for i in where if word(args[i]) == spec.keyword), len(args))
    if spec.last >= 0:
        last = first + spec.last
    elif spec.limit > 1:
        last = first + (len(args) - first) // spec.limit + spec.last
    else:
        last = len(args) + spec.last
    return range(first, min(last + 1, len(args)), spec.step)


def _counted(spec: _Counted, args: Sequence[Any]) -> range:
    if len(args) <= spec.start:
        return range(0)
    try:
        number = int(args[spec.start])
    except (TypeError, ValueError):
        number = -1
    first = spec.start + 1
    if not 0 <= number <= len(args) - first:
        raise ValueError(
            f"{word(args[0])}: number of keys {args[spec.start]!r}; 0 to {len(args) - first}, the arguments that "
            "follow it, is allowed"
        )
    return range(first, first + number)


def _sort_positions(args: Sequence[Any]) -> list[int]:
    stored = [i + 1 for i in _options(args, 2, {"BY": 1, "GET": 1, "LIMIT": 2, "STORE": 1}, {"STORE"})]
    return [1, *stored[-1:]] if len(args) > 1 else []


def _migrate_positions(args: Sequence[Any]) -> list[int]:
    # MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH password] [AUTH2 user password] [KEYS key ...]
    if len(args) > 3 and _bytes(args[3]) != b"":
        return [3]
    at = next(iter(_options(args, 6, {"AUTH": 1, "AUTH2": 2}, {"KEYS"})), len(args))
    return list(range(at + 1, len(args)))


def _options(args: Sequence[Any], start: int, values: Mapping[str, int], wanted: set[str]) -> list[int]:
    found, i = [], start
    while i < len(args):
        option = word(args[i])
        if option in wanted and i + 1 < len(args):
            found.append(i)
        i += 1 + values.get(option, 0)
    return found


def _bytes(argument: Any) -> bytes:
    return bytes(argument) if isinstance(argument, (bytes, bytearray, memoryview)) else str(argument).encode()
