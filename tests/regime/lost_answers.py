"""W5: whatever an operation sends and whatever it is answered, each is lost, cut off or repeated once.

For every kind of lock (``subjects.py``) and every operation it has (``operations.py``, ``accesses.py``). What an
operation sends is not written down but found out: a first pass counts its requests and answers, and then it is done
anew for each of them and each fault. Afterwards what the caller was told must agree with what the servers keep: ours,
or free, or ``StoreUnavailable``, which claims neither. Never "not acquired" while our key stands; what nobody holds any
more goes long before its ttl; and whoever comes next has a higher token than all before.

    python -m regime.lost_answers blocking lock acquire redis://127.0.0.1:6379/0 [mutant]      (in tests/)

A quorum wants the addresses of three servers, with commas between them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis
from regime.accesses import FENCED, PASSING
from regime.flavours import Flavour, maybe
from regime.history import now
from regime.line import ANSWER_FAULTS, LATE, PIPED, REQUEST_FAULTS, Fault, Line, label
from regime.mutants import MUTANTS
from regime.operations import ASKING
from regime.scripts import names
from regime.stage import OTHERS_TTL, TTL, Operation, Stage
from regime.subjects import GOES_WITHIN, SUBJECTS, holder_ids, tokens

import coordkit
from coordkit import AcquireTimeout, LeaseLost, StoreUnavailable
from coordkit.testing.processes import start_redis

AT_ONCE = 8  # cases
ROUNDS = 6  # requests of a contender that asks again and again: two asks, and what they give back


_TOLD = ("try", "acquire", "wait and keep", "wait in vain", "renew", "release", "cancel", "cancel a wait")
_ASKS = ("try", "acquire", "wait", "wait in vain", "renew", "release", "cancel")  # again and again, and is not told
_PARTS = {
    "lock": (*_TOLD, "once", "block"),
    "reentrant": ("acquire", "wait and keep", "release", "again", "cancel"),
    "redis-py": _ASKS,
    "copied": ("once", "acquire", "wait and keep"),
    "read": _TOLD,
    "write": _TOLD,
    "permit": _TOLD,
    "several": _TOLD,
    "quorum": ("try", "acquire", "wait", "renew", "release"),
    "bare quorum": (*_ASKS, "once"),  # once: the answer that counts is the only one there is, and has its number
}
OPERATIONS = {kind: {part: ASKING[part] for part in parts} for kind, parts in _PARTS.items()}
OPERATIONS["lock"] |= PASSING
OPERATIONS["fence"] = FENCED
OPERATIONS["copied"]["adopt"] = PASSING["adopt"]

WRONG = (
    ("blocking", "lock", "acquire", "acquire_is_not_idempotent"),
    ("asyncio", "lock", "once", "acquire_is_not_idempotent"),
    ("blocking", "lock", "once", "keeps_what_it_may_have_got"),
    ("asyncio", "lock", "cancel", "keeps_what_it_may_have_got"),
    ("blocking", "lock", "break", "breaks_again"),
    ("asyncio", "lock", "adopt", "adopts_once"),
    ("asyncio", "reentrant", "acquire", "acquire_is_not_idempotent"),
    ("blocking", "redis-py", "acquire", "acquire_is_not_idempotent"),
    ("blocking", "copied", "once", "keeps_what_it_may_have_got"),
    ("blocking", "read", "acquire", "reader_waits_for_itself"),
    ("asyncio", "write", "acquire", "writer_waits_for_itself"),
    ("blocking", "permit", "acquire", "takes_another_permit"),
    ("asyncio", "several", "cancel a wait", "keeps_the_first_of_several"),
    ("blocking", "bare quorum", "once", "refused_by_its_own_vote"),
    ("blocking", "fence", "run", "runs_again"),
    ("asyncio", "fence", "set", "no_fence"),
)
"""Flavour, kind and operation by which a mutant must be found."""


@dataclass
class Outcome:
    """What came of one case."""

    told: str
    wrong: list[str]
    requests: list[bytes]
    answers: int
    fired: bool


class NotPrepared(Exception):
    """A machine too busy to answer before there was any fault: nothing was tried, so it is tried anew."""


@contextlib.contextmanager
def servers_of_all_kinds() -> Iterator[list[str]]:
    """Give three servers that are a quorum; the first of them, which has a replica, serves all other kinds."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start_redis()) for _ in range(3)]
        stack.enter_context(start_redis(replica_of=servers[0]))
        clients = [stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]
        coordkit.Quorum(clients).initialise()
        yield [server.url for server in servers]


