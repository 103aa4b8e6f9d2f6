"""What the two ZooKeeper ports share: kazoo's requests, its answers, and the three things it does not tell.

kazoo hides the negotiated session timeout, whether the client was started in this process, and container znodes; what
is read from its private parts for that is read here and nowhere else, each with its reason.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    ZookeeperError,
)
from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.serialization import Create2
from kazoo.protocol.states import EventType, KazooState, KeeperState
from kazoo.security import OPEN_ACL_UNSAFE

from coordkit._ports import (
    BadVersion,
    Check,
    Create,
    Delete,
    GetChildren,
    GetData,
    GetStat,
    Kind,
    Link,
    Multi,
    NodeExists,
    NoNode,
    Request,
    SetData,
    Stat,
    Sync,
    Watch,
)
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable

_log = logging.getLogger("coordkit")

T = TypeVar("T")

Deliver = Callable[[Callable[[], None]], object]
"""Runs an action where watches are to run: at once in kazoo's thread, or soon in an event loop."""

_NO_ANSWER = frozenset({-1, -2, -3, -4, -7, -112, -118, -122, -127})
"""Error codes after which the outcome is unknown or the request may be sent again: the connection or the session was
lost or moved, a time ran out, a server failed inside, or it throttled us."""

_UNKNOWN_TIMEOUT = 4.0
"""Seconds assumed when kazoo will not say what was negotiated: the least that a server with default settings grants."""


def check_client(client: Any) -> None:
    """Raise ``TypeError`` for anything but a ``KazooClient``."""
    if not isinstance(client, KazooClient):
        raise TypeError(f"zk must be a kazoo.client.KazooClient, got {client!r}")


class CreateContainer(Create2):  # type: ignore[misc]  # kazoo ships no types
    """Create a znode that the servers remove once it is empty (kazoo#334 asks for it since 2015)."""

    type = 19


