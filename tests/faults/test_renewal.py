"""A thousand leases held by one process, while their server stalls, is slow, restarts, or is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coordkit._threads.runtime import now
from coordkit.testing import FaultProxy
from coordkit.testing.processes import start_redis

MANY = 1000


async def hold_many(flavour: Any, maybe: Any, url: str, *, ttl: float, count: int = MANY) -> list[Any]:
    client = flavour.redis(url, socket_timeout=5)
    return [await maybe(flavour.Lock(client, f"job-{i}", ttl=ttl).acquire()) for i in range(count)]


async def give_back(maybe: Any, leases: list[Any]) -> None:
    for lease in leases:
        await maybe(lease.release())


@contextmanager
def stopped(server: Any) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def coordkit_threads() -> int:
    return sum(thread.name.startswith("coordkit") for thread in threading.enumerate())


async def test_thousands_are_renewed_in_a_few_pipelines(
    flavour: Any, maybe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one timer and one worker, over one connection: neither a request nor a thread for each."""
    with start_redis() as server:
        client = flavour.redis(server.url, socket_timeout=5, client_name="ours")
        others = coordkit_threads()
        leases = [await maybe(flavour.Lock(client, f"job-{i}", ttl=12).acquire()) for i in range(2500)]
        store, sizes = client._coordkit_store, []
        run_many = store.run_many

        def counted(calls: Any, **options: Any) -> Any:
            sizes.append(len(calls))
            return run_many(calls, **options)

        monkeypatch.setattr(store, "run_many", counted)
        before = [lease._core.expires for lease in leases]
        await flavour.until(
            lambda: all(lease._core.expires > was for lease, was in zip(leases, before, strict=True)), timeout=20
        )
        assert sum(sizes) >= 2500
        assert len(sizes) <= 60  # 30 rounds in a ttl, and some that are cut in two
        assert coordkit_threads() <= others + 3
        connected = await maybe(client.client_list())
        assert sum(each["name"] == "ours" for each in connected) <= 3  # the client's own, and ours
        await give_back(maybe, leases)


async def test_a_stalled_server_delays_no_renewal_at_another(flavour: Any, maybe: Any) -> None:
    with start_redis() as stalled, start_redis() as other:
        lost = await hold_many(flavour, maybe, stalled.url, ttl=2, count=200)
        kept = await hold_many(flavour, maybe, other.url, ttl=2)
        with stopped(stalled):
            await flavour.until(lambda: all(lease.lost for lease in lost))
            end = now() + 2
            await flavour.until(lambda: now() >= end)  # the whole ttl of those that were renewed
        assert not any(lease.lost for lease in kept)
        assert min(lease.remaining() for lease in kept) > 0
        await give_back(maybe, kept)


async def test_a_server_that_restarts_in_time_loses_none(flavour: Any, maybe: Any) -> None:
    with start_redis(appendonly="always") as server:
        leases = await hold_many(flavour, maybe, server.url, ttl=6)
        asked = leases[0]._core.expires
        await flavour.until(lambda: leases[0]._core.expires != asked)  # in the middle of a round
        server.restart()
        server.wait_ready()
        before = [lease._core.expires for lease in leases]
        await flavour.until(
            lambda: all(lease._core.expires > was for lease, was in zip(leases, before, strict=True)), timeout=20
        )
        assert not any(lease.lost for lease in leases)
        await give_back(maybe, leases)


async def test_a_slow_line_loses_none(flavour: Any, maybe: Any, coordkit_faults: Any) -> None:
    with start_redis() as server:
        proxy: FaultProxy = coordkit_faults.proxy(server)
        leases = await hold_many(flavour, maybe, proxy.url, ttl=6)
        proxy.latency = 0.2
        before = [lease._core.expires for lease in leases]
        await flavour.until(
            lambda: all(lease._core.expires > was + 1 for lease, was in zip(leases, before, strict=True)), timeout=20
        )
        assert not any(lease.lost for lease in leases)
        proxy.latency = 0.0
        await give_back(maybe, leases)


@pytest.mark.parametrize("ttl", [2.0])
async def test_a_server_that_is_gone_costs_each_lease_at_its_own_deadline(
    flavour: Any, maybe: Any, caplog: pytest.LogCaptureFixture, ttl: float
) -> None:
    with start_redis() as server:
        leases = await hold_many(flavour, maybe, server.url, ttl=ttl)
        told: dict[int, float] = {}
        for i, lease in enumerate(leases):
            lease._core.lost.call_when_set(lambda i=i: told.setdefault(i, now()))
        with stopped(server):
            await flavour.until(lambda: len(told) == MANY, timeout=20)
            late = [told[i] - lease._core.expires for i, lease in enumerate(leases)]
        assert min(late) >= 0, "a lease that could still be saved was given up"
        assert max(late) < 2.0, "told, though late: the margin is for a busy machine"
