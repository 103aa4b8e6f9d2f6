"""Many contenders for one path: each hand-over wakes one of them, and they lead in turn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from zk_lines import record

from coordkit._ports_zookeeper import GetChildren
from coordkit.core.session import Wake


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/herd"


async def test_each_hand_over_wakes_one_of_fifty(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty over ten sessions: each sleeps until the one before it has gone."""
    clients = [zk_client(timeout=30.0) for _ in range(10)]
    asleep, woken, asked, order = [], Counter[Wake](), [], []
    was = Wake.wait

    async def wait(self: Wake, until: float) -> None:
        asleep.append(self)
        await was(self, until)
        woken[self] += 1

    async def stand(number: int) -> None:
        election = flavour.Election(clients[number % len(clients)], path, identity=f"c{number}")
        async with flavour.within(election) as leadership:
            order.append((number, leadership.token))

    async with flavour.within(flavour.Election(zk_client(timeout=30.0), path, identity="gate")):
        monkeypatch.setattr(Wake, "wait", wait)
        running = []
        for number in range(50):
            running.append(flavour.spawn(stand, number))
            await flavour.until(lambda number=number: len(asleep) > number)
        for zk in clients:
            record(zk, asked)
        assert not woken
    for each in running:
        await each.result(60)

    assert [number for number, _ in order] == list(range(50))
    assert [token for _, token in order] == sorted({token for _, token in order})
    assert (len(woken), set(woken.values())) == (50, {1})
    listings = [each for each in asked if isinstance(each, GetChildren)]
    assert len(listings) == 49, "all but the first look once, at their turn: who was ahead of the one they watched?"


def _standing(client: Any, path: str) -> int:
    found = client.exists(f"{path}/candidates")
    return 0 if found is None else found.numChildren


@pytest.mark.timeout(180)
async def test_a_crowd_leads_in_turn(flavour: Any, zk_client: Any, path: str) -> None:
    """Over twenty sessions, each once and one at a time.

    Five hundred, or a hundred where each is a thread, because a thousand take a minute on a machine that is busy with
    other tests; ``tests/bench/election.py --only herd`` has the thousand, and fails if they do not lead in turn.
    """
    clients, contenders = [zk_client(timeout=60.0) for _ in range(20)], 500 if flavour.is_async else 100
    elections = [flavour.Election(zk, path, identity=f"s{i}") for i, zk in enumerate(clients)]
    gate, inside, tokens, led = zk_client(timeout=60.0), [], [], []

    async def stand(number: int) -> None:
        async with flavour.within(elections[number % len(elections)]) as leadership:
            inside.append(number)
            assert inside == [number], "one leads at a time"
            tokens.append(leadership.token)
            led.append(number)
            inside.remove(number)

    async with flavour.within(flavour.Election(gate, path, identity="gate")):
        running = []
        for number in range(contenders):
            running.append(flavour.spawn(stand, number))
            if number % 50 == 49:  # a wave at a time, as the gate is to keep its own session
                await flavour.until(lambda number=number: _standing(gate, path) == number + 2, 30)
        assert led == []
    for each in running:
        await each.result(120)

    assert sorted(led) == list(range(contenders))
    assert [number // 50 for number in led] == [number // 50 for number in range(contenders)], "wave by wave"
    assert tokens == sorted(set(tokens))
