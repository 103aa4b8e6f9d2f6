"""A thousand leases held by one process, while their server stalls, is slow, restarts, or is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from coordkit._threads.runtime import now
from coordkit.core.lease import Lease
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


async def test_a_line_that_goes_dead_costs_no_lease_that_can_be_renewed_over_another(
    flavour: Any, maybe: Any, coordkit_faults: Any
) -> None:
    """A NAT entry that expired: what is connected is dead without a word, new connections are well.

    Leases with a long ttl wait long for an answer, and keep none with a short one waiting; nor is that one tried on
    each of the other dead connections.
    """
    with start_redis() as server:
        proxy: FaultProxy = coordkit_faults.proxy(server)
        client = flavour.redis(proxy.url, socket_timeout=5)
        longs = [await maybe(flavour.Lock(client, f"long-{i}", ttl=15 * 2**i).acquire()) for i in range(9)]
        keeper = client._coordkit_store.keeper
        proxy.latency = 0.05
        before = [lease._core.expires for lease in longs]
        for lease in longs:
            keeper.renew(lease._core)  # all at once: as many connections, idle after that
        await flavour.until(lambda: all(lease._core.expires > was for lease, was in zip(longs, before, strict=True)))
        proxy.latency = 0.0
        urgent = await maybe(flavour.Lock(client, "urgent", ttl=3).acquire())
        client.connection_pool.connection_kwargs["port"] = server.port
        proxy.hold = True
        keeper.renew(longs[0]._core)
        await flavour.renewed(urgent)
        proxy.hold = False
        await give_back(maybe, [urgent, *longs])


async def test_leases_that_a_slow_line_costs_take_no_others_with_them(
    flavour: Any, maybe: Any, coordkit_faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes too late for a short ttl is in time for a long one."""
    failed: list[str] = []
    monkeypatch.setattr(Lease, "not_renewed", lambda lease, _: failed.append(lease.name))
    with start_redis() as server:
        proxy: FaultProxy = coordkit_faults.proxy(server)
        client = flavour.redis(proxy.url, socket_timeout=10)
        long = await maybe(flavour.Lock(client, "long", ttl=30).acquire())
        shorts = [await maybe(flavour.Lock(client, f"short-{i}", ttl=3).acquire()) for i in range(10)]
        proxy.latency = 0.7  # there and back: more than a third of 3
        before = long._core.expires
        for lease in (*shorts, long):
            client._coordkit_store.keeper.renew(lease._core)
        await flavour.until(lambda: long._core.expires > before)
        assert "short-0" in failed
        assert "long" not in failed
        proxy.latency = 0.0
        await give_back(maybe, [long, *shorts])


async def test_a_server_that_is_busy_ends_no_renewal(flavour: Any, maybe: Any) -> None:
    """Redisson: somebody's script ran for too long, one renewal was answered BUSY, and none was sent any more."""
    with start_redis(args=["--lua-time-limit", "20"]) as server:
        lease = await maybe(flavour.Lock(flavour.redis(server.url), "job", ttl=6).acquire())
        with redis.Redis.from_url(server.url) as admin, redis.Redis.from_url(server.url, socket_timeout=None) as other:

            def run() -> None:
                with suppress(redis.ResponseError):  # killed
                    other.eval("while true do end", 0)

            running = threading.Thread(target=run)
            running.start()
            try:
                await flavour.until(lambda: "BUSY" in str(lease._core._trouble))
            finally:
                admin.script_kill()
                running.join()
        await flavour.renewed(lease)
        assert await maybe(lease.release()) is True


async def test_a_bounded_pool_renews_in_pipelines_too(flavour: Any, maybe: Any) -> None:
    many = 300
    with start_redis() as server:
        client = flavour.redis(server.url, socket_timeout=5, max_connections=50)
        other = flavour.redis(server.url, socket_timeout=5)
        leases = [await maybe(flavour.Lock(client, f"job-{i}", ttl=30).acquire()) for i in range(many)]
        await maybe(other.script_flush())  # as after a restart: each is answered that it is unknown
        before = [lease._core.expires for lease in leases]
        reads = (await maybe(other.info("stats")))["total_reads_processed"]
        for lease in leases:
            client._coordkit_store.keeper.renew(lease._core)
        await flavour.until(lambda: all(lease._core.expires > was for lease, was in zip(leases, before, strict=True)))
        reads = (await maybe(other.info("stats")))["total_reads_processed"] - reads
        assert reads < many / 2
        await give_back(maybe, leases)
