"""Choosing among the members of a group, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import coordkit
from coordkit.errors import CoordError, NoNodes, StoreUnavailable
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service/members"


def weight(data: bytes) -> int:
    return int(coordkit.from_json(data)["weight"])


async def test_members_are_picked_as_they_come_and_go(flavour: Any, zk_client: Any, path: str) -> None:
    group, other = flavour.Group(zk_client(), path), flavour.Group(zk_client(), path)
    async with flavour.within(group.balance(flavour.RoundRobin())) as balance:
        with pytest.raises(NoNodes), balance.pick():
            pytest.fail("nobody is there")
        async with flavour.within(other.join("a", data=b"1")), flavour.within(other.join("b", data=b"2")) as b:
            await flavour.until(lambda: balance.members() == {"a": b"1", "b": b"2"})
            used = Counter(_use(balance) for _ in range(10))
            assert used == {("a", b"1"): 5, ("b", b"2"): 5}
            await flavour.maybe(b.update(b"3"))
            await flavour.until(lambda: balance.members()["b"] == b"3")
            assert {_use(balance) for _ in range(4)} == {("a", b"1"), ("b", b"3")}
            with balance.pick(exclude=["a"]) as pick:
                assert pick.identity == "b"
        await flavour.until(lambda: balance.members() == {})


def _use(balance: Any) -> tuple[str, bytes]:
    with balance.pick() as pick:
        return pick.identity, pick.data


async def test_a_member_that_fails_is_set_aside_and_tried_again(flavour: Any, zk_client: Any, path: str) -> None:
    group, other = flavour.Group(zk_client(), path), flavour.Group(zk_client(), path)
    async with (
        flavour.within(other.join("a")),
        flavour.within(other.join("b")),
        flavour.within(group.balance(pause=0.2, failures=(OSError,))) as balance,
    ):
        with pytest.raises(ConnectionRefusedError), balance.pick(exclude=["b"]):
            raise ConnectionRefusedError
        assert balance.aside() == {"a"}
        assert _use(balance)[0] == "b"
        with pytest.raises(ZeroDivisionError), balance.pick(exclude=["a"]):
            raise ZeroDivisionError  # no fault of the member's
        assert balance.aside() == {"a"}
        await flavour.until(lambda: _use(balance)[0] == "a")
        assert balance.aside() == set()
        with balance.pick() as first, balance.pick() as second:
            assert {first.identity, second.identity} == {"a", "b"}, "the least busy one"


async def test_weights_come_from_the_members_data(
    flavour: Any, zk_client: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    group, other = flavour.Group(zk_client(), path), flavour.Group(zk_client(), path)
    async with (
        flavour.within(other.join("a", data=flavour.to_json({"weight": 3}))),
        flavour.within(other.join("b", data=flavour.to_json({"weight": 1}))) as b,
        flavour.within(group.balance(flavour.SmoothWeightedRoundRobin(), weigh=weight)) as balance,
    ):
        assert Counter(_use(balance)[0] for _ in range(8)) == {"a": 6, "b": 2}
        await flavour.maybe(b.update(b"nonsense"))
        await flavour.until(lambda: balance.members()["b"] == b"nonsense")
        assert Counter(_use(balance)[0] for _ in range(8)) == {"a": 6, "b": 2}
        await flavour.until(lambda: _use(balance) and "member b has weight 1" in caplog.text)
        await flavour.maybe(b.update(flavour.to_json({"weight": 1_000_000})))
        await flavour.until(lambda: Counter(_use(balance)[0] for _ in range(8)) == {"a": 4, "b": 4})
        await flavour.until(lambda: "all members are weighed alike" in caplog.text)


async def test_a_key_goes_to_the_same_member(flavour: Any, zk_client: Any, path: str) -> None:
    other, homes = flavour.Group(zk_client(), path), []
    async with flavour.within(other.join("a")), flavour.within(other.join("b")), flavour.within(other.join("c")):
        for zk in (zk_client(), zk_client()):
            async with flavour.within(flavour.Group(zk, path).balance(flavour.Sticky())) as balance:
                home = {}
                for i in range(50):
                    with balance.pick(f"user:{i}") as pick:
                        home[i] = pick.identity
                homes.append(home)
    assert homes[0] == homes[1]
    assert set(homes[0].values()) == {"a", "b", "c"}


async def test_the_list_outlives_sessions_and_blocks_leave_nothing(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    group = flavour.Group(zk, path)
    async with flavour.within(group.balance()) as balance:
        kill_session(zk)
        async with flavour.within(flavour.Group(zk_client(), path).join("a", data=b"1")):
            await flavour.until(lambda: balance.members() == {"a": b"1"}, 20)
    for _ in range(20):
        async with flavour.within(group.balance()):
            pass
    session = zk._coordkit_sessions.here() if flavour.is_async else zk._coordkit_session
    await flavour.until(lambda: session._listeners == set())
    await flavour.until(lambda: len(session.ensemble._wire.trees) == 0)
    with pytest.raises(CoordError, match="not open"):
        balance.pick()


async def test_a_stopped_client_is_said(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    zk.stop()
    with pytest.raises(StoreUnavailable, match=r"start\(\)"):
        async with flavour.within(flavour.Group(zk, path).balance()):
            pytest.fail("a list without a session")


def test_arguments_are_checked(zk_client: Any, path: str) -> None:
    group = coordkit.Group(zk_client(), path)
    with pytest.raises(ValueError, match="weigh must be given with"):
        group.balance(coordkit.SmoothWeightedRoundRobin())
    with pytest.raises(ValueError, match="weigh must be given with"):
        group.balance(weigh=len)
    with pytest.raises(ValueError, match="pause="):
        group.balance(pause=0)


def test_data_as_json() -> None:
    assert coordkit.to_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert coordkit.from_json(coordkit.to_json({"a": [1, None]})) == {"a": [1, None]}
    with pytest.raises(ValueError, match="data must be JSON, got b'nonsense'"):
        coordkit.from_json(b"nonsense")
    with pytest.raises(ValueError, match="JSON compliant"):
        coordkit.to_json(float("nan"))


async def test_nobody_is_picked_once_the_client_is_stopped(flavour: Any, zk_client: Any, path: str) -> None:
    """The list would stay as it is for good."""
    zk = zk_client()
    async with (
        flavour.within(flavour.Group(zk_client(), path).join("a")),
        flavour.within(flavour.Group(zk, path).balance()) as balance,
    ):
        await flavour.until(balance.members)  # by another node, it may be a moment later
        zk.stop()
        with pytest.raises(StoreUnavailable, match="stopped"), balance.pick():
            pytest.fail("perhaps it left long ago")
        zk.start()
        assert _use(balance)[0] == "a"
