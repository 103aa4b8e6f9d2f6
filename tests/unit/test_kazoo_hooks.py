"""What we hang into kazoo, without a server: addresses that have changed, refusals that kazoo dies of."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from kazoo import exceptions
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError

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
