"""Arguments that can only be mistakes are refused where they are given, not where they hurt."""

from __future__ import annotations

import inspect
import math
import signal
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from tenacity.wait import wait_base

from coordkit._ports import Confirm

MIN_TTL = 0.05

COPIED = 2.0
"""Seconds at most that a grant waits for its copies; an append-only file is flushed every second, usually."""


def check_name(argument: str, value: object) -> str:
    """Return ``value`` if it is a name of a lock or a fence, which becomes part of a Redis key."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, got {value!r}")
    if not value:
        raise ValueError(f"{argument} must not be empty")
    if value.startswith("}"):
        # '{}' is no hash tag: the keys of this name would lie on different slots of a Redis Cluster.
        raise ValueError(f"{argument} must not start with '}}', got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument} must be text that UTF-8 can encode, got {value!r}") from None
    return value


def check_names(argument: str, value: object) -> tuple[str, ...]:
    """Return ``value``, several names of locks, each once, in the order in which they are acquired."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f'{argument} must be several names, such as ["a", "b"], got {value!r}')
    names = [check_name(f"{argument}[{at}]", name) for at, name in enumerate(value)]
    if not names:
        raise ValueError(f"{argument} must have one name or more, got {value!r}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{argument} must have each name once, got {twice[0]!r} again")
    return tuple(sorted(names))


def _number(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number of seconds, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{argument} must be a number of seconds, got nan")
    return float(value)


def check_bool(argument: str, value: object) -> bool:
    """Return ``value`` if it says yes or no; "no" would say yes."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be a bool, got {value!r}")
    return value


def check_ttl(value: object) -> float:
    """Return ``value`` if a server can keep a lease so long: finite, and long enough for a round trip and a pause."""
    ttl = _number("ttl", value)
    if not MIN_TTL <= ttl <= 10**9:
        raise ValueError(f"ttl must be between {MIN_TTL} and 1e9 seconds, got {value!r}")
    return ttl


def check_permits(value: object) -> int:
    """Return ``value`` if it is a number of permits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"permits must be an int, got {value!r}")
    if not 1 <= value <= 10**9:
        raise ValueError(f"permits must be between 1 and 1e9, got {value!r}")
    return value


def check_history(value: object) -> int:
    """Return ``value`` if it is how many entries a log may keep."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"history must be an int, got {value!r}")
    if not 1 <= value <= 10_000:
        raise ValueError(f"history must be between 1 and 10,000, got {value!r}")
    return value


def check_parties(value: object) -> int:
    """Return ``value`` if it is a number of parties that one transaction can let in."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"parties must be an int, got {value!r}")
    if not 1 <= value <= 1000:
        raise ValueError(f"parties must be between 1 and 1000, got {value!r}")
    return value


def check_bound(value: object) -> float | None:
    """Return ``value`` if it is None or a positive time, for a lease that has no ttl of its own."""
    if value is None:
        return None
    bound = _number("max_hold", value)
    if not bound > 0:
        raise ValueError(f"max_hold must be None or more than 0 seconds, got {value!r}")
    return bound


def check_max_hold(value: object, ttl: float) -> float | None:
    """Return ``value`` if it is None or a bound that leaves room for one ttl."""
    if value is None:
        return None
    bound = _number("max_hold", value)
    if not bound >= ttl:
        raise ValueError(f"max_hold must be None or at least ttl ({ttl} seconds), got {value!r}")
    return bound


def check_timeout(value: object) -> float | None:
    """Return ``value`` if it is somebody's patience: None for ever, 0 once, else seconds."""
    if value is None:
        return None
    timeout = _number("timeout", value)
    if timeout < 0:
        raise ValueError(f"timeout must be None (for ever), 0 (once) or more seconds, got {value!r}")
    return None if math.isinf(timeout) else timeout


def check_hang(value: object) -> float:
    """Return ``value`` if a process that was silent for so many seconds may count as hung."""
    hang = _number("hang", value)
    if not 0.1 <= hang <= 86400:
        raise ValueError(f"hang must be between 0.1 and 86400 seconds, got {value!r}")
    return hang


def check_signals(value: object) -> tuple[int, ...]:
    """Return ``value``, several signals that a process can handle."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"signals must be several signals, such as [signal.SIGTERM], got {value!r}")
    signals = tuple(value)
    for each in signals:
        if isinstance(each, bool) or not isinstance(each, int):
            raise TypeError(f"signals must be signals of the module signal, got {each!r}")
        if each not in signal.valid_signals() or each in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"signals must be signals that a process can handle, got {each!r}")
    return signals


def check_policy(value: object) -> str:
    """Return ``value`` if it says what a suspended connection does to a leadership."""
    if value not in ("strict", "session"):
        raise ValueError(f"policy must be 'strict' or 'session', got {value!r}")
    return str(value)


C = TypeVar("C", bound=Callable[..., object])


def check_python(python: object) -> str | None:
    """Return the path of an interpreter, None for our own."""
    if python is None:
        return None
    if not isinstance(python, str):
        raise TypeError(f"python must be the path of an interpreter, a str, got {python!r}")
    if not python:
        raise ValueError("python must not be empty: give the path of an interpreter, or None for sys.executable")
    return python


def check_delay(argument: str, value: object) -> float:
    """Return ``value`` if it is a number of seconds to let pass, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number of seconds, got {value!r}")
    if not (0 <= value < math.inf):
        raise ValueError(f"{argument} must be 0 or more seconds, and finite, got {value!r}")
    return float(value)


def check_callable(argument: str, value: C) -> C:
    """Return ``value`` if it can be called."""
    if not callable(value):
        raise TypeError(f"{argument} must be callable, got {value!r}")
    return value


def check_callback(argument: str, value: C | None) -> C | None:
    """Return ``value`` if it can be called and nobody needs to await it."""
    given: object = value
    if given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
        raise TypeError(f"{argument} must be a plain function or None, got {value!r}")
    return value


def check_copies(min_replicas: object, fsync: object, ttl: float, cannot: str | None) -> Confirm | None:
    """Return the copies that a grant must have, if any; ``cannot`` says why this client cannot wait for any."""
    if isinstance(min_replicas, bool) or not isinstance(min_replicas, int):
        raise TypeError(f"min_replicas must be an int, got {min_replicas!r}")
    if min_replicas < 0:
        raise ValueError(f"min_replicas must be 0 or more, got {min_replicas!r}")
    disk = check_bool("fsync", fsync)
    if not min_replicas and not disk:
        return None
    if cannot is not None:
        raise ValueError(f"min_replicas={min_replicas} and fsync={fsync} are not to be had with this client: {cannot}")
    return Confirm(min_replicas, disk, min(ttl / 3, COPIED))


def check_wait(value: object) -> wait_base:
    """Return ``value`` if it is a tenacity wait strategy."""
    if not callable(value):
        raise TypeError(f"wait must be a tenacity wait strategy, such as wait_fixed(0.1), got {value!r}")
    return cast("wait_base", value)  # tenacity's own notion: whatever can be called with a state


def check_value(argument: str, value: object) -> str | bytes | int:
    """Return ``value`` if Redis keeps it as it is written."""
    if isinstance(value, bool) or not isinstance(value, str | bytes | int):
        raise TypeError(f"{argument} must be a str, bytes or int, got {value!r}")
    return value
