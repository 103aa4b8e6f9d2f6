"""An ensemble restored from a backup refuses all who have seen more: that is said, and not waited for (K29)."""

from __future__ import annotations

import logging
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from coordkit.errors import CoordError, LeadershipLost, StoreRefused, StoreUnavailable
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


@pytest.fixture
def server() -> Iterator[ZooKeeperEnsemble]:
    with start_zookeeper() as ensemble:
        yield ensemble


def connected(hosts: str) -> Any:
    zk = KazooClient(hosts, timeout=1.0, connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": 0.2})
    zk.start(20)
    return zk


async def test_servers_that_went_back_in_time_are_told(
    flavour: Any, server: ZooKeeperEnsemble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node: Any = server.nodes[0]
    data, backup = node.directory / "version-2", tmp_path / "backup"
    zk = connected(server.hosts)
    try:
        election = flavour.Election(zk, "/leader", identity="one")
        async with flavour.within(election):
            pass
        node.kill()
        shutil.copytree(data, backup)
        node.restart()
        await flavour.until(lambda: zk.connected, 20)
        for _ in range(50):  # more than whoever asks where the servers stand adds to them
            async with flavour.within(election.lead(timeout=20)) as last:
                pass

        async def serve(leadership: Any) -> None:
            node.kill()
            shutil.rmtree(data)
            shutil.copytree(backup, data)
            node.restart()
            await flavour.maybe(leadership.lost.wait(20))
            leadership.ensure()

        def served(leadership: Any) -> Any:
            return serve(leadership) if flavour.is_async else drive(serve(leadership))

        caplog.set_level(logging.ERROR, "coordkit")
        with pytest.raises(StoreRefused, match="back in time") as refused:
            await flavour.maybe(election.run(served))
        assert "start this process anew" in str(refused.value)
        assert [record.levelname for record in caplog.records if "back in time" in record.message] == ["ERROR"]
        with pytest.raises(StoreRefused, match="back in time"):
            await flavour.maybe(election.leader())
        assert not zk.connected

        # Whoever comes anew is served; by a token that is lower, which only the resource can refuse.
        fresh = connected(server.hosts)
        try:
            async with flavour.within(flavour.Election(fresh, "/leader", identity="two").lead(timeout=20)) as led:
                assert led.token < last.token
        finally:
            close_kazoo(fresh)
    finally:
        close_kazoo(zk)


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it suspended")


async def test_servers_that_are_only_away_are_not_suspected(
    flavour: Any, server: ZooKeeperEnsemble, caplog: pytest.LogCaptureFixture
) -> None:
    node: Any = server.nodes[0]
    zk = connected(server.hosts)
    try:
        election = flavour.Election(zk, "/leader", identity="one")
        with pytest.raises((LeadershipLost, StoreUnavailable)):
            async with flavour.within(election) as leadership:
                node.kill()
                await flavour.maybe(leadership.lost.wait(20))
                leadership.ensure()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            with pytest.raises(CoordError) as unavailable:
                await flavour.maybe(election.leader())
            assert type(unavailable.value) is StoreUnavailable
        node.restart()
        async with flavour.within(election.lead(timeout=scaled(20))):
            pass
        assert "back in time" not in caplog.text
    finally:
        close_kazoo(zk)


async def test_servers_that_hang_up_for_another_reason_are_not_suspected(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, coordkit_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are asked where they stand, and stand where they should."""
    node = coordkit_zk_server.nodes[0]
    with FaultProxy(node.host, node.port) as proxy:
        zk = connected(proxy.address)
        try:
            election = flavour.Election(zk, f"/{coordkit_namespace}/leader", identity="one")
            async with flavour.within(election):
                pass
            proxy.drop_request_matching(struct.pack(">q", zk.client_id[0]), times=10_000)  # whoever has this session
            proxy.reset_all()
            await flavour.until(lambda: not zk.connected, 20)
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                with pytest.raises(CoordError) as unavailable:
                    await flavour.maybe(election.leader())
                assert type(unavailable.value) is StoreUnavailable
            assert proxy.hits["drop_request_matching"] > 3
            proxy.heal()
            async with flavour.within(election.lead(timeout=scaled(20))):
                pass
            assert "back in time" not in caplog.text
        finally:
            close_kazoo(zk)
