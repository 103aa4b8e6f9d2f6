"""An exception out of a signal handler, at any moment of an acquisition or of a block: nothing is held on by nobody.

asyncio has no such test here: there a signal becomes a cancellation, which comes at an ``await`` (test_every_kind.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from coordkit.testing.servers import scaled

PRELUDE = """
import itertools, linecache, math, random, signal, sys, time
import redis
from kazoo.client import KazooClient
import coordkit.zk
from coordkit import Election, Lock, MultiLock, ReadWriteLock, Semaphore
from coordkit._threads.runtime import RUNTIME

namespace, kind, way = sys.argv[2:]
TTL = 0.9
STEP = 7 if kind in ("election", "zk lock", "zk permit") else 1  # of more than a thousand lines

def connected():
    if kind not in ("election", "zk lock", "zk permit"):
        return redis.Redis.from_url(sys.argv[1])
    zk = KazooClient(sys.argv[1], timeout=10.0)  # of which a third of two thirds is waited for
    zk.start(20)
    return zk

client = connected()
sys.unraisablehook = lambda *_: None  # the handler may also interrupt a __del__

class Interrupted(BaseException):
    pass

def made(name, client=client):
    if kind == "several":
        return MultiLock(client, [name + "a", name + "b"], ttl=TTL)
    if kind == "permit":
        return Semaphore(client, name, permits=1, ttl=TTL)
    if kind in ("read", "write"):
        return getattr(ReadWriteLock(client, name, ttl=TTL), kind)
    if kind == "election":
        return Election(client, "/" + name.replace(":", "-"), identity="one")
    if kind == "zk lock":
        return coordkit.zk.Lock(client, "/" + name.replace(":", "-"))
    if kind == "zk permit":
        return coordkit.zk.Semaphore(client, "/" + name.replace(":", "-"), permits=1)
    return Lock(client, name, ttl=TTL, reentrant=kind == "reentrant")

def held(lock):
    if way == "lead":
        with lock.lead(timeout=5):
            pass
    elif way == "with":
        with lock:
            pass
    elif way == "nested":
        with lock:
            with lock:
                pass
    elif way == "hold":
        with lock.hold(timeout=5):
            pass
    elif way == "acquire":
        lease = lock.acquire(timeout=5)
        try:
            lease.ensure()
        finally:
            lease.release()

def all_free(names):
    others = connected()
    if kind == "read":
        for name in names:
            ReadWriteLock(others, name, ttl=TTL).write.acquire(timeout=20).release()
    for name in names:
        if kind == "election":
            with made(name, others).lead(timeout=20):
                pass
        else:
            made(name, others).acquire(timeout=20).release()
    print("all are free")

with made(namespace + "warm"):
    pass
"""

EACH_LINE = """
def interrupting(at):
    lines = itertools.count(1)

    def look(frame, event, argument):
        if "/coordkit/" not in frame.f_code.co_filename:
            return None
        if event != "line" or linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            return look  # a tracer, and nothing else, can come between the end of a `with` and its __exit__
        if next(lines) == at:
            sys.settrace(None)
            raise Interrupted
        return look

    return look

names = []
for at in itertools.count(1, STEP):
    names.append(f"{namespace}{at}:")
    lock = made(names[-1])
    sys.settrace(interrupting(at))
    try:
        held(lock)
    except Interrupted:
        continue
    finally:
        sys.settrace(None)
    break
print("interrupted at", len(names) - 1, "lines", flush=True)
all_free(names)
"""

SIGNALS = """
armed = False

def late(*_):
    global armed
    if armed:
        armed = False
        raise Interrupted

signal.signal(signal.SIGALRM, late)
names, interrupted = [], 0
while interrupted < 300:
    names.append(f"{namespace}{len(names)}:")
    lock = made(names[-1])
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.0008))
            armed = True
            held(lock)
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupted:
        interrupted += 1
print("interrupted at", interrupted, "moments")
all_free(names)
"""

HANDLERS = """
inner = made(namespace + "inner")

def handling(at):
    lines = itertools.count(1)

    def look(frame, event, argument):
        if event != "line" or next(lines) != at:
            return look if "/coordkit/" in frame.f_code.co_filename else None
        sys.settrace(None)
        lease = inner.try_acquire()
        reached.append(lease is not None and lease.release())
        return None

    return look

