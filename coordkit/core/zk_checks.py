"""What may be passed for a path, an identity, data, a version, a priority, partitions. Pure code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from coordkit.core.weighing import Weigh

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]")
_MAX_IDENTITY = 1024


def check_path(value: object) -> str:
    """Return ``value`` if it is the path of a znode below the root."""
    if not isinstance(value, str):
        raise TypeError(f"path must be a str, got {value!r}")
    parts = value.split("/")
    if parts[0] or len(parts) < 2 or not all(parts[1:]):
        raise ValueError(f"path must be absolute, without empty parts or a slash at its end, got {value!r}")
    if "." in parts or ".." in parts:
        raise ValueError(f"path must not have the parts '.' or '..', got {value!r}")
    if _FORBIDDEN.search(value):
        raise ValueError(f"path must not have characters that ZooKeeper forbids (control, surrogate), got {value!r}")
    return value


def check_identity(value: object) -> str:
    """Return ``value`` if it can name a contender or a member."""
    if not isinstance(value, str):
        raise TypeError(f"identity must be a str, got {value!r}")
    if not value:
        raise ValueError("identity must not be empty")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"identity must be text that UTF-8 can encode, got {value!r}") from None
    if length > _MAX_IDENTITY:
        raise ValueError(f"identity must be at most {_MAX_IDENTITY} bytes of UTF-8, got {length}: {value[:40]!r}...")
    return value


def check_data(value: object) -> bytes:
    """Return ``value`` if it can be a member's data: bytes, under the servers' default limit.

    That is ``jute.maxbuffer``, 1 MiB for the whole request; servers that were given a lower one refuse earlier.
    """
    if not isinstance(value, bytes):
        raise TypeError(f"data must be bytes, got {value!r}")
    if len(value) > 1_000_000:
        raise ValueError(f"data must be at most 1,000,000 bytes, got {len(value)}")
    return value


def check_version(value: object) -> int:
    """Return ``value`` if it can be the version of a znode; -1 stands for any."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"version must be an int, got {value!r}")
    if not -1 <= value < 1 << 31:
        raise ValueError(f"version must be -1 (any) or the version of a znode, got {value!r}")
    return value


def check_priority(value: object) -> int:
    """Return ``value`` if it can be the priority of a contender."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be an int, got {value!r}")
    if not 0 <= value < 10**9:
        raise ValueError(f"priority must be between 0 and 999,999,999, got {value!r}")
    return value


def check_weigh(value: Weigh | None) -> Weigh | None:
    """Return ``value`` if it can be called, or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"weigh must be a function of a member's data, or None, got {value!r}")
    return value


def check_partitions(value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple if it names partitions: distinct texts."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"partitions must be an iterable of texts, such as a list, got {value!r}")
    keys = tuple(value)
    for key in keys:
        try:
            check_identity(key)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("identity", "each of partitions", 1)) from None
    if len(set(keys)) != len(keys):
        raise ValueError(f"partitions must be distinct, got more than one {max(keys, key=keys.count)!r}")
    return keys
