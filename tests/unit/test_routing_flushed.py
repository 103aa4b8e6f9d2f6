"""When what a shard was told is on its disk, as it says itself."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit._run import run
from coordkit.errors import StoreUnavailable
from coordkit.routing.fence.flushed import flushed


class Shard:
    """A shard whose file is on its way to the disk at some times, and a clock that goes on when it is slept by."""

    shard, patience, made = "a", 5.0, 1

    def __init__(self, busy: Any, policy: str = "everysec", *, enabled: bool = True, parsed: bool = False) -> None:
        self.time, self.busy, self.policy, self.enabled, self.parsed = 0.0, busy, policy, enabled, parsed

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    async def ask(self, commands: Any) -> Any:
        if commands[0][0] == b"CONFIG":
            if not self.policy:
                return [{} if self.parsed else []]
            said = [b"appendfsync", self.policy.encode()]
            return [{said[0]: said[1]} if self.parsed else said]  # as redis-py has it, and as the server says it
        pending = f"aof_pending_bio_fsync:{int(self.busy(self.time))}\r\naof_last_write_status:ok\r\n"
        return [f"aof_enabled:{int(self.enabled)}\r\n{pending if self.enabled else ''}".encode()]


@pytest.mark.parametrize("now_and_then", [(0.0, 0.5, 1.0, 1.2), (0.0, 0.1, 1.4, 3.0), (0.0, 0.0, 0.9, 1.1)])
def test_a_whole_flush_that_began_later_has_ended(now_and_then: tuple[float, ...]) -> None:
    """One may be under way, which began before; the next begins within a second after that."""
    began, ended, again, over = now_and_then
    for parsed in (False, True):
        shard: Any = Shard(lambda time: began <= time < ended or again <= time < over, parsed=parsed)
        run(flushed(shard, shard))
        assert max(over, 1.5) <= shard.time < over + 1.7


@pytest.mark.parametrize("parsed", [False, True])
@pytest.mark.parametrize("options", [{"policy": "always"}, {"policy": "no"}, {"enabled": False}])
def test_nothing_is_waited_for_where_nothing_can_be(options: Any, *, parsed: bool) -> None:
    shard: Any = Shard(lambda _: True, parsed=parsed, **options)
    run(flushed(shard, shard))
    assert shard.time == 0.0


@pytest.mark.parametrize("parsed", [False, True])
def test_a_policy_that_is_not_told_may_be_each_second(*, parsed: bool) -> None:
    """Services hide their configuration: an empty answer, no error."""
    shard: Any = Shard(lambda time: time < 3.0, policy="", parsed=parsed)
    run(flushed(shard, shard))
    assert shard.time >= 4.5


def test_a_disk_that_is_too_slow_is_told() -> None:
    shard: Any = Shard(lambda _: True)
    with pytest.raises(StoreUnavailable, match="append-only file was not on disk after 10 s"):
        run(flushed(shard, shard))