reached = []
for at in itertools.count(1):
    outer = made(f"{namespace}{at}:")
    RUNTIME._clock._looks = math.inf  # so that whatever is put down wakes the timer, as after an idle time
    sys.settrace(handling(at))
    try:
        with outer as lease:
            lease.renew()
        outer.acquire().release()
    finally:
        sys.settrace(None)
    if len(reached) < at:
        break
print("handled at", len(reached), "lines")
lease = inner.acquire(timeout=20)
time.sleep(2 * TTL)
print("renewed:", lease.ensure())
"""


WAITS = """
from coordkit import AcquireTimeout

ahead = made(namespace + "a", redis.Redis.from_url(sys.argv[1])).acquire()
def interrupting(at):
    lines = itertools.count(1)

    def look(frame, event, argument):
        if "/coordkit/_threads/inbox" not in frame.f_code.co_filename and frame.f_code.co_name != "run":
            return look if "/coordkit/" in frame.f_code.co_filename else None
        if event == "line" and next(lines) == at:
            sys.settrace(None)
            raised.append(at)
            raise Interrupted
        return look

    return look

raised = []
for at in itertools.count(1):
    shared = redis.Redis.from_url(sys.argv[1])  # with an inbox of its own
    lock = made(namespace + "a", shared)
    sys.settrace(interrupting(at))
    try:
        lock.acquire(timeout=0.2)
    except (Interrupted, AcquireTimeout):  # the latter also if it came while the last client was collected
        pass
    finally:
        sys.settrace(None)
    inbox = shared._coordkit_store.inbox()
    assert len(inbox._boxes) == 0, at
    assert not inbox._opening.taken(), at
    assert not any(line.reading.taken() for line in inbox._lines.by_node.values()), at
    if at - len(raised) == 3:  # once or twice it may only have been too slow to come so far
        break
print("interrupted at", len(raised), "lines")
"""


def outcome(server: Any, program: str, *arguments: str) -> str:
    """Run a program to its end; return what it said."""
    text = PRELUDE + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text, getattr(server, "url", None) or server.hosts, *arguments],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("lock", "with"),
        ("lock", "hold"),
        ("several", "with"),
        ("permit", "with"),
        ("read", "hold"),
        ("write", "with"),
        ("reentrant", "nested"),
    ],
)
def test_a_block_that_is_interrupted_at_any_line_holds_nothing_on(
    coordkit_redis_server: Any, coordkit_namespace: str, kind: str, way: str
) -> None:
    said = outcome(coordkit_redis_server, EACH_LINE, f"{coordkit_namespace}:{kind}:", kind, way)

    assert "all are free" in said
    assert int(said.split()[2]) > 30


@pytest.mark.parametrize(("kind", "way"), [("election", "lead"), ("zk lock", "with"), ("zk permit", "hold")])
def test_a_session_holds_nothing_on_that_nobody_has(
    coordkit_zk_server: Any, coordkit_namespace: str, kind: str, way: str
) -> None:
    """The session itself had it, and proved it for as long as the process lived."""
    said = outcome(coordkit_zk_server, EACH_LINE, f"{coordkit_namespace}:{kind.replace(' ', '-')}:", kind, way)

    assert "all are free" in said
    assert int(said.split()[2]) > 30


@pytest.mark.parametrize(("kind", "way"), [("lock", "with"), ("several", "with"), ("lock", "hold")])
def test_signals_that_raise_at_any_moment_leave_nothing(
    coordkit_redis_server: Any, coordkit_namespace: str, kind: str, way: str
) -> None:
    said = outcome(coordkit_redis_server, SIGNALS, f"{coordkit_namespace}:signal:{kind}:", kind, way)

    assert "interrupted at 300 moments\nall are free" in said


def test_a_handler_may_ask_for_a_lock_at_any_line(coordkit_redis_server: Any, coordkit_namespace: str) -> None:
    """It asks once, and waits for nothing: neither it, nor the timer of the process, finds a mutex taken for ever."""
    said = outcome(coordkit_redis_server, HANDLERS, f"{coordkit_namespace}:handler:", "lock", "with")

    assert int(said.split()[2]) > 60
    assert "renewed: True" in said


def test_whoever_waits_and_is_interrupted_leaves_the_inbox_to_others(
    coordkit_redis_server: Any, coordkit_namespace: str
) -> None:
    said = outcome(coordkit_redis_server, WAITS, f"{coordkit_namespace}:waits:", "lock", "acquire")

    assert int(said.split()[2]) > 50
