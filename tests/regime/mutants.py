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

from coordkit import StoreUnavailable
from coordkit._ports import Call, Script
from coordkit.core import contend, fence, lock, multi, quorum, rwlock, semaphore, waiting
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


def lets_in_whoever_asks(_worker: Worker) -> None:
    """SET, whoever holds it."""
    edit(lock, "_ACQUIRE", "ARGV[1], 'NX', 'PX', ARGV[2])", "ARGV[1], 'PX', ARGV[2])")


def random_token(_worker: Worker) -> None:
    """A token that tells grants apart and says nothing of their order."""
    was = contend.Contender.lease

    def lease(self: contend.Contender, holder: str, granted: waiting.HandedOn) -> Lease:
        return was(self, holder, granted._replace(token=random.randint(1, 1 << 53)))

    contend.Contender.lease = lease  # type: ignore[method-assign]  # a mutant


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

    lock.Mutex.grant = grant  # type: ignore[method-assign]  # a mutant


def ttl_counted_from_the_reply(_worker: Worker) -> None:
    """kazoo's, redis-py's and everybody's: the server has been counting since it got the request."""
    born = Lease.__init__

    def init(self: Lease, terms: Any, holder: str, token: int, _asked: float, *rest: Any) -> None:
        born(self, terms, holder, token, terms.runtime.now(), *rest)

    Lease.__init__ = init  # type: ignore[method-assign]  # a mutant


def handed_on_counted_from_the_receipt(_worker: Worker) -> None:
    """The message lay in a paused waiter's socket while the claim ran out."""
    was = waiting.Waiting._handed_on

    def late(self: waiting.Waiting, *args: Any) -> waiting.HandedOn:
        return was(self, *args)._replace(asked=self._runtime.now())

    waiting.Waiting._handed_on = late  # type: ignore[method-assign]  # a mutant


def renewal_makes_it_again(_worker: Worker) -> None:
    """aioredlock, redsync: extending a lock that expired takes it, behind somebody's back."""
    edit(lock, "_RENEW", "return 0", "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")


def loss_is_not_announced(_worker: Worker) -> None:
    """python-redis-lock, kazoo: the holder is not told."""

    def lose(self: Lease, why: str) -> None:
        self._end(State.LOST, why)

    Lease.lose = lose  # type: ignore[method-assign]  # a mutant


def acquire_is_not_idempotent(_worker: Worker) -> None:
    """redis-py: a lost reply makes the lock wait for itself."""
    edit(lock, "_ACQUIRE", "if holder == ARGV[1] then", "if false then")


def keeps_what_it_may_have_got(_worker: Worker) -> None:
    """redis.asyncio: a cancelled or unanswered acquire leaves the lock behind."""

    async def keep(self: Any) -> None: ...

    contend.Attempt._give_back = keep  # type: ignore[method-assign]  # a mutant
    contend.Attempt._give_back_later = lambda _self: None  # type: ignore[method-assign]  # a mutant


def reader_waits_for_itself(_worker: Worker) -> None:
    """Asked again by somebody who is in: refused, as if he were another."""
    edit(rwlock, "_READ", "local ahead, its_place", "if mine then return {0, ARGV[1], 1} end\nlocal ahead, its_place")


def writer_waits_for_itself(_worker: Worker) -> None:
    """The same for who writes."""
    edit(rwlock, "_WRITE", "if writer == ARGV[1] then\n  if not token", "if token then\n  if not token")


def reads_beside_a_writer(_worker: Worker) -> None:
    """Readers are counted, and who writes is forgotten."""
    edit(rwlock, "_READ", "if mine or (not writer and", "if mine or (true and")


def writes_beside_readers(_worker: Worker) -> None:
    """Who reads is forgotten."""
    edit(rwlock, "_WRITE", "if redis.call('ZCARD', READERS) == 0 and redis", "if redis")


def one_permit_too_many(_worker: Worker) -> None:
    """`>` for `>=`."""
    for name in ("_ACQUIRE", "_RELEASE"):
        edit(semaphore, name, "if fresh >= permits then", "if fresh > permits then")


def takes_another_permit(_worker: Worker) -> None:
    """Each ask takes one: a lost reply costs a permit until its ttl."""
    edit(semaphore, "_ACQUIRE", "slot, token = held(ARGV[1])", "slot, token = nil, nil")


def keeps_the_first_of_several(_worker: Worker) -> None:
    """All, or some."""

    async def keep(self: Any, held: Any) -> None:
        for lease in held:
            lease.pulse.kept = lease  # held on, as what `acquire` returns

    multi.Several._give_back = keep  # type: ignore[method-assign]  # a mutant


def refused_by_its_own_vote(_worker: Worker) -> None:
    """An attempt whose answer was lost has the vote; the next one of the same holder takes that for another's."""
    was, attempt = quorum.QuorumMutex._refused, quorum.QuorumMutex._attempt

    async def forgetful(self: quorum.QuorumMutex, holder: str, ttl: float) -> Any:
        self._doubt.clear()
        return await attempt(self, holder, ttl)

    quorum.QuorumMutex._attempt = forgetful  # type: ignore[method-assign]  # a mutant
    quorum.QuorumMutex._refused = lambda self, _, *rest: was(self, "", *rest)  # type: ignore[method-assign]  # a mutant


def breaks_again(_worker: Worker) -> None:
    """A request to break that is repeated takes it from the next as well."""
    edit(lock, "_BREAK", "if done then", "if false then")


def adopts_once(_worker: Worker) -> None:
    """Whoever asks again is told that somebody adopted it: himself."""
    edit(lock, "_ADOPT", "if holder == ARGV[2] and last > 0 then", "if false then")
    edit(lock, "_ADOPT", "if holder ~= ARGV[1] and holder ~= ARGV[2] then", "if holder ~= ARGV[1] then")


def runs_again(_worker: Worker) -> None:
    """A user's script is sent anew when no answer came."""
    was = fence.Fence.run

    async def run(self: fence.Fence, *args: Any) -> Any:
        try:
            return await was(self, *args)
        except StoreUnavailable:
            return await was(self, *args)

    fence.Fence.run = run  # type: ignore[method-assign]  # a mutant


MUTANTS: dict[str, Callable[[Worker], None]] = {
    mutant.__name__: mutant
    for mutant in (
        fence_on_write_only,
        no_fence,
        no_deadline_check,
        release_without_owner_check,
        lets_in_whoever_asks,
        random_token,
        token_without_the_clock,
        token_minted_after_the_lock,
        ttl_counted_from_the_reply,
        handed_on_counted_from_the_receipt,
        renewal_makes_it_again,
        loss_is_not_announced,
        acquire_is_not_idempotent,
        keeps_what_it_may_have_got,
        reader_waits_for_itself,
        writer_waits_for_itself,
        reads_beside_a_writer,
        writes_beside_readers,
        one_permit_too_many,
        takes_another_permit,
        keeps_the_first_of_several,
        refused_by_its_own_vote,
        breaks_again,
        adopts_once,
        runs_again,
    )
}
