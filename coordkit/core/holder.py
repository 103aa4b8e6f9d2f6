"""The id of a holder, ``host:pid:random[:label]``: what a person can read in it, and how a user's text gets into it.

It is what stands in the key, so a label costs no request and no key, and ``redis-cli GET`` shows it. It holds no space
and no control character, because the entries of a queue are split at spaces: such are percent-encoded.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

_LONGEST = 100
_PLAIN = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"
_OURS = re.compile(r"(?P<host>[^:\s]+):(?P<pid>[0-9]+):[0-9a-f]{32}(?::(?P<label>\S+))?")


class Holder(NamedTuple):
    """Who holds a lock, or waits for it.

    Of a key that is not coordkit's only ``id`` is known. ``since`` is in seconds since the epoch by the server's clock:
    of a holder when its token was minted (read from the token, so it is later than that where the clock was set back
    before), of a waiter when it queued up. ``token`` is None for a waiter, and where the counter was evicted.
    """

    id: str
    host: str | None = None
    pid: int | None = None
    since: float | None = None
    label: str = ""
    token: int | None = None


def check_label(value: object) -> str:
    """Return what to put behind a holder id: "" for no label, else ``:`` and the text, percent-encoded."""
    if not isinstance(value, str):
        raise TypeError(f"label must be a str, got {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"label must be text that UTF-8 can encode, got {value!r}") from None
    if size > _LONGEST:
        raise ValueError(f"label must be at most {_LONGEST} bytes of UTF-8, got {size}: {value!r}")
    return f":{quote(value, safe=_PLAIN)}" if value else ""


def read(holder: str, *, since: float | None = None, token: int | None = None) -> Holder:
    """Return what a holder id says."""
    ours = _OURS.fullmatch(holder)
    if ours is None:
        return Holder(holder)
    label = unquote(ours["label"] or "")
    return Holder(holder, unquote(ours["host"]), int(ours["pid"]), since, label, token)
