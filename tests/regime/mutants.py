"""Bugs that others shipped, put into a real worker process by a name on its command line: the regime must find each.

A test that stays silent when the code is wrong proves nothing when the code is right. ``tests/sim/mutants.py`` has the
same for the simulator. Where a race is narrow, the mutant says so at its gap (``gap``), and the parent lets the lock
run out just there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from regime.scripts import edit

from coordkit._ports import Call, Script
from coordkit.core import contend, fence, lock, waiting
from coordkit.core.grantor import Granted
from coordkit.core.lease import Lease, State

if TYPE_CHECKING:
    from regime.worker import Worker


def fence_on_write_only(_worker: Worker) -> None:
    """The trap: the new holder read, the late one writes, the new one overwrites."""
    edit(fence, "_GET", "redis.call('SET', fence, token .. ' ' .. holder)", "")


def no_fence(_worker: Worker) -> None:
    """The resource takes whatever comes."""
    for name in ("_GET", "_SET"):
        edit(fence, name, "if token < highest or", "if")


def no_deadline_check(worker: Worker) -> None:
    """The worker does not look at its lease before it writes."""
    worker.looks_before_writing = False


def release_without_owner_check(_worker: Worker) -> None:
    """DEL, whoever holds it."""
    edit(lock, "_RELEASE", "if holder and holder ~= ARGV[1] then", "if false then")


def random_token(_worker: Worker) -> None:
    """A token that tells grants apart and says nothing of their order."""
    was = contend.Contender.lease

    def lease(self: contend.Contender, holder: str, granted: waiting.HandedOn) -> Lease:
        return was(self, holder, granted._replace(token=random.randint(1, 1 << 53)))

    contend.Contender.lease = lease  # type: ignore[method-assign]


def token_without_the_clock(_worker: Worker) -> None:
    """A bare INCR: it falls when the server forgets."""
    edit(lock, "_ACQUIRE", "time[1] * 1000000 + time[2]", "0")


def token_minted_after_the_lock(worker: Worker) -> None:
    """SET, then INCR: whoever set first may be the last to count."""
    mint = Script("mint", "return redis.call('INCR', KEYS[1])", "")
    was = lock.Mutex.grant

    async def grant(self: lock.Mutex, holder: str, ttl: float, spot: Any = None) -> Any:
        answer = await was(self, holder, ttl, spot)
        if not isinstance(answer, Granted) or random.random() > 0.2:
            return answer
        worker.recorder.note(worker.name, "gap", name=self.name)
        await worker.flavour.sleep(ttl * 0.4)
        counter = f"coordkit:1:{{{self.name}}}:token".encode()
        return answer._replace(token=int(await self._store.run(self.name, Call(mint, (counter,), ()))))

    lock.Mutex.grant = grant  # type: ignore[method-assign]


def ttl_counted_from_the_reply(_worker: Worker) -> None:
    """kazoo's, redis-py's and everybody's: the server has been counting since it got the request."""
    born = Lease.__init__

    def init(self: Lease, runtime: Any, *args: Any, asked: float, **kwargs: Any) -> None:
        del asked
        born(self, runtime, *args, asked=runtime.now(), **kwargs)

    Lease.__init__ = init  # type: ignore[method-assign]


def handed_on_counted_from_the_receipt(_worker: Worker) -> None:
    """The message lay in a paused waiter's socket while the claim ran out."""
    was = waiting.Waiting._handed_on

    def late(self: waiting.Waiting, *args: Any) -> waiting.HandedOn:
        return was(self, *args)._replace(asked=self._runtime.now())

    waiting.Waiting._handed_on = late  # type: ignore[method-assign]


def renewal_makes_it_again(_worker: Worker) -> None:
    """aioredlock, redsync: extending a lock that expired takes it, behind somebody's back."""
    edit(lock, "_RENEW", "return 0", "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")


def loss_is_not_announced(_worker: Worker) -> None:
    """python-redis-lock, kazoo: the holder is not told."""

    def lose(self: Lease, why: str) -> None:
        self._end(State.LOST, why)

    Lease.lose = lose  # type: ignore[method-assign]


def acquire_is_not_idempotent(_worker: Worker) -> None:
    """redis-py: a lost reply makes the lock wait for itself."""
    edit(lock, "_ACQUIRE", "if holder == ARGV[1] then", "if false then")


def keeps_what_it_may_have_got(_worker: Worker) -> None:
    """redis.asyncio: a cancelled or unanswered acquire leaves the lock behind."""

    async def keep(self: Any) -> None: ...

    contend.Attempt._give_back = keep  # type: ignore[method-assign]
    contend.Attempt._give_back_later = lambda _self: None  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[Worker], None]] = {
    mutant.__name__: mutant
    for mutant in (
        fence_on_write_only,
        no_fence,
        no_deadline_check,
        release_without_owner_check,
        random_token,
        token_without_the_clock,
        token_minted_after_the_lock,
        ttl_counted_from_the_reply,
        handed_on_counted_from_the_receipt,
        renewal_makes_it_again,
        loss_is_not_announced,
        acquire_is_not_idempotent,
        keeps_what_it_may_have_got,
    )
}
