"""Aids for tests of services that use coordkit; they need neither pytest nor testcontainers.

The fixtures are in ``coordkit.testing.plugin`` (pytest loads it by itself once ``coordkit[testing]`` is installed), the
servers in ``processes``, ``containers`` and ``external``, and those that know one another in ``replicated``,
``sentinel`` and ``cluster``. Here is what a test calls by hand:

``FaultProxy``        a loopback TCP proxy that delays, loses, holds, refuses and resets
``paused(server)``    a block during which a server stands still
``expire(lock)``      a held lock runs out now, as if its ttl had passed
``kill_session(zk)``  a ZooKeeper session ends now, as if its client had been away for too long
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordkit.testing.faults import expire, kill_session
    from coordkit.testing.proxy import FaultProxy
    from coordkit.testing.servers import NotOwned, ServerFailed, paused

__all__ = ["FaultProxy", "NotOwned", "ServerFailed", "expire", "kill_session", "paused"]

_HOME = {"FaultProxy": "proxy", "expire": "faults", "kill_session": "faults"}


if not TYPE_CHECKING:  # a checker shall see the names above, and nothing that is not there

    def __getattr__(name: str) -> Any:
        # pytest loads the plugin, and with it this file, wherever coordkit is installed: what the proxy imports waits
        # until somebody asks.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME.get(name, 'servers')}"), name)
