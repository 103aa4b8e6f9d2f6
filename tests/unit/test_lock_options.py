"""Options of locks that can only be mistakes; labels, and what a holder id says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import redis
import redis.asyncio

import coordkit
import coordkit.aio
from coordkit.core import holder

FLAVOURS = [(coordkit, redis.Redis(port=1)), (coordkit.aio, redis.asyncio.Redis(port=1))]
flavours = pytest.mark.parametrize(("module", "client"), FLAVOURS, ids=["blocking", "asyncio"])


@flavours
@pytest.mark.parametrize(
    ("label", "error", "said"),
    [
        (7, TypeError, "label must be a str, got 7"),
        (None, TypeError, "label must be a str"),
        ("x" * 101, ValueError, "label must be at most 100 bytes of UTF-8, got 101"),
        ("名" * 34, ValueError, "got 102"),
        ("\ud800", ValueError, "UTF-8"),
    ],
)
@pytest.mark.parametrize("kind", ["Lock", "MultiLock"])
def test_labels_that_will_not_do(
    module: Any, client: Any, kind: str, label: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        getattr(module, kind)(client, "job" if kind == "Lock" else ["job"], ttl=10, label=label)


@flavours
@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ([], ValueError, "names must have one name or more"),
        (["a", "b", "a"], ValueError, "names must have each name once, got 'a' again"),
        ("ab", TypeError, r"names must be several names, such as \[\"a\", \"b\"\], got 'ab'"),
        (b"ab", TypeError, "names must be several names"),
        (None, TypeError, "names must be several names"),
        (["a", 7], TypeError, r"names\[1\] must be a str, got 7"),
        (["a", ""], ValueError, r"names\[1\] must not be empty"),
    ],
)
def test_names_that_will_not_do(module: Any, client: Any, names: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        module.MultiLock(client, names, ttl=10)


@flavours
def test_names_are_put_in_order(module: Any, client: Any) -> None:
    assert module.MultiLock(client, iter(["b", "a", "ä"]), ttl=10).names == ("a", "b", "ä")


@flavours
def test_a_library_that_it_is_not_compatible_with(module: Any, client: Any) -> None:
    with pytest.raises(ValueError, match="compatible_with must be None or 'redis-py', got 'pottery'"):
        module.Lock(client, "job", ttl=10, compatible_with="pottery")


@pytest.mark.parametrize(
    "label", ["a", "two words", "a:b", "%41", "\n\x00\x7f", "名", "x" * 100, "'\"{}[]", "\u2028\xa0"]
)
def test_a_label_comes_back_as_it_was(label: str) -> None:
    """Whatever it is, no space and no control character goes into a queue's entry."""
    value = "host:12:" + 32 * "f" + holder.check_label(label)

    assert value.isascii()
    assert value.isprintable()
    assert " " not in value
    assert holder.read(value, token=7, since=1.5) == (value, "host", 12, 1.5, label, 7)


@pytest.mark.parametrize("value", ["", "somebody", "host:12:ff", "a b:12:" + 32 * "f", "host:x:" + 32 * "f"])
def test_what_is_no_holder_id_of_ours_is_shown_as_it_is(value: str) -> None:
    assert holder.read(value, token=7, since=1.5) == (value, None, None, None, "", None)


def test_an_odd_host_name_does_not_break_the_id() -> None:
    program = (
        "import socket; socket.gethostname = lambda: 'odd host:1\\n';"
        "from coordkit._threads.runtime import new_holder; from coordkit.core.holder import read;"
        "print(repr(read(new_holder()).host), new_holder().count(' '))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said == "'odd host:1\\n' 0\n"


@flavours
@pytest.mark.parametrize("value", ["no", 0, None])
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda module, client, **said: module.Lock(client, "job", ttl=10, **said), "renew"),
        (lambda module, client, **said: module.Lock(client, "job", ttl=10, **said), "reentrant"),
        (lambda module, client, **said: module.Lock(client, "job", ttl=10, **said), "fsync"),
        (lambda module, client, **said: module.MultiLock(client, ["job"], ttl=10, **said), "renew"),
        (lambda module, client, **said: module.ReadWriteLock(client, "job", ttl=10, **said), "renew"),
        (lambda module, client, **said: module.Semaphore(client, "job", permits=2, ttl=10, **said), "renew"),
    ],
)
def test_what_is_neither_yes_nor_no(module: Any, client: Any, make: Any, argument: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{argument} must be a bool, got {value!r}"):
        make(module, client, **{argument: value})


@flavours
@pytest.mark.parametrize("url", ["redis://:secret@localhost", b"redis://:secret@localhost"])
def test_a_password_in_a_url_is_not_shown(module: Any, client: Any, url: Any) -> None:
    for make in (
        lambda: module.Lock(url, "job", ttl=10),
        lambda: module.Quorum([url] * 3),
        lambda: module.QuorumLock([url], "job", ttl=10),
        lambda: module.ShardedRedis({"a": url}),
    ):
        with pytest.raises(TypeError, match=r"got a |\]=a ") as caught:
            make()
        assert "secret" not in str(caught.value)