def case(flavour: str, kind: str, operation: str, urls: list[str], fault: Fault | None) -> Outcome:
    """Do one operation under one fault."""
    for _ in range(3):
        with contextlib.suppress(NotPrepared):
            return _case(flavour, kind, operation, urls, fault)
    return _case(flavour, kind, operation, urls, fault)


def _case(flavour: str, kind: str, operation: str, urls: list[str], fault: Fault | None) -> Outcome:
    server = urlsplit(urls[0])
    outcome: list[Outcome] = []
    with Line(str(server.hostname), int(server.port or 6379)) as line:
        stage = Stage(Flavour(flavour), line, urls, SUBJECTS[kind])

        async def whole() -> None:
            try:
                outcome.append(await _play(stage, OPERATIONS[kind][operation], fault))
            finally:
                await stage.close()

        try:
            stage.flavour.run([whole])
        finally:
            stage.end()
    return outcome[0]


async def _play(stage: Stage, operation: Operation, fault: Fault | None) -> Outcome:
    if operation.prepare is not None:
        try:
            await operation.prepare(stage)
        except (StoreUnavailable, AcquireTimeout) as error:  # a mutant may wait for itself
            raise NotPrepared from error
    stage.line.arm(fault)
    began = now()
    try:
        told = await operation.act(stage)
    except StoreUnavailable:
        told = "unknown"
    except LeaseLost:
        told = "lost"
    took = now() - began
    if stage.subject.servers > 1:
        await stage.flavour.sleep(LATE)  # it waits for no minority
    requests, answers = list(stage.line.requests), stage.line.answers
    fired = fault is None or bool(stage.line.fired)
    stage.line.arm(None)
    if fault is not None and fault.what == "late":
        await stage.flavour.sleep(LATE + 0.05)
    wrong = _wrong(stage, operation, fault, told)
    if took > GOES_WITHIN + (2 * OTHERS_TTL if operation.waits else 0):
        wrong.append(f"took {took:.1f} s: it waited for itself")
    if operation.check is not None:
        wrong += await operation.check(stage, told, fault.what if fault is not None else "")
    # What arrives after all is over and done is ended by its ttl only.
    wrong += await _leave(stage, told, TTL + 1 if fault is not None and fault.what == "late" else stage.subject.goes)
    return Outcome(told, wrong, requests, answers, fired)


def _wrong(stage: Stage, operation: Operation, fault: Fault | None, told: str) -> list[str]:
    """Compare what the caller was told with what is so."""
    wrong: list[str] = []
    # Carried out twice, a release finds the second time that it is gone, and says so: nobody holds it, which is true.
    twice = fault is not None and fault.what == "twice" and told == "gone"
    if (told not in operation.told and not twice) or (
        told == "unknown" and stage.subject.certain and not operation.waits
    ):
        wrong.append(f"told {told!r}")
    kept = stage.kept()
    if told == "ours":
        stage.seen.append(tokens(stage.lease))
        lefts = [stage.keeps(holder) for holder in holder_ids(stage.lease)]
        if None in lefts:
            wrong.append(f"told it is ours, and the servers keep {kept}")
        elif stage.lease.remaining() > min(left for left in lefts if left is not None) / 1000 + 0.01:
            wrong.append(f"believes {stage.lease.remaining():.3f} s, and the servers keep it for {lefts} ms")
    wrong += [f"kept for too long: {each}" for each in kept if each.left == -1 or each.left > 60_500]
    if told == "refused" and stage.others:
        if stage.keeps(stage.others[0].holder) is None:
            wrong.append(f"told another's, and the servers keep {kept}")
        theirs = [other.holder for other in stage.others]
        if stage.subject.alone and any(each.holder not in theirs for each in kept):
            wrong.append(f"told another's, while the servers keep {kept}")
    return wrong


async def _leave(stage: Stage, told: str, within: float) -> list[str]:
    """Give back what is held; what nobody holds must go by itself, and then it can be had again."""
    wrong: list[str] = []
    if stage.lease is not None and told != "lost":
        try:
            await maybe(stage.lease.release())
        except StoreUnavailable as error:
            if stage.subject.needs == 1:  # of a quorum the bad line may be needed; it is given back in the background
                wrong.append(f"not given back afterwards: {error}")
    for other in stage.others:
        with contextlib.suppress(StoreUnavailable):  # too busy a machine; it is then given back in the background
            other.release()
    if stage.waiter is not None:
        stage.waiter.result(20)
    ends = now() + within
    while (left := [*stage.remains(), *stage.queued()]) and now() < ends:
        await stage.flavour.sleep(0.04)
    if left:
        wrong.append(f"told {told!r}, and {within} s later the servers still keep {left}")
    elif hasattr(stage.lock, "acquire"):
        try:
            stage.seen.append(_next(stage))
        except AcquireTimeout as error:
            wrong.append(f"told {told!r}, and it cannot be had again: {error}")
    for before, after in itertools.pairwise(stage.seen):
        if any(a <= b for b, a in zip(before, after, strict=True)):
            wrong.append(f"tokens that do not rise: {stage.seen}")
    keys = [(server, key) for server, key in stage.stored() if not key.endswith(b":fence")]
    return wrong + [f"{key!r} never expires" for server, key in keys if server.ttl(key) == -1]


