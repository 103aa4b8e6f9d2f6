"""What a connection of kazoo's ends with, and what it survives, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import AUTH_XID, ConnectionDropped
from kazoo.protocol.serialization import Auth, GetChildren2, GetData, Watch, int_struct
from kazoo_line import Line

from coordkit._kazoo_answers import Answer
from coordkit._kazoo_unwatching import ANY, CHILDREN, DATA, RemoveWatches
from coordkit._kazoo_watches import Bell
from coordkit._ports_zookeeper import (
    Create,
    Delete,
    GetStat,
    Link,
    Multi,
    SetData,
    Sync,
    WatchTree,
)
from coordkit._ports_zookeeper import GetChildren as AskChildren
from coordkit._ports_zookeeper import GetData as AskData
from coordkit._threads.zookeeper import session_of
from coordkit.errors import StoreUnavailable


class Other(SequentialThreadingHandler):
    """A handler into which the sending of many at once is not hung."""


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture(params=[SequentialThreadingHandler, Other], ids=["kazoo's handler", "another"])
def any_line(request: pytest.FixtureRequest) -> Iterator[Line]:
    line = Line(handler=request.param())
    yield line
    line.close()


def at_once(action: Any) -> None:
    action()


# -- silence

SHORT, LONG = 0.001, 60.0


def ask(line: Line, within: float) -> None:
    line.client._live.set()
    line.client.get_async("/theirs")
    line.connection._send_request(within, 1.0)


def test_a_server_that_answers_nothing_is_left(any_line: Line) -> None:
    """kazoo takes whatever it sends for pings, and waits for ever."""
    ask(any_line, LONG)
    time.sleep(2 * SHORT)
    with pytest.raises(ConnectionDropped, match="said nothing for 0"):
        ask(any_line, SHORT)


def test_a_ping_that_is_not_answered_counts_too(any_line: Line) -> None:
    any_line.connection._send_ping(1.0)
    time.sleep(2 * SHORT)
    with pytest.raises(ConnectionDropped, match="said nothing"):
        ask(any_line, SHORT)


def test_whoever_was_asked_nothing_may_say_nothing(any_line: Line) -> None:
    time.sleep(2 * SHORT)
    ask(any_line, SHORT)
    any_line.reads(1, -101)
    time.sleep(2 * SHORT)
    ask(any_line, SHORT)


def test_a_ping_after_a_while_begins_anew(any_line: Line) -> None:
    time.sleep(0.5)
    any_line.connection._send_ping(1.0)
    ask(any_line, 0.5)


def test_an_answer_that_lies_there_was_said(any_line: Line) -> None:
    """This process stood still, not the server."""
    ask(any_line, LONG)
    any_line.server.sendall(b"something")
    time.sleep(2 * SHORT)
    ask(any_line, SHORT)


# -- what is not expected


def test_an_error_that_kazoo_does_not_expect_ends_a_connection_not_its_thread(
    any_line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("of somebody's")

    connection = any_line.connection
    connection._read_response = fails
    ask(any_line, LONG)
    with pytest.raises(ConnectionDropped, match="of somebody's"):
        any_line.reads(1)
    any_line.client._queue.clear()
    any_line.client._queue.append((type("Odd", (), {"type": 4, "serialize": fails})(), None))
    connection._write_sock.send(b"\0")
    with pytest.raises(ConnectionDropped, match="of somebody's"):
        connection._send_request(LONG, 1.0)
    assert caplog.text.count("Traceback") == 2


def test_a_recursive_watch_that_fails_ends_nothing(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    def fails(_below: Any) -> None:
        told.append("failed")
        raise RuntimeError("can't start new thread")

    for watch in (fails, told.append):
        line.wire.submit(WatchTree("/a", watch), at_once)
    path = b"/a/b"
    event = int_struct.pack(1) + int_struct.pack(3) + int_struct.pack(len(path)) + path
    assert Watch.deserialize(event, 0)[0].path == "/a/b"
    line.reads(-1, 0, event)
    assert sorted(told) == ["b", "failed"]
    assert "can't start new thread" in caplog.text


def test_a_listener_that_fails_keeps_nothing_from_the_others(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Link] = []

    def fails(_link: Link) -> None:
        raise RuntimeError("can't start new thread")

    session = session_of(line.client)
    for where in (line.wire.listen, session.subscribe):
        for listener in (fails, told.append, fails):
            where(listener)
    line.wire.suspend("for a test")
    assert told == [Link.CONNECTING, Link.CONNECTING]
    assert caplog.text.count("can't start new thread") >= 2


# -- answers that are another's


def test_credentials_are_answered_out_of_turn(line: Line) -> None:
    """A server answers them at once; kazoo gives that to whoever waits longest."""
    looked, given = line.wire.submit(GetStat("/a"), at_once), Answer(lambda: None)
    line.wire.send()
    line.client._call(Auth(0, "digest", "a:b"), given)
    line.turn()
    line.reads(AUTH_XID)
    assert given.value is True
    assert not looked.ready()
    line.reads(1, -101)
    assert looked.ready()
    assert looked.value is None


def test_credentials_that_were_not_given_end_the_connection(line: Line) -> None:
    looked = line.wire.submit(GetStat("/a"), at_once)
    line.wire.send()
    line.turn()
    with pytest.raises(ConnectionDropped):
        line.reads(AUTH_XID)
    assert not looked.ready()


@pytest.mark.parametrize(
    ("request_", "value"),
    [
        (AskData("/a"), True),
        (GetStat("/a"), True),
        (AskChildren("/a"), True),
        (AskChildren("/a", with_stat=True), ["x"]),
        (AskChildren("/a"), (["x"], None)),
        (Create("/a", b""), True),
        (SetData("/a", b""), True),
        (Delete("/a"), "/a"),
        (Multi((Delete("/a"),)), True),
        (Multi((Delete("/a"),)), []),
        (Sync("/a"), True),
        (WatchTree("/a", lambda _: None), "/a"),
    ],
)
def test_an_answer_to_something_else_is_none(line: Line, request_: Any, value: Any) -> None:
    answer = Answer(lambda: None)
    answer.set(value)
    found = line.wire.answer("name", request_, answer, 1.0)
    assert isinstance(found, StoreUnavailable)
    assert "something else" in str(found)


# -- taking watches back


def mine(_event: Any) -> None:
    """Stand for a watch of the program's own."""