class Wire:
    """One KazooClient, as both flavours see it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.bells = Bells()
        self._negotiated: float | None = None
        self._refused = False
        self._listeners: set[Callable[[Link], None]] = set()
        self._learn()
        client.add_listener(self._told)

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.client.hosts)
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
        connected = state == KeeperState.CONNECTED and client.connected
        return Link.CONNECTED if connected else Link.CONNECTING

    def cause(self) -> Exception:
        kinds = {Link.REFUSED: AuthFailedError, Link.CLOSED: ConnectionClosedError}
        error: Exception = kinds.get(self.link(), ConnectionLoss)()
        return error

    def listen(self, listener: Callable[[Link], None]) -> None:
        """Have ``listener`` told of every change of the link, in kazoo's own thread."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[Link], None]) -> None:
        self._listeners.discard(listener)

    def _told(self, state: str) -> None:
        link = self._heard(state)
        for listener in list(self._listeners):
            listener(link)

    def _heard(self, state: str) -> Link:
        """Translate what a state listener is told; by the time it is told, the client may be further on."""
        if state == KazooState.SUSPENDED:
            return Link.CONNECTING
        if state == KazooState.LOST and self.link() is Link.CONNECTED:
            return Link.CONNECTING
        return self.link()

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
        if self._negotiated is not None:
            return self._negotiated
        return min(asked, _UNKNOWN_TIMEOUT) if self.client.connected else asked

    def _learn(self) -> None:
        """Learn the negotiated timeout of every connection to come, and of the one that is open already.

        ``_connect`` returns two thirds of it as its read timeout (Patroni wraps the same method, in production). Of a
        connection that is open the only trace is a local variable of the thread that serves it.
        """
        connection = self.client._connection  # noqa: SLF001  kazoo#769
        connect = connection._connect  # noqa: SLF001  kazoo tells it nowhere else

        def connecting(*args: Any, **kwargs: Any) -> Any:
            timeouts = connect(*args, **kwargs)
            self._negotiated = timeouts[0] / 1000 * 1.5
            return timeouts

        connection._connect = connecting  # noqa: SLF001  the same hook, put back around
        client = self.client
        change = client._session_callback  # noqa: SLF001  AUTH_FAILED is no state of a listener, and CLOSED follows it

        def changing(state: str) -> Any:
            if state == KeeperState.AUTH_FAILED:
                self._refused = True
            elif state in (KeeperState.CONNECTED, KeeperState.CONNECTED_RO):
                self._refused = False
            return change(state)

        client._session_callback = changing  # noqa: SLF001  listeners hear it too late
        if self.client.connected and self._negotiated is None:
            self._negotiated = _timeout_of(connection)
            if self._negotiated is None:
                _log.warning("%s: negotiated timeout unknown, taken as at most %s s", self, _UNKNOWN_TIMEOUT)

    # -- requests and answers

    def submit(self, request: Request, deliver: Deliver) -> Any:
        """Send ``request``; return kazoo's result object. ``deliver`` carries a watch to where it runs."""
        client = self.client
        if isinstance(request, GetData | GetStat | GetChildren):
            looks = {GetData: client.get_async, GetStat: client.exists_async, GetChildren: client.get_children_async}
            return looks[type(request)](request.path, watch=self.bells.hang(request, deliver))
        if isinstance(request, SetData):
            return client.set_async(request.path, request.data, request.version)
        if isinstance(request, Delete):
            return client.delete_async(request.path, request.version)
        if isinstance(request, Multi):
            return self._transaction(request).commit_async()
        return client.sync_async(request.path) if isinstance(request, Sync) else self._create(request)

    def _create(self, request: Create) -> Any:
        client = self.client
        if request.kind is Kind.CONTAINER:
            result = client.handler.async_result()
            path = _prefix_root(client.chroot, request.path)
            acl = client.default_acl or OPEN_ACL_UNSAFE
            client._call(CreateContainer(path, request.data, acl, 4), result)  # noqa: SLF001  kazoo has no method
            return result
        return client.create_async(
            request.path,
            request.data,
            ephemeral=request.kind in (Kind.EPHEMERAL, Kind.SEQUENTIAL),
            sequence=request.kind is Kind.SEQUENTIAL,
            include_data=True,
        )

    def _transaction(self, request: Multi) -> Any:
        transaction = self.client.transaction()
        for step in request.steps:
            if isinstance(step, Check):
                transaction.check(step.path, step.version)
            elif isinstance(step, SetData):
                transaction.set_data(step.path, step.data, step.version)
            elif isinstance(step, Delete):
                transaction.delete(step.path, step.version)
            else:
                transaction.create(step.path, step.data, ephemeral=step.kind is Kind.EPHEMERAL)
        return transaction

    def answer(self, name: str, request: Request, result: Any, within: float) -> Any:
        """Return what ``result`` holds in coordkit's words; an error is returned, not raised."""
        if not result.ready():
            error = StoreUnavailable(name, f"no answer from {self} within {within:.1f} s")
            error.__cause__ = OperationTimeoutError()
            return error
        problem, path = result.exception, request.steps[0].path if isinstance(request, Multi) else request.path
        if problem is None and isinstance(request, Multi):
            # A failed transaction is returned, not raised (kazoo#222): one step has the reason, the others echo it.
            for step, outcome in zip(request.steps, result.value, strict=False):
                if isinstance(outcome, Exception) and not isinstance(outcome, RolledBackError | RuntimeInconsistency):
                    problem, path = outcome, step.path
                    break
        if problem is not None:
            return self._problem(name, path, problem)
        return _in_our_words(request, result.value)

    def _problem(self, name: str, path: str, problem: Exception) -> Exception:
        for theirs, ours in _EXPECTED.items():
            if isinstance(problem, theirs):
                return ours(path)
        said = str(problem) or type(problem).__name__
        error: Exception
        if not isinstance(problem, ZookeeperError):
            error = StoreUnavailable(name, f"{self} was not asked, or did not answer: {said}")
        elif getattr(problem, "code", None) in _NO_ANSWER:
            error = StoreUnavailable(name, f"no answer from {self}: {said}")
        else:
            error = StoreRefused(name, f"{self} refused at {path}: {said}; check its ACLs, quotas and authentication")
        error.__cause__ = problem
        return error


