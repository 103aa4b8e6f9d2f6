"""Bugs that others shipped, put into coordkit one at a time: the simulator must find each of them.

A simulator that stays silent when the code is wrong proves nothing when the code is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from sim.histories import CALM, Settings
from sim.inbox import SimInbox

from coordkit._ports import BROKEN, Script
from coordkit.core import contend, fence, lock, rounds, waiting
from coordkit.core.grantor import Granted
from coordkit.core.lease import Lease

Patch = pytest.MonkeyPatch


def _edit(patch: Patch, module: Any, name: str, old: str, new: str) -> None:
    script: Script = getattr(module, name)
    assert old in script.source, f"{script.name}.lua changed: this mutant must be rewritten"
    patch.setattr(module, name, script._replace(source=script.source.replace(old, new)))


def _nothing(*_args: Any, **_kwargs: Any) -> None: ...


def ttl_counted_from_the_reply(patch: Patch) -> None:
    """kazoo's, redis-py's and everybody's: the server has been counting since it got the request."""
    born = Lease.__init__

    def init(self: Lease, terms: Any, holder: str, token: int, _asked: float, *rest: Any) -> None:
        born(self, terms, holder, token, terms.runtime.now(), *rest)

    patch.setattr(Lease, "__init__", init)


def renewal_counted_from_the_reply(patch: Patch) -> None:
    """The same, on renewal."""
    was = Lease.renewed

    def renewed(self: Lease, _asked: float, ttl: float) -> None:
        was(self, self._runtime.now(), ttl)

    patch.setattr(Lease, "renewed", renewed)


def asked_again_without_a_new_ttl(patch: Patch) -> None:
    """The reply was lost, the second ask is answered "already yours", and the ttl is older than we think."""
    _edit(patch, lock, "_ACQUIRE", "redis.call('PEXPIRE', KEYS[1], ARGV[2])", "")


def acquire_is_not_idempotent(patch: Patch) -> None:
    """redis-py: a lost reply makes the lock wait for itself."""
    _edit(patch, lock, "_ACQUIRE", "if holder == ARGV[1] then", "if false then")


def release_without_compare(patch: Patch) -> None:
    """DEL, whoever holds it."""
    _edit(patch, lock, "_RELEASE", "if holder and holder ~= ARGV[1] then", "if false then")


def renew_without_compare(patch: Patch) -> None:
    """PEXPIRE, whoever holds it: the loser never learns."""
    _edit(patch, lock, "_RENEW", "if holder ~= ARGV[1] then", "if false then")


def renew_makes_it_again(patch: Patch) -> None:
    """aioredlock, redsync: extending a lock that expired takes it, behind somebody's back."""
    _edit(patch, lock, "_RENEW", "return 0", "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")


def loss_is_not_announced(patch: Patch) -> None:
    """python-redis-lock, kazoo: the holder is not told."""
    patch.setattr(Lease, "over", _nothing)


def cancelled_acquire_keeps_what_it_got(patch: Patch) -> None:
    """redis.asyncio: 40 of 40."""

    async def keep(self: Any) -> None: ...

    patch.setattr(contend.Attempt, "_give_back", keep)
    patch.setattr(contend.Attempt, "_give_back_later", _nothing)


def gives_back_once(patch: Patch) -> None:
    """Found by the simulator (seed 183): the give-back overtook the request it should undo, on another connection."""

    async def once(self: Any) -> None:
        await self._by.grantor.revoke(self._holder, self._entry)

    patch.setattr(contend.Attempt, "_give_back", once)


def gives_up_early(patch: Patch) -> None:
    """redis-py: the wait ends a pause before its time."""
    was = contend.Contender.acquire

    async def acquire(self: Any, timeout: float | None) -> Lease:
        return await was(self, timeout and timeout * 0.9)

    patch.setattr(contend.Contender, "acquire", acquire)


def token_without_the_clock(patch: Patch) -> None:
    """A bare INCR: it falls when the server forgets."""
    _edit(patch, lock, "_ACQUIRE", "time[1] * 1000000 + time[2]", "0")


def token_without_the_counter(patch: Patch) -> None:
    """The time alone: it falls when the clock is set back."""
    _edit(patch, lock, "_ACQUIRE", "math.max(last + 1, ", "math.max(0, ")


