"""Persistent recursive watches over kazoo, which has none (its PR#715 is open): one request, and one hook on events.

ZooKeeper 3.6 and newer keep such a watch for as long as the connection, and tell of each znode that is made, changed or
deleted at or below its path. Before 3.9 (ZOOKEEPER-4466) they forget it once the same client puts a plain watch on the
very same path, as a ``DataWatch`` of the program's own does: then it is asked for again, and whoever waits looks anew.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

from kazoo.exceptions import UnimplementedError
from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.serialization import Exists, GetData, Watch, int_struct, write_string

from coordkit._kazoo_answers import Answer
from coordkit._kazoo_sending import Sending
from coordkit._kazoo_unwatching import ANY, RemoveWatches
from coordkit._kazoo_watches import Deliver
from coordkit._ports_zookeeper import TreeWatch, WatchTree

_log = logging.getLogger("coordkit")

_RECURSIVE = 1  # ZooDefs.AddWatchModes.persistentRecursive
_UNIMPLEMENTED = -6  # KeeperException.Code


class AddWatch:
    """Operation 106."""

    type = 106

    def __init__(self, path: str) -> None:
        self.path = path

    def serialize(self) -> bytearray:
        return bytearray(write_string(self.path) + int_struct.pack(_RECURSIVE))

    @classmethod
    def deserialize(cls, _bytes: bytes, _offset: int) -> bool:
        return True


class Trees:
    """The recursive watches of one client: one for each path, however many wait for it, and in whatever loops."""

    supported = True
    """False once a server has said that it knows no such watches; tests say it for it."""

    def __init__(self, client: Any, sending: Sending) -> None:
        self._client = client
        self._sending = sending
        self._mutex = threading.RLock()  # re-entered when a garbage collection inside it closes a stream
        self._waiting: dict[str, set[tuple[Deliver, TreeWatch]]] = {}
        self._hooked = False

    def hang(self, request: WatchTree, deliver: Deliver) -> Answer:
        """Watch, for as long as the connection stands; return what is answered."""
        with self._mutex:
            self._hook()
            self._waiting.setdefault(self._key(request), set()).add((deliver, request.watch))
        return self._add(self._key(request))

    def unhang(self, request: WatchTree, deliver: Deliver) -> None:
        key = self._key(request)
        with self._mutex:
            waiting = self._waiting.get(key)
            if waiting is None:
                return
            waiting.discard((deliver, request.watch))
            if not waiting:
                del self._waiting[key]
                self._remove(key)

    def forget(self, deliver: Deliver) -> None:
        """Forget all watches that are carried by ``deliver``."""
        with self._mutex:
            for key, waiting in list(self._waiting.items()):
                waiting -= {each for each in waiting if each[0] == deliver}
                if not waiting:
                    del self._waiting[key]
                    self._remove(key)

    def __len__(self) -> int:
        return len(self._waiting)

    def _key(self, request: WatchTree) -> str:
        path: str = _prefix_root(self._client.chroot, request.path)
        return path

    def _add(self, key: str) -> Answer:
        answer = Answer(self._sending.send)
        if self.supported:
            self._sending.put(AddWatch(key), answer)
            answer.rawlink(self._added)
        else:
            answer.set_exception(UnimplementedError())
        return answer

    def _added(self, result: Any) -> None:
        if isinstance(result.exception, UnimplementedError):
            self.supported = False  # it hangs up after that, so it is asked once

    def _remove(self, key: str) -> None:
        client = self._client
        if client.connected and self.supported:  # where it is not sent, what is left is heard by nobody
            self._sending.put(RemoveWatches(key, ANY), Answer(self._sending.send))
            self._sending.send()

    # -- what kazoo hears and sends

    def _hook(self) -> None:
        if self._hooked:
            return
        self._hooked = True
        connection, client = self._client._connection, self._client  # noqa: SLF001  the private watch dispatcher
        read, call = connection._read_watch_event, client._call  # noqa: SLF001  the same, wrapped

        def reading(buffer: Any, offset: int) -> Any:
            self._heard(Watch.deserialize(buffer, offset)[0].path)
            return read(buffer, offset)

        def calling(request: Any, result: Any) -> Any:
            answer = call(request, result)
            self._noticed(request)
            self._sending.send()
            return answer

        respond = connection._read_response  # noqa: SLF001  the same

        def responding(header: Any, buffer: Any, offset: int) -> Any:
            return None if self._refused(header) else respond(header, buffer, offset)

        connection._read_response = responding  # noqa: SLF001  the same
        connection._read_watch_event = reading  # noqa: SLF001  the hook, put around
        client._call = calling  # noqa: SLF001  the same
        self._sending.noticed = self._noticed

    def _refused(self, header: Any) -> bool:
        """Take the answer of a server that knows no such watches, if this is it: it comes before those to what was sent
        earlier, and then hangs up. kazoo's connection thread would end with it.
        """
        pending = self._client._pending  # noqa: SLF001  no public way
        if header.err == _UNIMPLEMENTED:
            for at, (request, answer, number) in enumerate(pending):
                if number == header.xid and isinstance(request, AddWatch):
                    del pending[at]
                    answer.set_exception(UnimplementedError())
                    return True
        return False

    def _noticed(self, request: Any) -> None:
        """Ask anew for a watch that was forgotten over this request."""
        hung = isinstance(request, Exists | GetData) and request.watcher is not None
        if (hung or isinstance(request, RemoveWatches)) and request.path in self._waiting:
            self._add(request.path).rawlink(lambda _: self._tell(request.path, None))

    def _heard(self, path: str) -> None:
        """Tell of an event, in the order of events; in kazoo's thread, whose handler must not be kept."""
        at = path
        while at:
            if at in self._waiting:
                self._tell(at, path[len(at) + 1 :])
            at = at.rpartition("/")[0]

    def _tell(self, key: str, below: str | None) -> None:
        with self._mutex:
            waiting = list(self._waiting.get(key, ()))
        for deliver, watch in waiting:
            try:
                deliver(partial(watch, below))
            except Exception:  # noqa: BLE001  each by itself: kazoo's connection would end with one
                _log.exception("a watch failed; the others go on")
