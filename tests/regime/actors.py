"""What an actor (a thread, or a task) of a worker does, one function per workload; all of it random by its seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from regime import resource, turnstile
from regime.flavours import maybe
from regime.history import now
from regime.kinds import KINDS

from coordkit import StaleToken, StoreUnavailable

if TYPE_CHECKING:
    from regime.worker import Worker


class Actor(NamedTuple):
    worker: Worker
    name: str
    chance: random.Random


async def racer(actor: Actor) -> None:
    """W1: acquire, go through the turnstile, come out, give back, as fast as it goes."""
    worker, name, chance = actor
    while not worker.over():
        lease = await worker.acquire(name, chance.choice(worker.plan.names), None)
        if lease is not None:
            await turnstile.enter(worker.resource, lease, KINDS[worker.plan.kind].at_once, name)
            await worker.flavour.sleep(chance.uniform(0, 0.004))
            worker.look(name, lease)
            await turnstile.leave(worker.resource, lease)
            await worker.release(name, lease)


async def leases(actor: Actor) -> None:
    """W2: every way to ask, hold, renew and give back, on two busy names and some quiet ones, some for long."""
    worker, name, chance = actor
    while not worker.over():
        how = chance.choices(["wait", "once", "short"], [4, 1, 2])[0]
        timeout = {"wait": 2.0, "once": None, "short": chance.uniform(0.01, 0.2)}[how]
        what = chance.choice(worker.plan.names if chance.random() < 0.15 else worker.plan.names[:2])
        lease = await worker.acquire(name, what, timeout, once=how == "once")
        if lease is None:
            await worker.flavour.sleep(chance.uniform(0, 0.03))
            continue
        hold = chance.uniform(0, 0.03)
        if chance.random() < (0.04 if what in worker.plan.names[:2] else 0.6):
            hold = chance.uniform(0.8, 1.6) * worker.ttl
            if what not in worker.plan.names[:2]:
                worker.recorder.note(name, "long", name=lease.name)
        ends = now() + hold
        while (left := ends - now()) > 0 and worker.look(name, lease) > 0:
            await worker.flavour.sleep(min(left, worker.ttl / 5))
        if lease.remaining() <= 0:
            await worker.over_with(name, lease)
        elif chance.random() < 0.2:
            await worker.renew(name, lease)
        await worker.release(name, lease)


async def fenced(actor: Actor) -> None:
    """W3: read, think, look at the lease, write: each write is based on what was read."""
    worker, name, chance = actor
    fence = worker.flavour.api.Fence(worker.resource, "ledger")
    made = 0
    while not worker.over():
        lease = await worker.acquire(name, worker.plan.names[0], 2.0)
        if lease is None:
            continue
        try:
            parent = resource.write_of(await maybe(fence.get(resource.KEY, token=lease.token)))
            worker.recorder.note(name, "read", name=lease.name, token=int(lease.token))
            await worker.flavour.sleep(chance.uniform(0.01, 0.05))
            worker.gap("before the look")
            left = lease.remaining()
            if left <= 0:
                await worker.over_with(name, lease)
            if left > 0 or not worker.looks_before_writing:
                worker.gap("after the look")
                made += 1
                await _write(worker, name, fence, lease, f"{name}#{made}", parent, left)
        except StaleToken as error:
            worker.recorder.note(name, "stale", name=lease.name, token=int(lease.token), why=str(error))
        await worker.release(name, lease)


async def _write(worker: Worker, name: str, fence: Any, lease: Any, write: str, parent: str, left: float) -> None:
    number = worker.recorder.call(name, "write", name=lease.name, token=int(lease.token), write=write, left=left)
    try:
        await maybe(fence.set(resource.KEY, resource.value(write, parent), token=lease.token))
    except StoreUnavailable as error:
        worker.recorder.back(number, unknown=str(error))
    else:
        worker.recorder.back(number, written=True)


async def deadlines(actor: Actor) -> None:
    """W4: believe to the very end of a lease that is not renewed, and let it run out."""
    worker, name, chance = actor
    while not worker.over():
        lease = await worker.acquire(name, chance.choice(worker.plan.names), 2.0)
        if lease is None:
            continue
        while (left := worker.look(name, lease)) > 0:
            await worker.flavour.sleep(min(left, worker.ttl / 4))
