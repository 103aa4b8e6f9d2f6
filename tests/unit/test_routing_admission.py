"""Whether another server has a shard's data, as far as its epoch says, before the shard is served from there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME
from coordkit.errors import CoordError
from coordkit.routing import Topology
from coordkit.routing.moving.admission import check_is

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
