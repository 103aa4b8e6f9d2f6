"""Roles in bad weather: a backup that may not stand rides an outage out, as one that stands does."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from coordkit.core import in_sync
from coordkit.testing.faults import Faults
from coordkit.testing.servers import ZooKeeperEnsemble


async def test_one_that_is_not_in_sync_rides_out_an_outage(
    flavour: Any,
    zk_client: Any,
    coordkit_faults: Faults,
    coordkit_zk_server: ZooKeeperEnsemble,
    coordkit_namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has never stood, so its ``run`` ended with the first session timeout without a connection."""
    caplog.set_level(logging.WARNING, "coordkit")
    path, direct = f"/{coordkit_namespace}/service", zk_client()
    proxy = coordkit_faults.proxy(coordkit_zk_server)
    direct.create(f"{path}/in_sync", in_sync.pack(["a"], 1), makepath=True)
    zk = zk_client(timeout=1.0, hosts=proxy.address)

    async def lead_async(_primary: Any) -> str:
        return "led"

    roles = flavour.Roles(zk, path, identity="b", on_primary=lead_async if flavour.is_async else lambda _primary: "led")

    async def run() -> Any:
        return await flavour.maybe(roles.run())

    running = flavour.spawn(run)
    await flavour.until(lambda: zk._data_watchers.get(f"{path}/in_sync"))
    proxy.cut()
    await flavour.until(lambda: "b stands again after" in caplog.text, 20)
    assert not running.done()
    proxy.heal()
    direct.set(f"{path}/in_sync", in_sync.pack(["b"], 1))
    assert await running.result(30) == "led"
