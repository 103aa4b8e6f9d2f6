"""The objects that redis-py has for modules: they speak to one client, so a sharded one refuses them at once."""

from __future__ import annotations

from typing import Any, NoReturn

from coordkit.errors import CrossShardError


class Modules:
    """Refuses them, and says what to do: a command of a module that has a key is routed as any other."""

    def json(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("JSON.GET", key)`` is routed, ``client_for(key).json()`` is one shard's."""
        raise _refused("json", "JSON.GET")

    def ft(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: an index is one shard's, ``on(shard).ft(index)``."""
        raise _refused("ft", "")

    def ts(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("TS.GET", key)`` is routed, ``client_for(key).ts()`` is one shard's."""
        raise _refused("ts", "TS.GET")

    def bf(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("BF.ADD", key, item)`` is routed, ``client_for(key).bf()`` is one shard's."""
        raise _refused("bf", "BF.ADD")

    def cf(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("CF.ADD", key, item)`` is routed, ``client_for(key).cf()`` is one shard's."""
        raise _refused("cf", "CF.ADD")

    def cms(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("CMS.INFO", key)`` is routed, ``client_for(key).cms()`` is one shard's."""
        raise _refused("cms", "CMS.INFO")

    def topk(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("TOPK.LIST", key)`` is routed, ``client_for(key).topk()`` is one shard's."""
        raise _refused("topk", "TOPK.LIST")

    def tdigest(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("TDIGEST.INFO", key)`` is routed, ``client_for(key).tdigest()`` is one shard's."""
        raise _refused("tdigest", "TDIGEST.INFO")

    def graph(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("GRAPH.QUERY", key, ...)`` is routed; redis-py has the object until 5."""
        raise _refused("graph", "GRAPH.QUERY")

    def vset(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: ``execute_command("VSIM", key, ...)`` is routed, ``client_for(key).vset()`` is one shard's."""
        raise _refused("vset", "VSIM")


def _refused(name: str, command: str) -> CrossShardError:
    if not command:
        why = f"what it is about is not one key: use on(shard).{name}(...), for each shard"
    else:
        why = (
            f"redis-py's object for this module speaks to one client: use execute_command({command!r}, key, ...), "
            f"which is routed where the servers have the module, or client_for(key).{name}()"
        )
    return CrossShardError(f"{name}()", why, shards={})
