"""What an actor (a thread, or a task) of W6 and W7 does; all of it random by its seed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from regime import resource
from regime.flavours import maybe
from regime.history import now

from coordkit import LeadershipLost, LeaseLost, NotAcquired, StaleToken, StoreUnavailable

if TYPE_CHECKING:
    from regime.zoo_worker import Worker

TOLD_WITHIN = 2.0
"""Seconds after its end in which a loss must have been announced; a timer, or a watch, needs next to none of them."""


class Actor(NamedTuple):
    worker: Worker
    name: str
    chance: random.Random


# -- W6: elections


async def busy(actor: Actor) -> None:
    """Lead again and again on the first path, whose resource is fenced; mostly for a moment, now and then for long."""
    while not actor.worker.settled():
        long = actor.chance.random() < 0.06
        hold = actor.chance.uniform(1.0, 2.0) * actor.worker.timeout if long else actor.chance.uniform(0, 0.06)
        await _Term(actor, actor.worker.plan.paths[0], hold, fenced=True).play()


async def quiet(actor: Actor) -> None:
    """Lead for long on one of the other paths; for very long where nobody beside us writes anything."""
    least, most = (1.5, 2.5) if actor.worker.plan.work == CALM else (0.8, 2.0)
    while not actor.worker.settled():
        hold = actor.chance.uniform(least, most) * actor.worker.timeout
        await _Term(actor, actor.chance.choice(actor.worker.plan.paths[1:]), hold, fenced=False).play()


class _Term:
    """One attempt to lead, and what came of it."""

    def __init__(self, actor: Actor, path: str, hold: float, *, fenced: bool) -> None:
        self._worker, self._name, self._chance = actor
        self._recorder = self._worker.recorder
        self._path = path
        self._hold = hold
        self._fenced = fenced
        self._token = 0
        self._leaving: int | None = None

    async def play(self) -> None:
        policy = self._chance.choice(["strict", "session"])
        stand = self._worker.flavour.api.Election
        election = stand(self._worker.client, self._path, identity=self._name, policy=policy)
        timeout = self._chance.choice([None, 3.0, self._chance.uniform(0.01, 0.3)])
        asked = self._recorder.call(self._name, "acquire", name=self._path, timeout=timeout)
        self._worker.holds[self._path, self._name] = self._hold
        try:
            async with within(election.lead(timeout)) as leadership:
                await self._led(asked, leadership)
        except (NotAcquired, StoreUnavailable, LeadershipLost) as error:
            self._ended(asked, error)
            if not self._token:
                await self._worker.flavour.sleep(self._chance.uniform(0, 0.05))
        except Exception as error:
            self._recorder.back(asked if self._leaving is None else self._leaving, failed=repr(error))
            raise
        else:
            assert self._leaving is not None
            self._recorder.back(self._leaving, released=True)

    def _ended(self, asked: int, error: Exception) -> None:
        number = asked if self._leaving is None else self._leaving
        if isinstance(error, NotAcquired):
            self._recorder.back(number, refused=True)
        elif isinstance(error, LeadershipLost):
            self._recorder.back(number, lost=str(error))
        else:
            self._recorder.back(number, unknown=str(error))

    async def _led(self, asked: int, leadership: Any) -> None:
        """Write down that we lead, and lead; what ends the block, also a cancellation, ends the belief."""
        self._token = int(leadership.token)
        session = self._worker.session()
        until = self._believes_until(leadership)
        facts = {"token": self._token, "holder": leadership.token.holder, "until": until, "session": session}
        facts |= {"who": self._name, "path": self._path, "hold": self._hold}
        self._recorder.back(asked, **facts)
        try:
            await self._serve(leadership)
        finally:
            self._leaving = self._recorder.call(self._name, "release", name=self._path, token=self._token, heed=True)

    async def _serve(self, leadership: Any) -> None:
        ends = now() + self._hold
        session = self._worker.session()
        long = self._hold >= 0.8 * self._worker.timeout
        if long or session != self._worker.proven_session or self._chance.random() < 0.1:
            self._worker.proven_session = session
            await self._prove(leadership)
        try:
            parent, fence = "", None
            if self._fenced:
                fence = self._worker.flavour.api.Fence(self._worker.resource, "ledger")
            if fence is not None:
                parent = resource.write_of(await maybe(fence.get(resource.KEY, token=leadership.token)))
            count = 0
            while (left := self._look(leadership)) > 0:
                if fence is not None:
                    count += 1
                    parent = await self._write(fence, leadership, f"{self._name}#{self._token}#{count}", parent, left)
                if (rest := ends - now()) <= 0:
                    return
                await self._worker.flavour.sleep(min(rest, self._worker.timeout / 15))
        except StaleToken as error:
            self._recorder.note(self._name, "stale", name=self._path, token=self._token, why=str(error))
            return
        number = self._recorder.call(self._name, "over", name=self._path, token=self._token)
        try:
            told = bool(await maybe(leadership.lost.wait(TOLD_WITHIN)))
        except asyncio.CancelledError:
            self._recorder.back(number, told=True)
            raise
        self._recorder.back(number, told=told)

    async def _write(self, fence: Any, leadership: Any, write: str, parent: str, left: float) -> str:
        number = self._recorder.call(self._name, "write", name=self._path, token=self._token, write=write, left=left)
        await maybe(fence.set(resource.KEY, resource.value(write, parent), token=leadership.token))
        self._recorder.back(number, written=True)
        return write

    async def _prove(self, leadership: Any) -> None:
        """Write down whose znode the servers think leads, if they think that we do."""
        session = self._worker.session()
        with contextlib.suppress(Exception):  # whatever keeps us from looking: then there is nothing to say
            text, stat = await self._raw(self._worker.client.get_async(f"{self._path}/epoch"))
            candidate = json.loads(text)["candidate"]
            there = await self._raw(self._worker.client.exists_async(f"{self._path}/candidates/{candidate}"))
            if stat.mzxid == self._token and session and leadership.remaining() > 0:
                owner = there.ephemeralOwner if there is not None else 0
                self._recorder.note(
                    self._name, "proof", name=self._path, token=self._token, owner=owner, session=session[0]
                )

    async def _raw(self, result: Any) -> Any:
        if self._worker.flavour.is_async:
            return await asyncio.to_thread(result.get, True, 1.0)
        return result.get(True, 1.0)

    def _look(self, leadership: Any) -> float:
        until = self._believes_until(leadership)
        if until:
            self._recorder.note(self._name, "look", name=self._path, token=self._token, until=until)
        return until - now() if until else 0.0

    @staticmethod
    def _believes_until(leadership: Any) -> float:
        began = now()  # before the leadership looks at its clock, so that we err on the early side
        left = leadership.remaining()
        return began + left if left > 0 else 0.0


# -- W7: groups


async def resident(actor: Actor) -> None:
    """Be a member from the first to the last, under the name of this place, and update what others see."""
    place, life = actor.worker.name.split(".")
    await _stay(actor, place, life, lambda: False, actor.worker.over)


async def churner(actor: Actor) -> None:
    """Join under one of three names of this place, stay for a moment, leave."""
    place, life = actor.worker.name.split(".")
    stays = 0
    while not actor.worker.settled():
        stays += 1
        ends = now() + actor.chance.uniform(0, 0.3)
        identity = f"{place}-{actor.chance.randrange(3)}"
        await _stay(actor, identity, f"{life}.{stays:06}", lambda ends=ends: now() >= ends, actor.worker.settled)
        await actor.worker.flavour.sleep(actor.chance.uniform(0, 0.1))


async def _stay(actor: Actor, identity: str, life: str, enough: Any, over: Any) -> None:
    """Join, update now and then, leave; data are numbered, so that it shows when somebody sees an older state."""
    worker, name, chance = actor
    group = worker.flavour.api.Group(worker.client, worker.plan.paths[0])
    count = 0
    while not (over() or enough()):
        count += 1
        data = f"{life}:{count:06}"
        number = worker.recorder.call(name, "join", identity=identity, data=data)
        try:
            async with within(group.join(identity, data=data.encode())) as member:
                worker.recorder.back(number, token=int(member.token), heed=True, who=name)
                number = -1
                while not (over() or enough()):
                    await worker.flavour.sleep(chance.uniform(0, 0.15))
                    if not worker.settled():
                        count += 1
                        await _update(worker, name, member, f"{life}:{count:06}")
                number = worker.recorder.call(name, "leave", identity=identity, data=member.data.decode())
            worker.recorder.back(number, left=True)
        except (StoreUnavailable, LeaseLost) as error:
            if number >= 0:
                worker.recorder.back(number, unknown=str(error))
            if isinstance(error, LeaseLost):
                worker.recorder.note(name, "stolen", identity=identity, why=str(error))
            await worker.flavour.sleep(0.05)


async def _update(worker: Worker, name: str, member: Any, data: str) -> None:
    number = worker.recorder.call(name, "update", identity=member.identity, data=data)
    try:
        await maybe(member.update(data.encode()))
    except StoreUnavailable as error:  # it is made later
        worker.recorder.back(number, unknown=str(error))
    else:
        worker.recorder.back(number, done=True)


async def watcher(actor: Actor) -> None:
    """Write down every change of the group that is told."""
    worker, name, _ = actor
    while not worker.over():
        stream = worker.flavour.api.Group(worker.client, worker.plan.paths[0]).watch()
        worker.streams.append(stream)
        try:
            async for change in each(stream):
                members = {identity: data.decode() for identity, data in change.members.items()}
                difference = [sorted(part) for part in (change.joined, change.left, change.updated)]
                facts = {"members": members, "difference": difference, "who": worker.name, "heed": True}
                worker.recorder.note(name, "view", **facts)
        except StoreUnavailable as error:
            worker.recorder.note(name, "unavailable", why=str(error))
            await worker.flavour.sleep(0.05)


# -- both flavours in one text


@contextlib.asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """Be ``async with`` for a context manager of either flavour."""
    if hasattr(manager, "__aenter__"):
        async with manager as held:
            yield held
    else:
        with manager as held:
            yield held


async def each(iterable: Any) -> AsyncIterator[Any]:
    """Be ``async for`` for an iterable of either flavour."""
    if hasattr(iterable, "__aiter__"):
        async for item in iterable:
            yield item
    else:
        for item in iterable:
            yield item


CALM = "elect calmly"
WORK = {"elect": (busy, quiet), CALM: (quiet,), "gather": (resident, churner, watcher)}
"""The actors of each worker."""
