"""Paths, names and records in ZooKeeper, and arguments that can only be mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kazoo.client import KazooClient

import coordkit as blocking
import coordkit.aio as awaited
from coordkit.core import records, zk_checks, znodes

GUID = "0123456789abcdef" * 2
FLAVOURS = pytest.mark.parametrize("flavour", [blocking, awaited], ids=["blocking", "asyncio"])
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)


@given(TEXT)
def test_an_identity_is_read_as_it_was_written(identity: str) -> None:
    name = znodes.member_name(identity)

    assert znodes.identity_of(name) == identity
    assert name not in (".", "..")
    zk_checks.check_path(f"/group/{name}")


@given(TEXT, TEXT)
def test_two_identities_have_two_names(one: str, other: str) -> None:
    assert (znodes.member_name(one) == znodes.member_name(other)) == (one == other)


def test_the_line_is_ordered_by_number_and_not_by_text() -> None:
    """Past 2**31 ZooKeeper's numbers turn negative, and kazoo sorts them as text (kazoo#730)."""
    numbers = ["0000000010", "-2147483648", "0000000009", "2147483647", "10000000000"]
    names = [f"{GUID}-{number}" for number in numbers]

    assert [name[33:] for name in znodes.line(names)] == [
        "-2147483648",
        "0000000009",
        "0000000010",
        "2147483647",
        "10000000000",
    ]


@pytest.mark.parametrize(
    "name", ["", "x", f"{GUID}-12", f"{GUID[1:]}-0000000001", f"{GUID}-0000000001x", "-0000000001"]
)
def test_names_of_another_form_are_not_in_the_line(name: str) -> None:
    assert znodes.line([name]) == []


@pytest.mark.parametrize("resigned", [True, False])
def test_an_epoch_record_is_read_as_it_was_written(resigned: bool) -> None:
    record = records.Record(f"{GUID}-0000000001", "ünï 'quoted'", "host:1:ab", resigned)

    assert records.unpack_record(records.pack_record(record)) == record


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"v": 2, "other": 1}'])
def test_an_epoch_record_that_is_none_of_ours_is_no_leader(data: bytes) -> None:
    assert records.unpack_record(data) is None


def test_a_later_version_may_add_to_a_record() -> None:
    record = records.unpack_record(b'{"v": 2, "candidate": "c", "identity": "i", "state": "leading", "new": [1]}')

    assert record == records.Record("c", "i", "", resigned=False)


def test_ancestors_come_from_the_top() -> None:
    assert znodes.ancestors("/a/b/c") == ["/a", "/a/b", "/a/b/c"]


@FLAVOURS
@pytest.mark.parametrize(
    ("path", "error"),
    [
        (None, TypeError),
        (b"/a", TypeError),
        ("", ValueError),
        ("/", ValueError),
        ("a", ValueError),
        ("a/b", ValueError),
        ("/a/", ValueError),
        ("/a//b", ValueError),
        ("/a/../b", ValueError),
        ("/a/.", ValueError),
        ("/a\x00b", ValueError),
        ("/a\nb", ValueError),
        ("/\ud800", ValueError),
    ],
)
def test_a_path_that_can_only_be_a_mistake(flavour: Any, path: Any, error: type[Exception]) -> None:
    for make in (
        lambda: flavour.Election(KazooClient(), path, identity="a"),
        lambda: flavour.Group(KazooClient(), path),
    ):
        with pytest.raises(error, match="path must") as raised:
            make()
        assert repr(path) in str(raised.value)


@FLAVOURS
@pytest.mark.parametrize(
    ("identity", "error"),
    [
        (None, TypeError),
        (7, TypeError),
        (b"a", TypeError),
        ("", ValueError),
        ("\ud800", ValueError),
        ("x" * 1025, ValueError),
    ],
)
def test_an_identity_that_can_only_be_a_mistake(flavour: Any, identity: Any, error: type[Exception]) -> None:
    zk = KazooClient()
    for make in (
        lambda: flavour.Election(zk, "/a", identity=identity),
        lambda: flavour.Group(zk, "/a").join(identity),
    ):
        with pytest.raises(error, match="identity must"):
            make()


@FLAVOURS
@pytest.mark.parametrize("client", [None, "127.0.0.1:2181", object()])
def test_a_client_of_another_kind(flavour: Any, client: Any) -> None:
    for make in (lambda: flavour.Election(client, "/a", identity="a"), lambda: flavour.Group(client, "/a")):
        with pytest.raises(TypeError, match=r"zk must be a kazoo\.client\.KazooClient, got") as raised:
            make()
        assert repr(client) in str(raised.value)


@FLAVOURS
@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError)]
)
def test_a_timeout_that_can_only_be_a_mistake(flavour: Any, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        flavour.Election(KazooClient(), "/a", identity="a").lead(timeout=timeout)


@FLAVOURS
@pytest.mark.parametrize(("data", "error"), [("text", TypeError), (None, TypeError), (bytes(1_000_001), ValueError)])
def test_data_that_can_only_be_a_mistake(flavour: Any, data: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="data must"):
        flavour.Group(KazooClient(), "/a").join("a", data=data)
