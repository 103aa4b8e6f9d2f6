"""W10: any sequence of acquire, renew, release, expiry, foreign owners and lost memory, against a model of one key.

The model is who owns the key at the server, and who believes to. Each step is checked against a real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import hypothesis.strategies as st
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from regime.flavours import Flavour, maybe

from coordkit import LeaseLost
from coordkit._run import run
from coordkit.testing.processes import start_redis

HANDLES = 3
FOREIGN = "somebody else"
SETTINGS = settings(
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
which = st.integers(0, HANDLES - 1)


class OneKey(RuleBasedStateMachine):
    """Three handles on one name; ``owner`` is the model: the number of a handle, FOREIGN, or None."""

    flavour: Flavour
    direct: Any
    drive: Any
    lives = 0

    @initialize()
    def begin(self) -> None:
        OneKey.lives += 1
        name = f"w10-{self.flavour.is_async}-{OneKey.lives}"
        # Short waits for answers are of no use here; without renewal nothing happens that no rule did.
        self.locks = [self.flavour.api.Lock(client, name, ttl=600, renew=False) for client in self.clients()]
        self.key = self.locks[0].key
        self.leases: list[Any] = [None] * HANDLES
        self.owner: int | str | None = None
        self.last = 0

    def clients(self) -> list[Any]:
        raise NotImplementedError

    @rule(who=which)
    def acquire(self, who: int) -> None:
        lease = self.drive(maybe_call(self.locks[who].try_acquire))
        assert (lease is not None) == (self.owner is None)
        if lease is not None:
            assert lease.token > self.last
            self.owner, self.last = who, lease.token
            self.leases[who] = lease

    @rule(who=which)
    def renew(self, who: int) -> None:
        lease = self.leases[who]
        if lease is None:
            return
        try:
            self.drive(maybe_call(lease.renew))
        except LeaseLost:
            assert self.owner != who
            self.leases[who] = None
        else:
            assert self.owner == who

    @rule(who=which)
    def release(self, who: int) -> None:
        lease, self.leases[who] = self.leases[who], None
        if lease is None:
            return
        assert self.drive(maybe_call(lease.release)) is (self.owner == who)
        if self.owner == who:
            self.owner = None

    @precondition(lambda self: self.owner is not None)
    @rule()
    def run_out(self) -> None:
        self.direct.pexpire(self.key, 1)
        while self.direct.exists(self.key):
            pass
        self._taken_from_the_owner()

    @precondition(lambda self: self.owner is None)
    @rule()
    def somebody_else_takes_it(self) -> None:
        assert self.direct.set(self.key, FOREIGN, nx=True, px=600_000)
        self.owner = FOREIGN

    @precondition(lambda self: self.owner == FOREIGN)
    @rule()
    def somebody_else_gives_it_back(self) -> None:
        self.direct.delete(self.key)
        self.owner = None

    @rule()
    def the_server_forgets(self) -> None:
        self.direct.flushall()
        self._taken_from_the_owner()

    def _taken_from_the_owner(self) -> None:
        """Its lease goes on believing, as it must: only renewing, or giving back, will tell."""
        self.owner = None

    @invariant()
    def the_server_agrees(self) -> None:
        stored = (self.direct.get(self.key) or b"").decode()
        for who, lease in enumerate(self.leases):
            if lease is not None:
                assert (lease.holder in stored) == (self.owner == who)
                assert lease.remaining() > 0
        if self.owner is None:
            assert not stored


def maybe_call(call: Any) -> Coroutine[Any, Any, Any]:
    async def ask() -> Any:
        return await maybe(call())

    return ask()


def play(flavour: str, examples: int, phases: Sequence[Phase] = tuple(Phase), number: int | None = None) -> None:
    """Play so many random games in one flavour; a ``number`` gives the same games again."""
    side = Flavour(flavour)
    loop = asyncio.new_event_loop()
    try:
        with start_redis() as server:
            direct = redis.Redis.from_url(server.url)
            clients = [side.connect(server.url, 5) for _ in range(HANDLES)]

            class Game(OneKey):
                def clients(self) -> list[Any]:
                    return clients

            Game.flavour, Game.direct = side, direct
            Game.drive = staticmethod(loop.run_until_complete if side.is_async else run)
            if number is not None:
                seed(number)(Game)
            run_state_machine_as_test(Game, settings=settings(SETTINGS, max_examples=examples, phases=phases))
            for client in clients:
                loop.run_until_complete(side.close(client))
            direct.close()
    finally:
        loop.run_until_complete(_cancel_all())
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
