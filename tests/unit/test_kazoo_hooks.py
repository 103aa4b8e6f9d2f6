"""What we hang into kazoo, without a server: addresses that have changed, refusals that kazoo dies of."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from kazoo import exceptions
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError
from kazoo.protocol.connection import ConnectionDropped

from coordkit._kazoo import wire_of


def hooked(connect: Any) -> Any:
    """Return kazoo's way to connect, with ours around it."""
    zk = KazooClient("name.test:2181")
    zk._connection._connect = connect
    wire_of(zk)
    return zk._connection._connect


@pytest.mark.parametrize(
    ("now", "used"),
    [(["10.0.0.2"], "10.0.0.2"), (["10.0.0.2", "10.0.0.1"], "10.0.0.1"), ([], "10.0.0.1"), (OSError(), "10.0.0.1")],
    ids=["another address", "the same among others", "none", "no answer"],
)
def test_an_address_that_has_changed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, now: Any, used: str) -> None:
    """kazoo asks once, and then tries one host after the other (K30, kazoo#794)."""

    def getaddrinfo(host: str, *_: Any) -> Any:
        assert host == "name.test"
        if isinstance(now, Exception):
            raise now
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 2181)) for each in now]

    tried = []

    def connect(_host: str, address: str, _port: int) -> tuple[float, float]:
        tried.append(address)
        return 2000.0, 3000.0

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    hooked(connect)("name.test", "10.0.0.1", 2181)
    assert tried == [used]


@pytest.mark.skipif(not hasattr(exceptions, "SessionClosedRequireSaslError"), reason="kazoo knows it since 2.11")
def test_a_refusal_that_kazoo_does_not_expect_is_one() -> None:
    """Else its connection thread ends with a traceback, and the client looks as if nobody had started it."""

    def connect(*_: Any) -> None:
        raise exceptions.SessionClosedRequireSaslError

    with pytest.raises(AuthFailedError):
        hooked(connect)("127.0.0.1", "127.0.0.1", 2181)


@pytest.mark.parametrize("over", [ConnectionDropped(), None], ids=["a broken connection", "a refusal"])
def test_a_connection_that_breaks_within_the_handshake_is_no_refusal(over: Exception | None) -> None:
    """kazoo takes the restart of a server for a wrong password, and closes the client for good."""

    def connect(*_: Any) -> None:
        raise AuthFailedError("Connection dropped in SASL") from over

    with pytest.raises(type(over) if over else AuthFailedError):
        hooked(connect)("127.0.0.1", "127.0.0.1", 2181)


def test_an_address_that_was_looked_up_just_now_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 2181))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: found)
    zk = KazooClient("name.test:2181")
    zk._connection._connect = lambda *_: (2000.0, 3000.0)
    wire_of(zk)
    assert zk._connection._expand_client_hosts() == [("name.test", "10.0.0.1", 2181)]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("it was looked up again"))
    zk._connection._connect("name.test", "10.0.0.1", 2181)


def test_a_host_may_take_its_share_of_the_session_timeout_and_no_more() -> None:
    zk = KazooClient("10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181,10.0.0.4:2181", timeout=8.0)
    connection, handler = zk._connection, zk.handler
    asked: list[float] = []
    handler.create_connection = lambda *_, timeout, **__: asked.append(timeout)

    def connect(*_: Any) -> tuple[float, float]:
        for within in ({"timeout": 8.0}, {"timeout": 1.0}, {}):
            connection.handler.create_connection(**within)
        assert connection.handler.timeout_exception is handler.timeout_exception
        return 2000.0, 3000.0

    connection._connect = connect
    wire_of(zk)
    connection._connect("10.0.0.1", "10.0.0.1", 2181)
    assert asked == [2.0, 1.0, 2.0]
    assert connection.handler is handler


def test_hosts_are_written_as_they_are_given() -> None:
    zk = KazooClient("[::1]:2181,10.0.0.2:2182/app")
    assert str(wire_of(zk)) == "ZooKeeper at [::1]:2181,10.0.0.2:2182/app"