_EXPECTED = {NoNodeError: NoNode, NodeExistsError: NodeExists, BadVersionError: BadVersion}


def _stat(stat: Any) -> Stat:
    return Stat(stat.czxid, stat.mzxid, stat.version, stat.ephemeralOwner)


def _in_our_words(request: Request, value: Any) -> Any:
    if isinstance(request, GetData):
        return value[0] or b"", _stat(value[1])
    if isinstance(request, Create):
        return value[0], _stat(value[1])
    if isinstance(request, SetData):
        return _stat(value)
    if isinstance(request, GetStat):
        return None if value is None else _stat(value)
    if isinstance(request, Multi):
        return [
            _stat(each) if isinstance(step, SetData) else each for step, each in zip(request.steps, value, strict=True)
        ]
    return value


def _timeout_of(connection: Any) -> float | None:
    thread = connection._connection_routine  # noqa: SLF001  see Wire._learn
    frame = sys._current_frames().get(getattr(thread, "ident", None) or 0)  # noqa: SLF001  the documented way
    while frame is not None:
        # `last_send` is set after the timeouts were turned into seconds.
        if frame.f_code.co_name == "_connect_attempt" and "last_send" in frame.f_locals:
            return float(frame.f_locals["read_timeout"]) * 1.5
        frame = frame.f_back
    return None


class Bells:
    """The watches of one client: at most one per znode at kazoo, however many wait for it, and in whatever loops.

    ZooKeeper keeps one watch per znode and connection, and kazoo one entry per callable; it cannot take either back. So
    the callable of a znode is always equal to the last one, and who gave up waiting leaves nothing that grows.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # re-entered when a garbage collection inside it closes a stream
        self._waiting: dict[tuple[bool, str], set[tuple[Deliver, Watch]]] = {}

    def hang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> Bell | None:
        """Add the watch of ``request``; return what kazoo is to call."""
        if request.watch is None:
            return None
        key = _key(request)
        with self._mutex:
            self._waiting.setdefault(key, set()).add((deliver, request.watch))
        return Bell(self, key)

    def unhang(self, request: GetData | GetStat | GetChildren, deliver: Deliver) -> None:
        key = _key(request)
        with self._mutex:
            waiting = self._waiting.get(key)
            if waiting is not None and request.watch is not None:
                waiting.discard((deliver, request.watch))
                if not waiting:
                    del self._waiting[key]

    def forget(self, deliver: Deliver) -> None:
        """Forget all watches that are carried by ``deliver``."""
        with self._mutex:
            for key, waiting in list(self._waiting.items()):
                left = {each for each in waiting if each[0] != deliver}
                if left:
                    self._waiting[key] = left
                else:
                    del self._waiting[key]

    def rung(self, key: tuple[bool, str], gone: bool) -> None:
        with self._mutex:
            waiting = self._waiting.pop(key, set())
        for deliver, watch in waiting:
            deliver(partial(watch, gone))


def _key(request: GetData | GetStat | GetChildren) -> tuple[bool, str]:
    return isinstance(request, GetChildren), request.path


class Bell:
    """What kazoo calls when a znode changes, in its own thread; two bells of one znode are equal."""

    __slots__ = ("_bells", "_key")

    def __init__(self, bells: Bells, key: tuple[bool, str]) -> None:
        self._bells = bells
        self._key = key

    def __call__(self, event: Any) -> None:
        self._bells.rung(self._key, event.type == EventType.DELETED)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bell) and self._bells is other._bells and self._key == other._key

    def __hash__(self) -> int:
        return hash((id(self._bells), self._key))


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