def token_minted_before_asking(patch: Patch) -> None:
    """INCR first, SET NX after, in two requests: two contenders may pass each other in between."""

    async def grant(self: lock.Mutex, holder: str, ttl: float, spot: Any = None) -> Any:
        mint = Script("mint", "return redis.call('TIME')", "")
        seconds, micros = await self._store.run(self.name, lock.Call(mint, (), ()))
        answer = await was(self, holder, ttl, spot)
        if isinstance(answer, Granted):
            token = int(seconds) * 1_000_000 + int(micros)
            grants = self._store.server.grants  # type: ignore[attr-defined]  # the simulated store
            grants[-1] = (*grants[-1][:2], token)
            return Granted(token)
        return answer

    was = lock.Mutex.grant
    patch.setattr(lock.Mutex, "grant", grant)


def handed_on_counted_from_the_receipt(patch: Patch) -> None:
    """The message lay in a paused waiter's socket while the claim ran out."""
    was = waiting.Waiting._handed_on

    def late(self: Any, *args: Any) -> waiting.HandedOn:
        return was(self, *args)._replace(asked=self._runtime.now())

    patch.setattr(waiting.Waiting, "_handed_on", late)


def handed_on_with_the_old_token(patch: Patch) -> None:
    """The lock goes on, its token stays."""
    for name in ("_ACQUIRE", "_RELEASE"):
        _edit(patch, lock, name, "return math.max(last + 1, now), '-'", "return last, '-'")


def waits_to_be_told(patch: Patch) -> None:
    """python-redis-lock: a wake-up that is lost is lost for good."""
    was = SimInbox.receive

    async def receive(self: Any, holder: str, _until: float) -> str | None:
        while (message := await was(self, holder, math.inf)) in (None, BROKEN):
            await self._process.sleep(0.01)
        return message

    patch.setattr(SimInbox, "receive", receive)


def newcomers_barge_in(patch: Patch) -> None:
    """A lock that is free is anybody's, whoever has been waiting for it."""
    _edit(patch, lock, "_ACQUIRE", "if free then", "if true then")
    _edit(patch, lock, "_ACQUIRE", "return hand_on(", "return nil and hand_on(")


def nobody_is_handed_anything(patch: Patch) -> None:
    """A release only frees, and those who wait find out when they look again."""
    _edit(patch, lock, "_RELEASE", "if queued then", "if false then")


def late_grants_are_kept(patch: Patch) -> None:
    """Handed on to somebody who has just left, and who says nothing."""
    patch.setattr(waiting.Waiting, "_stray", _nothing)

    async def leave(self: Any) -> None: ...

    patch.setattr(contend.Attempt, "_give_back", leave)


def fence_does_not_compare(patch: Patch) -> None:
    """No fence at the resource."""
    for name in ("_GET", "_SET"):
        _edit(patch, fence, name, "if token < highest or", "if")


def fence_compares_on_write_only(patch: Patch) -> None:
    """The trap: the new holder read, the late one wrote, the new one overwrites."""
    _edit(patch, fence, "_GET", "redis.call('SET', fence, token .. ' ' .. holder)", "")


def renewal_failure_is_final(patch: Patch) -> None:
    """python-redis-lock: one ConnectionError ends renewal, and nobody is told (here: the deadline timer is off too)."""
    patch.setattr(rounds.Rounds, "_later", _nothing)
    patch.setattr(Lease, "over", _nothing)


STORMY = Settings()
MUTANTS: list[tuple[Callable[[Patch], None], Settings]] = [
    (ttl_counted_from_the_reply, STORMY),
    (renewal_counted_from_the_reply, STORMY),
    (asked_again_without_a_new_ttl, STORMY),
    (acquire_is_not_idempotent, STORMY),
    (release_without_compare, STORMY),
    (renew_without_compare, Settings(evictions=True)),
    (renew_makes_it_again, Settings(evictions=True)),
    (loss_is_not_announced, STORMY),
    (cancelled_acquire_keeps_what_it_got, CALM),
    (gives_back_once, CALM),
    (gives_up_early, STORMY),
    (token_without_the_clock, Settings(wipes=True)),
    (token_without_the_counter, Settings(clock_steps=True)),
    (token_minted_before_asking, STORMY),
    (handed_on_counted_from_the_receipt, STORMY),
    (handed_on_with_the_old_token, STORMY),
    (waits_to_be_told, STORMY),
    (newcomers_barge_in, Settings(evictions=True)),
    (nobody_is_handed_anything, STORMY),
    (late_grants_are_kept, CALM),
    (fence_does_not_compare, STORMY),
    (fence_compares_on_write_only, STORMY),
    (renewal_failure_is_final, STORMY),
]
