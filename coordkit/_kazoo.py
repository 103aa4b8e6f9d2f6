"""What the two ZooKeeper ports share of one KazooClient: its link, its session, and what kazoo does not tell.

kazoo hides the negotiated session timeout and whether the client was started in this process; what is read from its
private parts is read here and in the files ``_kazoo_*`` beside it, each with its reason.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, ConnectionClosedError, ConnectionLoss
from kazoo.protocol.states import KazooState, KeeperState

from coordkit import _kazoo_connecting, _kazoo_endings, _kazoo_requests, _kazoo_select, _kazoo_watches
from coordkit._kazoo_end import close_at_exit, stop
from coordkit._kazoo_past import Past
from coordkit._kazoo_sending import Sending
from coordkit._kazoo_trees import Trees
from coordkit._kazoo_watches import Bells, Deliver
from coordkit._ports_zookeeper import GetChildren, GetData, GetStat, Link, Request, WatchTree
from coordkit.errors import CoordError

_log = logging.getLogger("coordkit")

T = TypeVar("T")

_UNKNOWN_TIMEOUT = 4.0
"""Seconds assumed when kazoo will not say what was negotiated: the least that a server with default settings grants."""

SWEEP = 1.0
"""Seconds after which a watch that nobody waits for any more is removed from the server."""


def check_client(client: Any) -> None:
    """Raise ``TypeError`` for anything but a ``KazooClient``."""
    if not isinstance(client, KazooClient):
        raise TypeError(f"zk must be a kazoo.client.KazooClient, got {client!r}")


class Wire:
    """One KazooClient, as both flavours see it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.bells = Bells()
        self._sending = Sending(client)
        self.send = self._sending.send
        self.trees = Trees(client, self._sending)
        self.past = Past(client, self)
        self.negotiated: float | None = None
        self._refused = False
        self._suspended = ""
        self.companion: object | None = None  # what guards the session
        self.near: tuple[str, str, int] | None = None  # the server that we are at
        self._follower: Callable[[dict[str, Any]], None] | None = None
        self._listeners: set[Callable[[Link], None]] = set()
        self._learn()
        _kazoo_endings.hook(client)
        _kazoo_select.hook(client.handler)
        _kazoo_watches.hook(client.handler)
        client.add_listener(self._told)
        close_at_exit(self)

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.client.hosts)
        return f"ZooKeeper at {hosts}{self.client.chroot}"

    # -- what kazoo knows

    def link(self) -> Link:
        client = self.client
        # A connection thread that is not alive while the client believes it runs was the parent's.
        thread = client._connection._connection_routine  # noqa: SLF001  kazoo#519: use after a fork hangs
        alive = not isinstance(thread, threading.Thread) or thread.is_alive()
        state = client.client_state
        if state == KeeperState.AUTH_FAILED:
            return Link.REFUSED
        if state == KeeperState.CLOSED:
            # start_async() was called a moment ago, and the first connection attempt has not begun.
            starting = not client._stopped.is_set() and thread is not None and alive  # noqa: SLF001  no public way
            if starting:
                return Link.CONNECTING
            return Link.REFUSED if self._refused else Link.CLOSED
        if not alive:
            return Link.FORKED
        if state == KeeperState.CONNECTED and client.connected:
            return Link.CONNECTING if self._suspended else Link.CONNECTED
        return Link.REFUSED if self.past.behind else Link.CONNECTING

    def session_is_ours(self) -> bool:
        """Return whether there is a connection, of this process, over which the session could be closed."""
        thread = self.client._connection._connection_routine  # noqa: SLF001  see link
        return bool(self.client.connected and isinstance(thread, threading.Thread) and thread.is_alive())

    def why(self) -> str:
        """Return what is wrong with the link, where kazoo does not know it; else an empty text."""
        if self.link() is Link.CLOSED and not self.client._stopped.is_set():  # noqa: SLF001  no public way
            retry = self.client._connection.retry_sleeper  # noqa: SLF001  as above
            bounded = retry.max_tries not in (None, -1) or retry.deadline is not None
            ended = (
                "it gave up, as its connection_retry says" if bounded else "its connection thread ended, see its log"
            )
            return f"{ended}: call its start() again"  # not restart(), which would close it as soon as it is connected
        return self.past.behind or self._suspended

    def cause(self) -> Exception:
        kinds = {Link.REFUSED: AuthFailedError, Link.CLOSED: ConnectionClosedError}
        error: Exception = kinds.get(self.link(), ConnectionLoss)()
        return error

    def listen(self, listener: Callable[[Link], None]) -> None:
        """Have ``listener`` told of every change of the link, in kazoo's own thread."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[Link], None]) -> None:
        self._listeners.discard(listener)

    def suspend(self, why: str) -> None:
        """Have the link count as not connected, for this reason; an empty one ends that."""
        self._suspended = why
        self._tell(self.link())

    def end(self, stopped: Callable[[], None]) -> None:
        """Stop the client in a thread, and call ``stopped`` there."""
        stop(self.client, stopped)

    def _told(self, state: str) -> None:
        self._tell(self._heard(state))

    def _tell(self, link: Link) -> None:
        for listener in list(self._listeners):
            try:
                listener(link)
            except Exception:  # noqa: BLE001  each by itself: the others must hear of it
                _log.exception("a listener of the link failed; the others go on")

    def _heard(self, state: str) -> Link:
        """Translate what a state listener is told; by the time it is told, the client may be further on."""
        if state == KazooState.SUSPENDED:
            return Link.CONNECTING
        if state == KazooState.LOST and self.link() is Link.CONNECTED:
            return Link.CONNECTING
        return self.link()

    def follow(self, follower: Callable[[dict[str, Any]], None] | None) -> None:
        """Have ``follower`` told of the session, as a companion wants it, and of each that follows, before its use."""
        self._follower = follower
        self._tell_follower()

    def _tell_follower(self) -> None:
        client, follower = self.client, self._follower
        if follower is not None and client._session_id:  # noqa: SLF001  client_id is not set yet when this is told
            password = client._session_passwd  # noqa: SLF001  as above
            follower(
                {
                    "id": client._session_id,  # noqa: SLF001  as above
                    "password": password.hex(),
                    "timeout": self.session_timeout(),
                    "near": self.near,
                    "hosts": client.hosts,
                }
            )

    def may_wait(self, name: str) -> None:
        """Raise ``CoordError`` in the threads in which kazoo itself handles answers and calls listeners and watches."""
        here, client = threading.current_thread(), self.client
        serving = [client._connection._connection_routine, *getattr(client.handler, "_workers", ())]  # noqa: SLF001  no public way
        if any(thread is here for thread in serving):
            raise CoordError(
                name,
                "called in a thread of kazoo's own, from a state listener or a watch: no answer can come there; "
                "call it in another thread (client.handler.spawn)",
            )

    def session(self) -> int | None:
        identity = self.client.client_id
        return None if identity is None else identity[0]

    def session_timeout(self) -> float:
        asked: float = self.client._session_timeout / 1000  # noqa: SLF001  no public way, kazoo#769
        if self.negotiated is not None:
            return self.negotiated
        return min(asked, _UNKNOWN_TIMEOUT) if self.client.connected else asked

    def _learn(self) -> None:
        """Learn the negotiated timeout of every connection to come, and of the one that is open already.

        Of a connection that is open the only trace is a local variable of the thread that serves it.
        """
        _kazoo_connecting.hook(self)
        client = self.client
        change = client._session_callback  # noqa: SLF001  AUTH_FAILED is no state of a listener, and CLOSED follows it

        def changing(state: str) -> Any:
            if state == KeeperState.AUTH_FAILED:
                self._refused = True
            elif state in (KeeperState.CONNECTED, KeeperState.CONNECTED_RO):
                self._refused = False
                self._tell_follower()
            return change(state)

        client._session_callback = changing  # noqa: SLF001  listeners hear it too late
        if self.client.connected and self.negotiated is None:
            self.negotiated = _timeout_of(client._connection)  # noqa: SLF001  kazoo#769
            if self.negotiated is None:
                _log.warning("%s: negotiated timeout unknown, taken as at most %s s", self, _UNKNOWN_TIMEOUT)

    def unwatch(self, request: GetData | GetStat | GetChildren | WatchTree, deliver: Deliver) -> bool:
        """Forget the watch of ``request``; return whether there is something to ``sweep`` now."""
        if isinstance(request, WatchTree):
            self.trees.unhang(request, deliver)
            return False
        return self.bells.unhang(request, deliver)

    def forget(self, deliver: Deliver) -> None:
        """Forget all watches that are carried by ``deliver``."""
        self.trees.forget(deliver)
        self.bells.forget(deliver)
        self.sweep()

    def sweep(self) -> None:
        """Remove the watches that nobody waits for."""
        self.bells.sweep(self._sending)

    # -- requests and answers

    def submit(self, request: Request, deliver: Deliver) -> Any:
        """Put ``request`` down for ``send``; return its answer. ``deliver`` carries a watch to where it runs."""
        return _kazoo_requests.submit(self._sending, self.bells, self.trees, request, deliver)

    def answer(self, name: str, request: Request, result: Any, within: float) -> Any:
        """Return what ``result`` holds in coordkit's words; an error is returned, not raised."""
        return _kazoo_requests.answer(self, name, request, result, within)


def _timeout_of(connection: Any) -> float | None:
    thread = connection._connection_routine  # noqa: SLF001  see Wire._learn
    frame = sys._current_frames().get(getattr(thread, "ident", None) or 0)  # noqa: SLF001  the documented way
    while frame is not None:
        # `last_send` is set after the timeouts were turned into seconds.
        if frame.f_code.co_name == "_connect_attempt" and "last_send" in frame.f_locals:
            return float(frame.f_locals["read_timeout"]) * 1.5
        frame = frame.f_back
    return None


def once_per_client(client: Any, attribute: str, make: Callable[[], T]) -> T:
    """Return what ``client`` keeps under ``attribute``, made at the first call; it lives and dies with the client."""
    with _making:
        if attribute not in vars(client):
            vars(client)[attribute] = make()
        kept: T = vars(client)[attribute]
        return kept


def wire_of(client: Any) -> Wire:
    """Return the one wire of a client: its private methods must not be wrapped twice."""
    return once_per_client(client, "_coordkit_wire", lambda: Wire(client))


_making = threading.RLock()
