"""Renewing on a Redis Cluster: a pipeline to each node, no node waits for another, and keys that move are followed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from coordkit.routing import slot_of

pytestmark = pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
TTL = 9.0  # longer than the servers need to replace one: until then they all refuse, as no slot may be without one


@pytest.fixture
def name_on(coordkit_redis_cluster: Any, coordkit_namespace: str) -> Any:
    """Give a name for a lock on a primary."""

    def name(primary: Any, start: int = 0) -> str:
        names = (f"{coordkit_namespace}:{nth}" for nth in range(start, start + 1000))
        return next(n for n in names if coordkit_redis_cluster.primary_for(f"{{{n}}}").port == primary.port)

    return name


def ends(lease: Any) -> float:
    return time.monotonic() + float(lease.remaining())


async def kept(flavour: Any, leases: list[Any], ttl: float) -> None:
    """Wait until each was renewed for more than one more ttl."""
    began = {id(lease): ends(lease) for lease in leases}

    def renewed() -> bool:
        assert all(lease.ensure() for lease in leases)
        return all(ends(lease) > began[id(lease)] + 1.2 * ttl for lease in leases)

    await flavour.until(renewed, timeout=30)


async def test_a_node_that_hangs_delays_only_its_own_leases(
    flavour: Any, deployment: Any, maybe: Any, name_on: Any, coordkit_redis_cluster: Any, coordkit_faults: Any
) -> None:
    """One worker that asked them one after another lost the leases of the healthy nodes, too."""
    client = deployment.redis()
    hung, *others = coordkit_redis_cluster.primaries()
    victim, *leases = [
        await maybe(flavour.Lock(client, name_on(primary), ttl=TTL).acquire(timeout=20)) for primary in (hung, *others)
    ]
    coordkit_faults.pause(hung)
    await kept(flavour, leases, TTL)
    coordkit_faults.resume(hung)
    for lease in (victim, *leases):
        await maybe(lease.release())


async def test_many_are_renewed_in_a_pipeline_to_each_node(
    flavour: Any, deployment: Any, maybe: Any, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request each in sequence: 10,000 leases would need 38 s a round at a round trip of a millisecond."""
    client = deployment.redis()
    leases = [
        await maybe(flavour.Lock(client, f"{coordkit_namespace}:{nth}", ttl=TTL).acquire(timeout=20))
        for nth in range(60)
    ]
    asked: list[Any] = []
    kind, real = type(client), type(client).execute_command

    def counting(self: Any, *words: Any, **options: Any) -> Any:
        asked.append(words)
        return real(self, *words, **options)

    monkeypatch.setattr(kind, "execute_command", counting)
    await kept(flavour, leases, TTL)
    monkeypatch.undo()
    assert not asked
    for lease in leases:
        await maybe(lease.release())


async def test_keys_that_moved_are_renewed_where_they_are(
    flavour: Any, deployment: Any, maybe: Any, name_on: Any, coordkit_redis_cluster: Any
) -> None:
    """The client's map is old; the redirection of the first one makes it learn, and the others follow."""
    client = deployment.redis()
    first, second, *_ = coordkit_redis_cluster.primaries()
    name = name_on(first)
    permits = flavour.Semaphore(client, name, permits=3, ttl=TTL)
    leases = [await maybe(permits.acquire(timeout=20)) for _ in range(3)]
    coordkit_redis_cluster.move_slot(slot_of(f"{{{name}}}"), to=second)
    await kept(flavour, leases, TTL)
    for lease in leases:
        await maybe(lease.release())
    coordkit_redis_cluster.move_slot(slot_of(f"{{{name}}}"), to=first)
