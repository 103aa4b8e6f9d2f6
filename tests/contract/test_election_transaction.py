"""What a leader writes into ZooKeeper is written while it leads, or not at all; on one ZooKeeper and on three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kazoo.exceptions import BadVersionError, KazooException, NodeExistsError, NoNodeError, NotEmptyError

from coordkit._ports_zookeeper import Multi
from coordkit.core import zk_checks
from coordkit.errors import CoordError, LeadershipLost, StoreRefused, StoreUnavailable, TransactionFailed
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def zk(zk_client: Any) -> Any:
    return zk_client()


@pytest.fixture
def path(zk: Any, coordkit_namespace: str) -> str:
    zk.ensure_path(f"/{coordkit_namespace}/data")
    return f"/{coordkit_namespace}/data"


@pytest.fixture
def election(flavour: Any, zk: Any, coordkit_namespace: str) -> Any:
    return flavour.Election(zk, f"/{coordkit_namespace}/leader", identity="one")


async def test_all_steps_are_carried_out_at_once(flavour: Any, zk: Any, path: str, election: Any) -> None:
    zk.create(f"{path}/old", b"1")
    zk.create(f"{path}/kept", b"1")
    async with flavour.within(election) as leadership:
        async with flavour.within(leadership.transaction()) as transaction:
            transaction.check(f"{path}/kept", version=0)
            transaction.create(f"{path}/new", b"2")
            transaction.set(f"{path}/new", b"3", version=0)
            transaction.delete(f"{path}/old", version=0)
            transaction.create(f"{path}/mine", ephemeral=True)
            assert not zk.exists(f"{path}/new")
            assert transaction.results == []
        assert transaction.results == [None, f"{path}/new", 1, None, f"{path}/mine"]
        assert zk.get(f"{path}/new")[0] == b"3"
        assert not zk.exists(f"{path}/old")
        assert zk.exists(f"{path}/mine").ephemeralOwner == zk.client_id[0]


async def test_it_counts_as_a_proof(flavour: Any, path: str, election: Any) -> None:
    async with flavour.within(election) as leadership:
        before = leadership._core.expires
        async with flavour.within(leadership.transaction()):
            pass
        assert leadership._core.expires > before


@pytest.mark.parametrize(
    ("add", "verb", "why", "cause"),
    [
        (lambda t, p: t.create(f"{p}/there"), "create", "exists already", NodeExistsError),
        (lambda t, p: t.create(f"{p}/none/child"), "create", "parent is not there", NoNodeError),
        (lambda t, p: t.set(f"{p}/none", b""), "set", "is not there", NoNodeError),
        (lambda t, p: t.set(f"{p}/there", b"", version=3), "set", "another version", BadVersionError),
        (lambda t, p: t.delete(f"{p}/none"), "delete", "is not there", NoNodeError),
        (lambda t, p: t.delete(p), "delete", "has children", NotEmptyError),
        (lambda t, p: t.check(f"{p}/there", version=3), "check", "another version", BadVersionError),
    ],
)
async def test_the_step_that_failed_is_named_and_nothing_is_done(
    flavour: Any,
    zk: Any,
    path: str,
    election: Any,
    add: Callable[[Any, str], None],
    verb: str,
    why: str,
    cause: type[Exception],
) -> None:
    """kazoo returns the failure as a value, and its ``with`` swallows it (K14, kazoo#222)."""
    zk.create(f"{path}/there")
    async with flavour.within(election) as leadership:
        with pytest.raises(TransactionFailed, match=f"step 2 of 2 was refused, {verb} .*{why}") as failed:
            async with flavour.within(leadership.transaction()) as transaction:
                transaction.create(f"{path}/new")
                add(transaction, path)
        assert failed.value.step == 1
        assert failed.value.path.startswith(path)
        assert isinstance(failed.value.__cause__, cause)
        assert not zk.exists(f"{path}/new")
        assert leadership.ensure()
        assert transaction.results == []


async def test_a_block_that_raises_sends_nothing(flavour: Any, zk: Any, path: str, election: Any) -> None:
    async with flavour.within(election) as leadership:
        with pytest.raises(ZeroDivisionError):
            async with flavour.within(leadership.transaction()) as transaction:
                transaction.create(f"{path}/new")
                raise ZeroDivisionError
        assert not zk.exists(f"{path}/new")


def lead_blindly(leadership: Any) -> None:
    """Have the leadership believe in itself, as a process that was paused for long does."""
    leadership._core.ensure = lambda: True
    leadership._core.lose = lambda _: None


@pytest.mark.parametrize("how", ["deleted", "session ended"])
async def test_a_ghost_is_refused_by_the_servers(
    flavour: Any, zk: Any, zk_client: Any, path: str, election: Any, how: str
) -> None:
    """Also one that still believes that it leads: a successor has written since, and that stands."""
    direct = zk_client()
    with pytest.raises(LeadershipLost):
        async with flavour.within(election) as leadership:
            lead_blindly(leadership)
            transaction = leadership.transaction()
            transaction.create(f"{path}/late")
            if how == "deleted":
                direct.sync(path)
                direct.delete(f"{election.path}/candidates/{direct.get_children(f'{election.path}/candidates')[0]}")
            else:
                session = zk.client_id
                kill_session(zk)
                await flavour.until(lambda: _asks(zk) and zk.client_id not in (None, session))
            async with flavour.within(transaction):
                pass
    direct.sync(path)
    assert not direct.exists(f"{path}/late")


async def test_it_is_refused_here_once_the_leadership_is_lost(flavour: Any, zk: Any, path: str, election: Any) -> None:
    async with flavour.within(election) as leadership:
        await flavour.maybe(leadership.resign())
        with pytest.raises(LeadershipLost, match="given back"):
            async with flavour.within(leadership.transaction()) as transaction:
                transaction.create(f"{path}/late")
    assert not zk.exists(f"{path}/late")


async def test_no_answer_is_unavailable_and_not_asked_again(flavour: Any, zk: Any, path: str, election: Any) -> None:
    async with flavour.within(election) as leadership:
        wire, sent = zk._coordkit_wire, []
        submit = wire.submit

        def lost(request: Any, deliver: Any) -> Any:
            if isinstance(request, Multi) and len(request.steps) == 2:
                sent.append(request)
                return zk.handler.async_result()  # never set
            return submit(request, deliver)

        wire.submit = lost
        core = leadership._core
        core.remaining = lambda: 0.0  # so it waits for the grace only
        core.ensure = lambda: True
        with pytest.raises(StoreUnavailable):
            async with flavour.within(leadership.transaction()) as transaction:
                transaction.create(f"{path}/new")
        assert len(sent) == 1
        with pytest.raises(CoordError, match="was sent"):
            transaction.create(f"{path}/newer")
        with pytest.raises(CoordError, match="was sent"):
            async with flavour.within(transaction):
                pass
        del core.remaining, core.ensure
        wire.submit = submit


async def test_what_the_acls_forbid_is_refused(flavour: Any, zk: Any, path: str, election: Any) -> None:
    from kazoo.security import READ_ACL_UNSAFE

    zk.create(f"{path}/locked", acl=READ_ACL_UNSAFE)
    async with flavour.within(election) as leadership:
        with pytest.raises(StoreRefused, match="locked"):
            async with flavour.within(leadership.transaction()) as transaction:
                transaction.set(f"{path}/locked", b"x")
        assert leadership.ensure()


async def test_steps_that_can_only_be_mistakes(flavour: Any, election: Any) -> None:
    async with flavour.within(election) as leadership:
        transaction = leadership.transaction()
        for add, error in [
            (lambda: transaction.create("x"), ValueError),
            (lambda: transaction.create("/x", "text"), TypeError),
            (lambda: transaction.set("/x", b"", version=-2), ValueError),
            (lambda: transaction.delete("/x", version=True), TypeError),
            (lambda: transaction.check("/x", version="1"), TypeError),
        ]:
            with pytest.raises(error):
                add()
        assert zk_checks.check_version(-1) == -1


def _asks(zk: Any) -> bool:
    """Ask something: a node that took the client back in the last moment says only then that its session is over."""
    try:
        return bool(zk.connected and zk.exists("/"))
    except KazooException:
        return False
