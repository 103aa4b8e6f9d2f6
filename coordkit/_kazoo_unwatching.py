"""Taking a watch back from a server, which knows no difference between ours and the program's own on the same znode.

So it is decided in kazoo's own thread, as the request is to go out: what the program asked for before that was answered
by then, or is under way; what it asks for later, the server hears later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from kazoo.protocol.serialization import Exists, GetChildren, GetChildren2, GetData

CHILDREN, DATA, ANY = 1, 2, 3  # Watcher.WatcherType


class RemoveWatches:
    """Remove all watches of one kind that this connection has on a znode (kazoo has no such request).

    Watchers of the type ``ours`` may go with it; others keep it from being sent.
    """

    type = 18

    def __init__(self, path: str, kind: int, ours: Any = ()) -> None:
        self.path = path
        self.kind = kind
        self._ours = ours

    def serialize(self) -> bytes:
        path = self.path.encode()
        return struct.pack(">i", len(path)) + path + struct.pack(">i", self.kind)

    @staticmethod
    def deserialize(_data: bytes, _offset: int) -> None:
        """There is nothing in the answer."""

    def may_go(self, client: Any, under_way: Iterable[Any]) -> bool:
        """Return whether only ours watch, those in requests ``under_way`` included; kazoo forgets ours then."""
        tables: list[Any] = []
        asking: list[type] = []
        if self.kind in (CHILDREN, ANY):
            tables.append(client._child_watchers)  # noqa: SLF001  no public way
            asking += [GetChildren, GetChildren2]
        if self.kind in (DATA, ANY):
            tables.append(client._data_watchers)  # noqa: SLF001  as above
            asking += [Exists, GetData]
        watchers = [each for table in tables for each in table.get(self.path, ())]
        asked = [each for each in under_way if type(each) in asking and each.path == self.path]
        watchers += [each.watcher for each in asked if each.watcher is not None]
        if not all(isinstance(each, self._ours) for each in watchers):
            return False
        for table in tables:
            table.pop(self.path, None)
        return True
