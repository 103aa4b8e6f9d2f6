"""How a guardian's companion closes a session at nodes that are not what they should be; they are sockets here."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordkit import _companion
from coordkit._companion import CLOSE, Closer, receive, send

SESSION = 7


class Node:
    """A node of an ensemble; ``sessions`` is what the ensemble knows, and ``lone`` whether this node has no part in it.

    A leader that has lost the others takes up sessions that it knows, starts to close what it is asked to close, and
    says from then on that it has ended; but it answers nothing that needs the others.
    """

    def __init__(self, sessions: set[int], *, lone: bool = False, hangs_up: int = 0) -> None:
        self._sessions = sessions
        self._lone = lone
        self._hangs_up = hangs_up  # so many times
        self._closing: set[int] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            session = struct.unpack_from(">iqiq", receive(connection))[3]
            if not session:
                if self._lone:
                    receive(connection)
                session = 1000 + len(self._connections)
                self._sessions.add(session)
            known = session in self._sessions - self._closing
            send(connection, struct.pack(">iiqi", 0, 4000 * known, session, 16) + bytes(17))
            if struct.unpack(">ii", receive(connection))[1] != CLOSE:
                return
            if self._lone:
                self._closing.add(session)
                receive(connection)
            if self._hangs_up:
                self._hangs_up -= 1
                return
            self._sessions.discard(session)
            send(connection, struct.pack(">iqi", 1, 1, 0))

    def stop(self) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def sessions() -> set[int]:
    return {SESSION}


@pytest.fixture
def node(sessions: set[int]) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(**how: Any) -> Node:
        made.append(Node(sessions, **how))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def close(*nodes: Node) -> None:
    closer = Closer({"tls": None, "sasl": None, "auth": [], "path": []})
    hosts = [each.address for each in nodes]
    near = (hosts[0][0], *hosts[0])
    closer.session = {"id": SESSION, "password": "00" * 16, "timeout": 10.0, "near": near, "hosts": hosts}
    closer.close()


def test_it_is_closed_at_the_node_where_it_was(node: Callable[..., Node], sessions: set[int]) -> None:
    close(node(), node(lone=True))
    assert SESSION not in sessions


def test_a_session_that_has_ended_is_left_alone(node: Callable[..., Node], sessions: set[int]) -> None:
    sessions.clear()
    close(node())
    assert SESSION not in sessions


def test_a_node_that_hangs_up_has_closed_nothing(node: Callable[..., Node], sessions: set[int]) -> None:
    """It does when it loses its leader."""
    close(node(hangs_up=3))
    assert SESSION not in sessions


def test_a_leader_that_has_lost_the_others_is_not_believed(node: Callable[..., Node], sessions: set[int]) -> None:
    """Not when it says that the session which it was asked to close has ended."""
    close(node(lone=True), node(hangs_up=2))
    assert SESSION not in sessions


def test_only_silence_makes_it_more_patient(
    node: Callable[..., Node], sessions: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that elect a leader hang up a thousand times; one that is silent then would keep us from the others."""
    patience, connect = set(), socket.create_connection

    def connecting(address: tuple[str, int], timeout: float) -> socket.socket:
        patience.add(timeout)
        return connect(address, timeout)

    monkeypatch.setattr(_companion.socket, "create_connection", connecting)
    close(node(hangs_up=20))
    assert SESSION not in sessions
    assert patience == {0.25}
