"""The error tree: what is caught by what, and that an error survives a process pool."""

from __future__ import annotations

import pickle

import pytest

import coordkit
from coordkit import errors

EXAMPLES = [
    errors.CoordError("jobs", "why"),
    errors.NotAcquired("jobs", "held by x"),
    errors.AcquireTimeout("jobs", "held by x", timeout=2.5),
    errors.LeaseLost("jobs", "expired", token=7),
    errors.LeadershipLost("/jobs", "session lost", token=7),
    errors.StaleToken("ledger", "late", token=7, seen=9),
    errors.StoreUnavailable("jobs", "no answer"),
    errors.NoQuorum("jobs", "2 of 5", errors={"a": OSError("down")}),
    errors.ShardDown("k", "down", shard="b"),
    errors.TopologyOutdated("k", "late", shard="b", seen=9, epoch=7),
    errors.BadTopology("/shards", "damaged"),
    errors.TooFewReplicas("k", "1 of 2 replicas", replicas=1, reply=True),
    errors.StoreRefused("jobs", "read-only"),
    errors.TransactionFailed("/jobs", "step 1 was refused", step=0, path="/x"),
    errors.CrossShardError("MGET", "two shards", shards={"k": "a", "l": "b"}),
    errors.PartialFailure("MSET", "half", ok={"k": True}, failed={"l": ("b", OSError("down"))}),
    errors.NoNodes("shards", "empty"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_processes_whole(error: errors.CoordError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again.__dict__) == repr(error.__dict__)


def test_every_error_is_an_example_here() -> None:
    assert sorted({type(error).__name__ for error in EXAMPLES}) == sorted(errors.__all__)


def test_held_and_could_not_ask_are_different_branches() -> None:
    """The first is normal, the second is an incident: no handler for one may catch the other."""
    assert not issubclass(errors.StoreUnavailable, errors.NotAcquired)
    assert not issubclass(errors.StoreRefused, errors.StoreUnavailable)
    assert issubclass(errors.AcquireTimeout, TimeoutError)
    assert issubclass(errors.NoNodes, LookupError)


def test_a_message_names_the_resource_first() -> None:
    assert str(errors.LeaseLost("jobs", "expired", token=7)) == "jobs: expired"


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(coordkit.__all__)
