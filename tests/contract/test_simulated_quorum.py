"""The simulated server of a quorum answers as a real one does: the same random calls, the same replies."""

from __future__ import annotations

import random
from importlib.resources import files
from typing import Any

import pytest
import redis
from sim.quorum import SimServer
from sim.redis import ReplyError
from sim.world import World

from coordkit import scripts
from coordkit._ports import Call

SCRIPTS = {
    path.name.removesuffix(".lua"): scripts.load(path.name.removesuffix(".lua"))
    for path in files("coordkit.scripts").iterdir()
    if path.name.startswith("quorum_")
}
ROSTERS = ["5 6 7", "5 8 7", "9 6 7"]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_calls_get_the_same_replies(coordkit_redis: redis.Redis, coordkit_namespace: str, seed: int) -> None:
    chance = random.Random(seed)
    server = SimServer(World(0))
    vote, last, ticket, born, roster, highest, floor = (
        f"{coordkit_namespace}:{part}".encode()
        for part in ("vote", "last", "ticket", "born", "roster", "highest", "floor")
    )
    drawn = "1"
    for _ in range(300):
        name = chance.choice(sorted(SCRIPTS))
        attempt, counted, token = chance.choice(["me/1", "you/1"]), chance.choice(ROSTERS), chance.randint(1, 40)
        keys, args = {
            "quorum_vote": (
                [vote, last, roster, highest, floor],
                [attempt, 10_000, counted, chance.choice([0, token]), 60_000],
            ),
            "quorum_confirm": ([vote, last, roster, highest, floor], [attempt, 10_000, counted, token, 60_000]),
            "quorum_release": (
                [vote, last, highest],
                [chance.choice([attempt, "me/"]), chance.choice([0, token]), 60_000],
            ),
            "quorum_look": ([ticket, born, roster, highest, floor], [0]),
            "quorum_tell": ([born, roster, highest, floor], [counted, chance.randint(1, 3)]),
            "quorum_seat": ([ticket, born, roster, highest, floor], [counted, drawn, chance.randint(1, 30)]),
        }[name]
        if name == "quorum_seat" and chance.random() < 0.7:  # as if this number had been drawn
            coordkit_redis.set(ticket, drawn)
            server.data[ticket] = (drawn.encode(), None)
        if chance.random() < 0.05:  # it forgets
            forgotten = chance.choice([last, roster, highest, floor])
            coordkit_redis.delete(forgotten)
            server.data.pop(forgotten, None)
        real, simulated = answers(coordkit_redis, server, SCRIPTS[name], keys, args)
        assert comparable(name, simulated) == comparable(name, real), name
    coordkit_redis.delete(vote, last, ticket, born, roster, highest, floor)


def answers(client: redis.Redis, server: SimServer, script: Any, keys: list[bytes], args: list[Any]) -> tuple[Any, Any]:
    try:
        real: Any = client.eval(script.source, len(keys), *keys, *args)
    except redis.ResponseError:
        real = "error"
    try:
        simulated: Any = server.run(Call(script, keys, args))
    except ReplyError:
        simulated = "error"
    return real, simulated


def comparable(name: str, reply: Any) -> Any:
    """Leave out the milliseconds that are left, and who the server is."""
    if name == "quorum_vote" and isinstance(reply, list) and reply[0] == 0:
        return [*reply[:2], reply[2] > 0, reply[3]]
    return reply[:4] if name == "quorum_look" else reply
