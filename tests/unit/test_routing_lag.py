"""How far a replica is behind, told from INFO replication."""

from __future__ import annotations

from typing import Any

import pytest

from coordkit.routing.replicas.lag import MaxLag, Progress

SECOND = MaxLag(seconds=1.0)


def primary(offset: int, history: str = "h") -> dict[str, Any]:
    return {"role": "master", "master_replid": history, "master_repl_offset": offset}


def replica(offset: int, history: str = "h", **more: Any) -> dict[str, Any]:
    said = {"role": "slave", "master_replid": history, "slave_repl_offset": offset, "master_link_status": "up"}
    return {**said, "master_last_io_seconds_ago": 0, **more}


def asked(*looks: tuple[float, int]) -> Progress:
    progress = Progress()
    for at, offset in looks:
        progress.primary_said(primary(offset), at)
    return progress


def test_one_that_has_everything_is_not_behind_however_long_it_heard_nothing() -> None:
    progress = asked((10.0, 500), (20.0, 500))
    quiet = replica(500, master_last_io_seconds_ago=9)
    assert progress.trouble(quiet, 20.0, MaxLag(0.5, 0)) == ""


def test_one_is_as_far_behind_as_what_it_has_is_old() -> None:
    progress = asked((10.0, 100), (10.5, 200), (11.0, 300), (11.5, 400))
    assert progress.trouble(replica(300), 11.5, SECOND) == ""
    assert progress.trouble(replica(200), 11.5, SECOND) == "", "just one second"
    assert "1.5 s behind" in progress.trouble(replica(199), 11.5, SECOND)
    assert progress.trouble(replica(199), 11.5, MaxLag(seconds=2.0)) == ""


def test_one_that_lags_from_the_first_look_on_is_found_out_after_max_lag() -> None:
    progress = asked((10.0, 1000), (10.5, 1010))
    assert progress.trouble(replica(5), 10.5, SECOND) == ""
    progress.primary_said(primary(1020), 11.1)
    assert "behind" in progress.trouble(replica(5), 11.1, SECOND)


def test_one_whose_link_is_down_is_found_out_at_the_first_look() -> None:
    down = replica(5, master_link_status="down", master_link_down_since_seconds=4)
    assert "4.0 s behind" in asked((10.0, 1000)).trouble(down, 10.0, SECOND)
    assert asked((10.0, 5)).trouble(down, 10.0, SECOND) == "", "nothing was written since"
    assert asked((9.7, 5), (10.0, 1000)).trouble(down, 10.0, SECOND) == "", "it was not behind a moment ago"


def test_bytes_that_it_has_not() -> None:
    progress = asked((10.0, 1000))
    assert progress.trouble(replica(900), 10.0, MaxLag(bytes=100)) == ""
    assert "101 bytes behind" in progress.trouble(replica(899), 10.0, MaxLag(bytes=100))
    assert progress.trouble(replica(1100), 10.0, MaxLag(bytes=0)) == "", "it was asked after its primary"


def test_while_the_primary_does_not_answer_the_link_tells() -> None:
    progress = asked((10.0, 100))
    progress.primary_said(None, 20.0)
    assert progress.trouble(replica(100), 20.0, SECOND) == ""
    assert "5.0 s behind" in progress.trouble(replica(100, master_last_io_seconds_ago=5), 20.0, SECOND)
    down = {"master_link_status": "down", "master_last_io_seconds_ago": -1}
    assert "7.0 s" in progress.trouble(replica(100, master_link_down_since_seconds=7, **down), 20.0, SECOND)
    assert "inf s" in progress.trouble(replica(0, **down), 20.0, SECOND), "it never had a link"


@pytest.mark.parametrize(
    "said", [{"role": "master", "master_replid": "h", "master_repl_offset": 5}, {"role": "sentinel"}]
)
def test_who_is_no_replica_is_not_read_from(said: dict[str, Any]) -> None:
    assert "no replica" in asked((10.0, 5)).trouble(said, 10.0, SECOND)


def test_offsets_of_another_history_mean_nothing() -> None:
    progress = asked((10.0, 100), (11.0, 200))
    assert "histories" in progress.trouble(replica(200, "other"), 11.0, SECOND)
    progress.primary_said(primary(10, "other"), 12.0)  # a failover, to one that was promoted
    assert "histories" in progress.trouble(replica(200), 12.0, SECOND)
    assert progress.trouble(replica(10, "other"), 12.0, SECOND) == ""
    assert progress.trouble(replica(9, "other"), 12.5, SECOND) == "", "nothing older is remembered of this history"