def _next(stage: Stage) -> list[int]:
    """Acquire and give back as somebody who comes later; return the tokens."""
    lock = stage.fresh()
    while True:
        with contextlib.suppress(StoreUnavailable):
            lease = lock.acquire(timeout=2)
            break
    with contextlib.suppress(StoreUnavailable):
        lease.release()
    return tokens(lease)


def enumerate_faults(flavour: str, kind: str, operation: str, urls: list[str]) -> list[str]:
    """Do one operation under every fault; return what was wrong, each line with its fault."""
    what = OPERATIONS[kind][operation]
    # Twice: the first may have to teach the server a script, and answers that come together are read as one.
    calms = [_for_sure(flavour, kind, what.like or operation, urls, None) for _ in range(2)]
    wrong = [f"without a fault: {line}" for calm in calms for line in calm.wrong]
    asked = [calm for calm in calms if calm.requests and calm.answers] or calms  # a quorum waits for no minority
    requests, answers = min(len(calm.requests) for calm in asked), min(calm.answers for calm in asked)
    if what.waits and SUBJECTS[kind].needs > 1:  # it asks again and again, and each time is like the one before
        requests, answers = min(requests, ROUNDS), min(answers, ROUNDS)
    scripts = names()
    # Requests of a quorum, and of asyncio's tasks, are under way at once on one connection.
    piped = SUBJECTS[kind].servers > 1 or flavour == "asyncio"
    each_of = (("hold",), ("hold",)) if what.held else (REQUEST_FAULTS, ANSWER_FAULTS)
    faults = [
        Fault(PIPED.get(each, each) if piped else each, of, n)
        for of, count, all_of_them in zip(("request", "answer"), (requests, answers), each_of, strict=True)
        for n in range(count)
        for each in all_of_them
    ]
    if not requests or not answers:
        wrong.append("nothing was sent, or nothing was answered: no fault can happen")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda fault: _for_sure(flavour, kind, operation, urls, fault), faults))
    for fault, outcome in zip(faults, outcomes, strict=True):
        wrong += [f"{fault} of {[label(r, scripts) for r in outcome.requests]}: {line}" for line in outcome.wrong]
    missed = [str(fault) for fault, outcome in zip(faults, outcomes, strict=True) if not outcome.fired]
    by_chance = what.waits or SUBJECTS[kind].servers > 1  # how often is asked
    greeting = what.prepare is None  # some of its answers may come as one
    if len(missed) > (len(faults) / 2 if by_chance else len(ANSWER_FAULTS) if greeting else 0):
        wrong.append(f"these faults did not happen: {missed}")
    return wrong


def _for_sure(flavour: str, kind: str, operation: str, urls: list[str], fault: Fault | None) -> Outcome:
    """Play a case until its fault happened; what is wrong must be so twice: a busy machine makes anything late."""
    wrong = 0
    for _ in range(4):  # how often a waiter asks is a matter of chance
        outcome = case(flavour, kind, operation, urls, fault)
        wrong += bool(outcome.wrong)
        if wrong == 2 or (outcome.fired and not outcome.wrong):
            break
    return outcome


def main(flavour: str, kind: str, operation: str, urls: str, mutant: str = "") -> None:
    if mutant:
        MUTANTS[mutant](None)  # type: ignore[arg-type]  # those that W5 must find ask nothing of a worker
    print(json.dumps(enumerate_faults(flavour, kind, operation, urls.split(","))))


def every(*, short: bool) -> list[tuple[str, str, str]]:
    """Return every operation of every kind in every flavour that has it.

    ``short`` leaves out what differs from an other in its flavour only: how it is asked is written once, and the ways
    by which it is sent are a lock's; only a quorum has its own, and there the operations take turns.
    """
    chosen: list[tuple[str, str, str]] = []
    flavours = itertools.cycle(("blocking", "asyncio"))
    for kind, parts in OPERATIONS.items():
        for part, operation in parts.items():
            one = "asyncio" if operation.held else next(flavours)
            both = ("blocking", "asyncio") if kind == "lock" or not short else (one,)
            chosen += [(flavour, kind, part) for flavour in both if flavour == "asyncio" or not operation.held]
    return chosen


if __name__ == "__main__":
    main(*sys.argv[1:])
