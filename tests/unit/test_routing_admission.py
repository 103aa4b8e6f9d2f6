"""What servers say of themselves before they serve as shards: whose data they have, and which database they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ResponseError

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME
from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing import Topology
from coordkit.routing.moving.admission import check_distinct, check_is

FIRST = Topology.first("users", {"a": "redis://a", "b": "redis://b"})
FENCED = replace(FIRST, shards={**FIRST.shards, "a": replace(FIRST.shards["a"], fenced=5)})


class Port:
    """A server that knows some epoch."""

    shard, patience = "a", 10.0

    def __init__(self, known: bytes | None) -> None:
        self._known = known

    async def ask(self, commands: Any) -> list[Any]:
        assert list(commands) == [(b"GET", b"coordkit:1:{users}:topology:epoch")]
        return [self._known]


@pytest.mark.parametrize(
    ("topology", "known", "has"),
    [
        (FIRST, None, "knows no epoch of topology 'users', and 1 at least"),
        (FIRST, b"0", "knows epoch 0 .* and 1 at least"),
        (FENCED, None, "knows no epoch .* and 5 at least"),
        (FENCED, b"4", "knows epoch 4 .* and 5 at least"),
    ],
)
def test_an_older_copy_is_none_of_it(topology: Topology, known: bytes | None, has: str) -> None:
    port: Any = Port(known)
    with pytest.raises(CoordError, match=f"at the new address it {has}"):
        run(check_is(RUNTIME, port, topology))


@pytest.mark.parametrize(("topology", "known"), [(FIRST, b"1"), (FENCED, b"5"), (FENCED, b"9")])
def test_a_copy_that_knows_all_that_the_shard_was_fenced_for_is(topology: Topology, known: bytes) -> None:
    port: Any = Port(known)
    run(check_is(RUNTIME, port, topology))


class Database:
    """A server that says which one it is, and which of its databases, if that may be asked."""

    patience = 10.0

    def __init__(self, shard: str, server: str, number: int | None) -> None:
        self.shard = shard
        about: Any = ResponseError("NOPERM no permission") if number is None else f"id=3 db={number} name=".encode()
        self._says = {
            (b"INFO", b"server"): f"run_id:{server}\r\n".encode(),
            (b"INFO", b"replication"): b"role:master\r\n",
            (b"CLIENT", "INFO"): about,
        }

    async def ask(self, commands: Any) -> list[Any]:
        return [self._says[command] for command in commands]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("s1", 0), ("s1", 0), "database 0"),
        (("s1", 0), ("s1", None), "forbidden"),
        (("s1", None), ("s1", 2), "database 2"),
        (("s1", None), ("s1", None), "forbidden"),
        (("s1", 0), ("s1", 2), ""),
        (("s1", None), ("s2", None), ""),
        (("", 0), ("", 0), ""),  # it says nothing of itself
    ],
)
def test_what_may_be_one_database_is_no_two_shards(one: Any, other: Any, same: str) -> None:
    ports: list[Any] = [Database("a", *one), Database("b", *other)]
    if same:
        with pytest.raises(CoordError, match=rf"^b: it is the same database as shard 'a' .*{same}"):
            run(check_distinct(RUNTIME, ports))
    else:
        run(check_distinct(RUNTIME, ports))


class Absent(Database):
    """A server that does not answer."""

    async def ask(self, commands: Any) -> list[Any]:
        raise StoreUnavailable(self.shard, f"no answer to {commands!r}")


def test_who_does_not_answer_is_passed_over_unless_it_is_the_one_that_matters() -> None:
    there: Any = Database("a", "s1", 0)
    absent: Any = Absent("b", "s1", 0)
    run(check_distinct(RUNTIME, [there, absent], absent_too=True))
    for ports, too in ([there, absent], False), ([absent, there], True), ([absent, there], False):
        with pytest.raises(StoreUnavailable, match="no answer"):
            run(check_distinct(RUNTIME, ports, absent_too=too))
