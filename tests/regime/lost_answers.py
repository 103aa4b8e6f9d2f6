"""W5: whatever an operation sends and whatever it is answered, each is lost, cut off or repeated once.

What an operation sends is not written down here but found out: a first pass counts its requests and answers, and then
it is done anew for each of them and each fault. Afterwards what the caller was told must agree with what the server
keeps: ours, or free, or ``StoreUnavailable``, which claims neither. Never "not acquired" while our key stands; and what
nobody holds any more goes long before its ttl.

    python -m regime.lost_answers blocking acquire redis://127.0.0.1:6379/0 [mutant]      (in tests/)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from regime.flavours import Flavour, maybe
from regime.history import now
from regime.line import ANSWER_FAULTS, LATE, REQUEST_FAULTS, Fault, Line, label
from regime.mutants import MUTANTS
from regime.scripts import names

import coordkit
from coordkit import LeaseLost, NotAcquired, StoreUnavailable

TTL = 4.0
GOES_WITHIN = 2.5  # seconds: what nobody holds is given back, and does not wait for its ttl
OTHERS_TTL = 1.0  # a waiter that was not told asks again after so long, and after a claim that was not heard of
PATIENCE = 0.25  # seconds until a client takes a request for lost
AT_ONCE = 8  # cases


@dataclass
class Stage:
    """One case: a lock whose client speaks over a line of its own, and somebody else who may hold it first."""

    flavour: Flavour
    line: Line
    url: str
    name: str = field(default_factory=lambda: f"w5-{uuid4().hex}")

    def __post_init__(self) -> None:
        self.direct = redis.Redis.from_url(self.url)
        self.client = self.flavour.connect(self.line.url, PATIENCE)
        self.lock = self.flavour.api.Lock(self.client, self.name, ttl=TTL)
        self.lease: Any = None  # ours
        self.other: Any = None  # somebody else's

    async def warm(self) -> None:
        await maybe((await maybe(self.lock.acquire(timeout=5))).release())

    async def hold(self) -> None:
        self.lease = await maybe(self.lock.acquire(timeout=5))

    async def another_holds(self) -> None:
        await self.warm()
        self.other = coordkit.Lock(self.direct, self.name, ttl=OTHERS_TTL).acquire()

    def owner(self) -> str:
        return (self.direct.get(self.lock.key) or b"").decode()


@dataclass(frozen=True)
class Operation:
    """What is done, what must be so before it, and whether it may ask any number of times."""

    act: Callable[[Stage], Awaitable[str]]  # gives what the caller was told
    prepare: Callable[[Stage], Awaitable[None]] | None = None
    told: tuple[str, ...] = ("ours", "unknown")
    polls: bool = False
    like: str = ""  # the operation whose requests and answers are counted in the first pass, where it is another's


async def _told(stage: Stage, asked: Any) -> str:
    try:
        stage.lease = await maybe(asked)
    except NotAcquired:
        return "refused"
    return "refused" if stage.lease is None else "ours"


async def _try(stage: Stage) -> str:
    return await _told(stage, stage.lock.try_acquire())


async def _once(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=0))


async def _acquire(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=5))


async def _told_of(stage: Stage, ask: Callable[[], Any]) -> str:
    """The same for calls that raise before there is anything to await, as those of the blocking flavour do."""
    try:
        asked = ask()
    except NotAcquired:
        return "refused"
    return await _told(stage, asked)


def _give_back(lease: Any) -> None:
    time.sleep(0.12)
    lease.release()


async def _wait(stage: Stage) -> str:
    """The other gives back when we have been waiting for a while."""
    with ThreadPoolExecutor(1) as pool:
        giving = pool.submit(_give_back, stage.other)
        try:
            return await _told_of(stage, lambda: stage.lock.acquire(timeout=30))
        finally:
            giving.result(10)


async def _wait_in_vain(stage: Stage) -> str:
    return await _told_of(stage, lambda: stage.lock.acquire(timeout=0.15))


async def _renew(stage: Stage) -> str:
    try:
        await maybe(stage.lease.renew())
    except LeaseLost:
        return "lost"
    return "ours"


async def _release(stage: Stage) -> str:
    given_back = await maybe(stage.lease.release())
    stage.lease = None
    return "given back" if given_back else "gone"


async def _block(stage: Stage) -> str:
    """Hold it for a block, and leave the block."""
    if stage.flavour.is_async:
        async with stage.lock:
            pass
    else:
        with stage.lock:
            pass
    return "given back"


async def _cancel(stage: Stage) -> str:
    """Cancel an acquire when its request, or the answer, is held up on the line."""
    task = asyncio.ensure_future(stage.lock.acquire(timeout=1))
    while not task.done() and not stage.line.fired:  # noqa: ASYNC110 - the line is not in this loop, but in a thread
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0.01)
    stage.line.release_held()
    try:
        stage.lease = await task
    except asyncio.CancelledError:
        return "given up"
    except NotAcquired:
        return "refused"
    return "ours"


OPERATIONS = {
    "try": Operation(_try),  # on a fresh client: its handshake is part of it
    "once": Operation(_once, Stage.warm),
    "acquire": Operation(_acquire, Stage.warm),
    "wait": Operation(_wait, Stage.another_holds, polls=True),
    "wait in vain": Operation(_wait_in_vain, Stage.another_holds, told=("refused", "unknown"), polls=True),
    "renew": Operation(_renew, Stage.hold),
    "release": Operation(_release, Stage.hold, told=("given back", "unknown")),
    "block": Operation(_block, Stage.warm, told=("given back", "unknown", "lost")),
    "cancel": Operation(_cancel, Stage.warm, told=("given up", "ours"), like="acquire"),
    "cancel a wait": Operation(
        _cancel, Stage.another_holds, told=("given up", "refused"), polls=True, like="wait in vain"
    ),
}
ASYNC_ONLY = ("cancel", "cancel a wait")


@dataclass
class Outcome:
    """What came of one case."""

    told: str
    wrong: list[str]
    requests: list[bytes]
    answers: int
    fired: bool


def case(flavour: str, operation: str, url: str, fault: Fault | None) -> Outcome:
    """Do one operation under one fault."""
    server = urlsplit(url)
    outcome: list[Outcome] = []
    with Line(str(server.hostname), int(server.port or 6379)) as line:
        stage = Stage(Flavour(flavour), line, url)

        async def whole() -> None:
            try:
                outcome.append(await _play(stage, OPERATIONS[operation], fault))
            finally:
                await stage.flavour.close(stage.client)

        stage.flavour.run([whole])
        stage.direct.close()
    return outcome[0]


async def _play(stage: Stage, operation: Operation, fault: Fault | None) -> Outcome:
    if operation.prepare is not None:
        await operation.prepare(stage)
    stage.line.arm(fault)
    began = now()
    try:
        told = await operation.act(stage)
    except StoreUnavailable:
        told = "unknown"
    except LeaseLost:
        told = "lost"
    requests, answers = list(stage.line.requests), stage.line.answers
    fired = fault is None or bool(stage.line.fired)
    stage.line.arm(None)
    if fault is not None and fault.what == "late":
        await stage.flavour.sleep(LATE + 0.05)
    wrong = _wrong(stage, operation, fault, told)
    if (took := now() - began) > GOES_WITHIN + (2 * OTHERS_TTL if operation.polls else 0):
        wrong.append(f"took {took:.1f} s: it waited for itself")
    # What arrives after all is over and done is ended by its ttl only.
    wrong += await _leave(stage, told, TTL + 1 if fault is not None and fault.what == "late" else GOES_WITHIN)
    return Outcome(told, wrong, requests, answers, fired)


def _wrong(stage: Stage, operation: Operation, fault: Fault | None, told: str) -> list[str]:
    """Compare what the caller was told with what is so."""
    wrong: list[str] = []
    # Carried out twice, a release finds the second time that it is gone, and says so: nobody holds it, which is true.
    twice = fault is not None and fault.what == "twice"
    if told not in operation.told and not (twice and told == "gone"):
        wrong.append(f"told {told!r}")
    owner, left = stage.owner(), stage.direct.pttl(stage.lock.key)
    if told == "ours" and stage.lease.holder not in owner:
        wrong.append(f"told it is ours, and the server keeps {owner or 'nothing'}")
    if told == "ours" and stage.lease.remaining() > left / 1000 + 0.01:
        wrong.append(f"believes {stage.lease.remaining():.3f} s, and the server keeps it for {left / 1000:.3f} s")
    if left == -1 or left > 60_000:
        wrong.append(f"a key that never expires: {left}")
    if stage.other is not None and told == "refused" and stage.other.holder not in owner:
        wrong.append(f"told another's, and the server keeps {owner or 'nothing'}")
    return wrong


async def _leave(stage: Stage, told: str, within: float) -> list[str]:
    """Give back what is held; what nobody holds must go by itself."""
    wrong: list[str] = []
    if stage.lease is not None and told in ("ours", "refused"):
        try:
            await maybe(stage.lease.release())
        except StoreUnavailable as error:
            wrong.append(f"not given back afterwards: {error}")
    if stage.other is not None:
        stage.other.release()
    ends = now() + within
    while stage.direct.exists(stage.lock.key) and now() < ends:
        await stage.flavour.sleep(0.01)
    if owner := stage.owner():
        wrong.append(f"told {told!r}, and {within} s later the server still keeps {owner}")
    wrong += [
        f"{key!r} never expires"
        for key in stage.direct.keys(f"coordkit:1:{{{stage.name}}}:*")
        if stage.direct.ttl(key) == -1
    ]
    return wrong


def enumerate_faults(flavour: str, operation: str, url: str) -> list[str]:
    """Do one operation under every fault; return what was wrong, each line with its fault."""
    # Twice: the first may have to teach the server a script, and answers that come together are read as one.
    calms = [case(flavour, OPERATIONS[operation].like or operation, url, None) for _ in range(2)]
    wrong = [f"without a fault: {line}" for calm in calms for line in calm.wrong]
    requests, answers = min(len(calm.requests) for calm in calms), min(calm.answers for calm in calms)
    scripts = names()
    held = operation in ASYNC_ONLY
    faults = [
        *(Fault(what, "request", n) for n in range(requests) for what in (("hold",) if held else REQUEST_FAULTS)),
        *(Fault(what, "answer", n) for n in range(answers) for what in (("hold",) if held else ANSWER_FAULTS)),
    ]
    if not requests or not answers:
        wrong.append("nothing was sent, or nothing was answered: no fault can happen")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda fault: _until_fired(flavour, operation, url, fault), faults))
    for fault, outcome in zip(faults, outcomes, strict=True):
        wrong += [f"{fault} of {[label(r, scripts) for r in outcome.requests]}: {line}" for line in outcome.wrong]
    missed = [str(fault) for fault, outcome in zip(faults, outcomes, strict=True) if not outcome.fired]
    if len(missed) > (len(faults) / 2 if OPERATIONS[operation].polls else 0):
        wrong.append(f"these faults did not happen: {missed}")
    return wrong


def _until_fired(flavour: str, operation: str, url: str, fault: Fault) -> Outcome:
    for _ in range(3):  # how often a waiter asks is a matter of chance
        outcome = case(flavour, operation, url, fault)
        if outcome.fired or outcome.wrong:
            break
    return outcome


def main(flavour: str, operation: str, url: str, mutant: str = "") -> None:
    if mutant:
        MUTANTS[mutant](None)  # type: ignore[arg-type]  those that W5 must find ask nothing of a worker
    print(json.dumps(enumerate_faults(flavour, operation, url)))


def every() -> list[tuple[str, str]]:
    """Return every operation in every flavour that has it."""
    pairs = itertools.product(("blocking", "asyncio"), OPERATIONS)
    return [(flavour, op) for flavour, op in pairs if flavour == "asyncio" or op not in ASYNC_ONLY]


if __name__ == "__main__":
    main(*sys.argv[1:])
