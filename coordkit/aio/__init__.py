"""The asyncio API: the same names as ``coordkit``, awaited.

Losing what one holds cancels the body of its ``async with``, as ``asyncio.timeout`` does, and raises the loss.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordkit._async import *  # noqa: F403  the one list of names is __all__ there


def __getattr__(name: str) -> Any:
    # pytest loads our plugin, and so this package, in every project that has coordkit installed: redis-py and kazoo
    # are imported by whoever uses a name, not by whoever looks for fixtures.
    facade = import_module("coordkit._async") if name == "__all__" or not name.startswith("_") else None
    if facade is None or name not in ("__all__", *facade.__all__):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(facade, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
