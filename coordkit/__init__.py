"""Coordination for Python services, on Redis and ZooKeeper: locks, elections, membership, sharded routing.

This is the blocking API; ``coordkit.aio`` has the same names for asyncio. Clients are passed in, never made.

What is promised: every grant carries a fencing token that rises; losing is loud; nothing leaks; both flavours are the
same library. What no lock service can promise: that two processes never *believe* they hold at once. A process may be
paused between looking and writing; only the resource can refuse the late writer, by comparing tokens (``Fence``).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordkit._sync import *  # noqa: F403  the one list of names is __all__ there

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # pytest loads our plugin, and so this package, in every project that has coordkit installed: redis-py and kazoo
    # are imported by whoever uses a name, not by whoever looks for fixtures.
    facade = import_module("coordkit._sync") if name == "__all__" or not name.startswith("_") else None
    if facade is None or name not in ("__all__", *facade.__all__):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(facade, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