def unwatch(line: Line, kind: int, ours: Any = Bell) -> bool:
    """Return whether a removal goes out."""
    line.wire._sending.put(RemoveWatches("/a", kind, ours), Answer(lambda: None))
    line.wire.send()
    line.turn()
    return RemoveWatches.type in [kind for _, kind in line.sent()]


@pytest.mark.parametrize("kind", [CHILDREN, DATA, ANY])
@pytest.mark.parametrize("when", ["sent with it", "sent before", "answered"])
@pytest.mark.parametrize("watched", [CHILDREN, DATA])
def test_a_watch_of_the_programs_own_is_not_taken_back(any_line: Line, kind: int, watched: int, when: str) -> None:
    client = any_line.client
    client._live.set()
    if when == "answered":
        (client._data_watchers if watched == DATA else client._child_watchers)["/a"].add(mine)
    else:
        request = GetData("/a", mine) if watched == DATA else GetChildren2("/a", mine)
        client._call(request, Answer(lambda: None))
        if when == "sent before":
            any_line.turn()
    assert unwatch(any_line, kind) == (kind not in (ANY, watched))


def test_a_watch_that_is_ours_alone_is_taken_back(any_line: Line) -> None:
    client = any_line.client
    client._live.set()
    client._data_watchers["/a"].add(Bell(any_line.wire.bells, (False, "/a")))
    client._call(GetData("/a", None), Answer(lambda: None))
    client._call(GetData("/b", mine), Answer(lambda: None))
    assert unwatch(any_line, DATA)
    assert "/a" not in client._data_watchers
