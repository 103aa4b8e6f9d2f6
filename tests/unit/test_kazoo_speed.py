"""What makes kazoo faster than it is, without a server: waiting, sending together, and being told at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, UnimplementedError
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.handlers.utils import selector_select
from kazoo.protocol.connection import _CONNECTION_DROP, _SESSION_EXPIRED, ConnectionDropped
from kazoo.protocol.serialization import Auth, Exists, ReplyHeader
from kazoo.protocol.states import Callback, EventType, KeeperState, WatchedEvent
from kazoo_line import Line

from coordkit import _kazoo_select, _kazoo_sending
from coordkit._kazoo import wire_of
from coordkit._kazoo_answers import Answer
from coordkit._kazoo_trees import AddWatch
from coordkit._ports_zookeeper import GetData, GetStat, WatchTree


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


# -- sending


def test_what_is_put_down_goes_out_by_one_write(line: Line) -> None:
    answers = [line.wire.submit(GetStat(f"/{i}"), _at_once) for i in range(50)]
    assert line.turn() == 0, "nobody has woken it yet"
    line.wire.send()
    assert line.turn() == 1
    assert len(line.written) == 1
    assert line.sent() == [(i + 1, Exists.type) for i in range(50)]
    assert [answer for _, answer, _ in line.client._pending] == answers
    assert [number for _, _, number in line.client._pending] == list(range(1, 51))
    assert not line.client._queue


def test_the_programs_own_requests_go_out_in_between_in_order(line: Line) -> None:
    line.wire.submit(GetStat("/ours"), _at_once)
    line.client.get_async("/theirs")
    line.wire.submit(GetStat("/ours/again"), _at_once)
    line.wire.send()
    line.turn()
    assert [request.path for request, _, _ in line.client._pending] == ["/ours", "/theirs", "/ours/again"]


def test_more_than_one_write_takes_is_sent_at_the_next_turns(line: Line) -> None:
    for i in range(1000):
        line.wire.submit(GetStat(f"/{i}"), _at_once)
    line.wire.send()
    assert line.turn() > 2, "answers are read in between"
    assert [number for number, _ in line.sent()] == list(range(1, 1001))


def test_nothing_is_left_when_the_wake_does_not_fit(line: Line) -> None:
    """The thread is woken by so many already; who asks must not be kept, it may hold what the thread waits for."""
    with pytest.raises(BlockingIOError):
        while True:
            line.connection._write_sock.send(b"\0", socket.MSG_DONTWAIT)
    line.wire.submit(GetStat("/a"), _at_once)
    line.wire.send()
    line.turn()
    assert len(line.sent()) == 1


@pytest.mark.parametrize("special", [_SESSION_EXPIRED, _CONNECTION_DROP])
def test_what_stands_for_the_end_of_a_connection_is_that(line: Line, special: Any) -> None:
    line.wire.submit(GetStat("/a"), _at_once)
    line.client._call(special, None)
    line.wire.send()
    with pytest.raises((ConnectionDropped, Exception), match="Testing"):
        line.turn()
    assert len(line.sent()) == 1


def test_credentials_have_the_number_that_kazoo_gives_them(line: Line) -> None:
    line.client._call(Auth(0, "digest", "a:b"), Answer(_nothing))
    line.turn()
    assert line.sent() == [(-4, Auth.type)]


def test_a_closed_client_is_asked_nothing(line: Line) -> None:
    line.client._state = KeeperState.CLOSED
    closed = line.wire.submit(GetStat("/a"), _at_once)
    assert isinstance(closed.exception, ConnectionClosedError)
    line.client._state = KeeperState.CONNECTED
    line.connection._write_sock.close()
    closing = line.wire.submit(GetStat("/a"), _at_once)
    line.wire.send()
    assert isinstance(closing.exception, ConnectionClosedError)


def test_a_write_that_fails_leaves_all_in_the_queue(line: Line) -> None:
    """kazoo tells all of them that the connection was lost."""

    def fails(_data: bytes, _timeout: float) -> None:
        raise ConnectionDropped

    line.connection._write = fails
    for i in range(3):
        line.wire.submit(GetStat(f"/{i}"), _at_once)
    line.wire.send()
    with pytest.raises(ConnectionDropped):
        line.turn()
    assert len(line.client._queue) == 3
    assert not line.client._pending


def test_another_handler_is_left_as_it_is() -> None:
    class Other(SequentialThreadingHandler):
        pass

    client = KazooClient("name.test:2181", handler=Other())
    wire = wire_of(client)
    assert "select" not in vars(client.handler)
    asked: list[Any] = []
    client._call = lambda request, _: asked.append(request)
    wire.submit(GetStat("/a"), _at_once)
    assert asked == [Exists("/a", None)]


# -- answers


def test_an_answer_is_told_once_to_whoever_is_linked_before_or_after() -> None:
    answer, told = Answer(_nothing), []
    answer.rawlink(told.append)
    answer.set(1)
    answer.set_exception(ValueError())
    answer.rawlink(told.append)
    assert told == [answer, answer]
    assert (answer.value, answer.exception, answer.ready(), answer.wait(0)) == (1, None, True, True)


def test_waiting_sends_first_and_ends_with_the_time() -> None:
    sent: list[None] = []
    answer = Answer(lambda: sent.append(None))
    assert not answer.wait(0.01)
    assert sent == [None]
    threading.Timer(0.01, answer.set, [2]).start()
    assert answer.wait(30)


def test_a_server_that_answers_out_of_turn_that_it_knows_no_such_watch(line: Line) -> None:
    """Before 3.6 it does so before it has answered what was asked earlier; kazoo's thread would end of it."""
    earlier = line.wire.submit(GetStat("/a"), _at_once)
    tree = line.wire.submit(WatchTree("/a", lambda _: None), _at_once)
    line.wire.send()
    line.turn()
    (_, _, first), (asked, _, second) = line.client._pending
    assert isinstance(asked, AddWatch)
    line.connection._read_response(ReplyHeader(second, 0, UnimplementedError.code), b"", 0)
    assert isinstance(tree.exception, UnimplementedError)
    assert not line.wire.trees.supported
    line.connection._read_response(ReplyHeader(first, 0, -101), b"", 0)
    assert earlier.ready()


# -- watches


def test_a_watch_is_told_in_the_thread_that_hears_of_it(line: Line) -> None:
    told: list[Any] = []
    line.wire.submit(GetData("/a", lambda gone: told.append((gone, threading.current_thread()))), _at_once)
    line.client.handler.dispatch_callback(_event(line, EventType.DELETED))
    assert told == [(True, threading.current_thread())]
    assert line.client.handler.callback_queue.empty()


def test_a_watch_is_left_to_kazoos_other_thread_where_it_would_have_to_wait(line: Line) -> None:
    told: list[bool] = []
    line.wire.submit(GetData("/a", told.append), _at_once)
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with line.wire.bells._mutex:
            holds.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(30)
    line.client.handler.dispatch_callback(_event(line, EventType.CHANGED))
    done.set()
    thread.join()
    assert told == []
    line.client.handler.callback_queue.get_nowait()()
    assert told == [False]


def test_a_watch_that_fails_does_not_end_the_connection(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_gone: bool) -> None:
        raise ValueError("of the program's own")

    line.wire.submit(GetData("/a", fails), _at_once)
    line.client.handler.dispatch_callback(_event(line, EventType.CHANGED))
    assert "of the program's own" in caplog.text


def test_the_programs_own_watches_are_told_as_before(line: Line) -> None:
    line.client.handler.dispatch_callback(Callback("watch", pytest.fail, ("it was told at once",)))
    assert not line.client.handler.callback_queue.empty()


def _event(line: Line, kind: Any) -> Any:
    bell = line.client._queue[-1][0].watcher
    return Callback("watch", bell, (WatchedEvent(kind, "CONNECTED", "/a"),))


def _at_once(action: Any) -> None:
    action()


def _nothing() -> None: ...


# -- waiting for sockets


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    yield one, other
    one.close()
    other.close()


def test_it_waits_as_kazoo_does(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    for arguments in (([one], [], [], 0), ([], [one], [], 0), ([one, other], [], [], 0.01), ([one], [other], [], 0)):
        assert _kazoo_select.by_poll(*arguments) == selector_select(*arguments)
    other.send(b"x")
    for arguments in (([one, other], [], [], 1), ([one], [other], [], 1), ([one.fileno()], [], [], None)):
        assert _kazoo_select.by_poll(*arguments) == selector_select(*arguments)
    other.close()
    one.recv(1)
    assert _kazoo_select.by_poll([one], [], [], 1) == selector_select([one], [], [], 1) == ([one], [], [])
    one.close()
    for select in (_kazoo_select.by_poll, selector_select):
        with pytest.raises((TypeError, ValueError)):
            select([one], [], [], 0)
        with pytest.raises(ValueError, match="non-negative"):
            select([], [], [], -1)


def test_it_is_put_in_once_and_only_into_kazoos_own() -> None:
    handler = SequentialThreadingHandler()
    _kazoo_select.hook(handler)
    assert handler.select is _kazoo_select.by_poll
    handler.select = mine = lambda *_: ([], [], [])
    _kazoo_select.hook(handler)
    assert handler.select is mine
    other = SimpleNamespace()
    _kazoo_select.hook(other)
    assert vars(other) == {}
    assert _kazoo_sending._AT_ONCE
