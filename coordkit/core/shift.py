"""One member's work, from joining to leaving: what it claims, proves, and gives back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from coordkit._ports_zookeeper import (
    Check,
    Create,
    Delete,
    Kind,
    Link,
    Multi,
    NodeError,
    NodeExists,
    NoNode,
    Request,
    Stat,
)
from coordkit.core import znodes
from coordkit.core.claim import Claim
from coordkit.core.membership import Membership
from coordkit.core.portions import Portions
from coordkit.core.roll import Roll
from coordkit.core.session import Session, Wake
from coordkit.core.weighing import Weigh, weight_of
from coordkit.errors import CoordError, StoreUnavailable
from coordkit.routing.placement.shares import share_out

_log = logging.getLogger("coordkit")

_PAUSE = 0.2  # seconds before what got no answer, or could not be, is tried again
_LOT, _LOT_BYTES = 500, 65_536  # claims that one transaction proves: well under the servers' jute.maxbuffer
_GONE = "its znode was deleted by hand, or with the session"

Begin = Callable[[Claim], None]
"""Begins the work on a claim, whose ``end`` is called once that has ended."""


def _lots(claims: Iterable[Claim]) -> Iterator[list[Claim]]:
    """Cut into what one transaction can prove."""
    lot: list[Claim] = []
    length = 0
    for claim in claims:
        more = len(claim.node.encode()) + 32  # about what the protocol adds
        if lot and (len(lot) == _LOT or length + more > _LOT_BYTES):
            yield lot
            lot, length = [], 0
        lot.append(claim)
        length += more
    if lot:
        yield lot


class Shift:
    """The work of one member, by whoever called ``run``."""

    def __init__(
        self, session: Session, member: Membership, partitions: Sequence[str], weigh: Weigh | None, begin: Begin
    ) -> None:
        self.name = member.name
        self.held: dict[str, Claim] = {}  # until the work on it has ended
        self.error: BaseException | None = None
        self._partitions = partitions
        self._session = session
        self._runtime = session.runtime
        self._member = member
        self._weigh = weigh
        self._begin = begin
        self._wake = Wake(session.runtime)
        self._roll = Roll(session, self.name, self._wake.ring, numbered=True)
        self._waiting: dict[str, Claim] = {}  # others have it
        self._portions = Portions(session)
        self._shared: tuple[dict[str, bytes], frozenset[str]] = ({}, frozenset())
        self._proven = -math.inf  # when the last proof was asked for
        self._stopped = False
        session.subscribe(self._heard)
        member.lost.call_when_set(self._wake.ring)

    def _heard(self, link: Link) -> None:
        if link in (Link.CLOSED, Link.FORKED):
            for claim in list(self.held.values()):
                claim.lose("the client was stopped, which ends the session")
        self._wake.ring()

    def stop(self) -> None:
        self._stopped = True
        self._wake.ring()

    async def serve(self) -> None:
        """Work until there is a reason to end."""
        while True:
            self._wake.reset()
            self._errors()
            if self._stopped or self.error is not None:
                return
            if self._member.lost.is_set():
                if self._session.ensemble.link() in (Link.CLOSED, Link.REFUSED):
                    await self._session.connected(self.name)  # says so better
                return
            try:
                again = await self._step()
            except StoreUnavailable:
                if self._session.ensemble.link() is Link.CLOSED:
                    await self._session.connected(self.name)  # says so better
                    raise
                again = self._runtime.now() + _PAUSE
            await self._wake.wait(min(again, self._due()))

    def _errors(self) -> None:
        for claim in self.held.values():
            self.error = self.error or claim.error

    async def _step(self) -> float:
        """Do what is to be done now; return when to do it again at the latest."""
        await self._prove()
        complete = await self._roll.look()
        if not self._roll.whole:
            return self._runtime.now()
        part = self._part(self._roll.members)
        for partition in self.held.keys() - part:
            self.held[partition].ending.set()
        await self._give_back()
        for partition, claim in list(self._waiting.items()):
            if claim.touched or partition not in part:
                self._waiting.pop(partition).forget()
        free = sorted(part - self.held.keys() - self._waiting.keys())
        portion = free[: self._portions.size // 2]
        if free and not await self._claim(portion):
            return self._runtime.now() + _PAUSE
        return math.inf if complete and len(portion) == len(free) else self._runtime.now()

    def _part(self, members: dict[str, bytes]) -> frozenset[str]:
        """Return our part, by who is there, and by what their data say where they are weighed."""
        me, weigh = self._member.identity, self._weigh
        if me not in members:
            return frozenset()
        if members != self._shared[0]:
            weights = weigh and {each: weight_of(weigh, self.name, each, data) for each, data in members.items()}
            owners = share_out(self._partitions, members, weights)
            self._shared = dict(members), frozenset(each for each, owner in owners.items() if owner == me)
        return self._shared[1]

    # -- claims

    async def _claim(self, partitions: Sequence[str]) -> bool:
        """Claim what is free, and watch what is not; return False to try again soon."""
        check, asked = self._member.check(), self._runtime.now()
        claims = [Claim(self._session, self.name, each, self._member.identity, self._wake.ring) for each in partitions]
        requests: list[Request] = []
        for claim in claims:
            requests += [claim.request(check, self._roll.epoch), claim.look()]
        left = dict.fromkeys(claims)
        settled = True
        try:
            answers = await self._portions.ask(self.name, requests)
            for claim, made, seen in zip(claims, answers[::2], answers[1::2], strict=True):
                if isinstance(made, list) and claim.is_ours(seen):
                    del left[claim]
                    self._ours(claim, seen[1], asked)
                elif isinstance(made, NodeExists) and not isinstance(seen, Exception):
                    del left[claim]
                    self._waiting[claim.partition] = claim
                elif isinstance(made, NodeError):
                    del left[claim]
                    claim.forget()
                    settled = False
            if any(isinstance(made, NoNode) and made.path != check.path for made in answers[::2]):
                await self._session.ask(self.name, [Create(znodes.claims(self.name), kind=Kind.CONTAINER)])
                self._wake.ring()
        finally:
            for claim in left:  # no answer: it may be there
                self._session.remove_later(self.name, claim.remove)
        return settled and not left

    def _ours(self, claim: Claim, stat: Stat, asked: float) -> None:
        claim.hold(stat.created, stat.owner, asked + self._session.proven)
        self.held[claim.partition] = claim
        self._proven = min(self._proven, asked) if len(self.held) > 1 else asked
        self._expire(claim)
        self._begin(claim)

    def _expire(self, claim: Claim) -> None:
        """Be told when the proof of a claim ends, for as long as we have it."""
        if self.held.get(claim.partition) is not claim or claim.lost.is_set():
            return
        if claim.remaining():
            self._runtime.call_at(claim.expires, lambda: self._expire(claim))
        else:
            claim.lose("no answered write proved it in time")

    def _due(self) -> float:
        held = any(not claim.lost.is_set() for claim in self.held.values())
        return self._proven + self._session.proven / 3 if held else math.inf

    async def _prove(self) -> None:
        """Prove that all claims are ours, when it is time, by one write for each lot; look at those that changed."""
        asked = self._runtime.now()
        held = [claim for claim in self.held.values() if not claim.lost.is_set()]
        touched = [claim for claim in held if claim.touched][: self._portions.size]
        due = asked >= self._due()
        if not (due or touched):
            return
        session = await self._session.connected(self.name, asked)
        for claim in held:
            if claim.owner != session:
                claim.lose("the session has ended")
        lots = list(_lots(held if due else touched))
        requests: list[Request] = [Multi(tuple(Check(claim.node) for claim in lot)) for lot in lots]
        for claim in touched:
            claim.touched = False
            requests.append(claim.look())
        try:
            answers = await self._session.ask_soon(self.name, requests)
        except BaseException:
            for claim in touched:
                claim.touched = True  # perhaps it was not asked for, and is not watched
            raise
        for claim, answer in zip(touched, answers[len(lots) :], strict=True):
            claim.seen(answer)
        if self._are_proven(lots, answers[: len(lots)], asked) and due:
            self._proven = asked

    def _are_proven(self, lots: list[list[Claim]], answers: list[Any], asked: float) -> bool:
        """Take in the answers; return whether all is proven. Raises ``StoreUnavailable`` if one is missing."""
        for lot, answer in zip(lots, answers, strict=True):
            if isinstance(answer, NodeError):
                next(claim for claim in lot if claim.node == answer.path).lose(_GONE)
                self._wake.ring()  # for the others
            elif not isinstance(answer, StoreUnavailable):
                for claim in lot:
                    claim.expires = asked + self._session.proven
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                raise answer
        return not any(isinstance(answer, NodeError) for answer in answers)

    async def _give_back(self) -> None:
        """Delete the claims on which the work has ended, in the background where that takes long."""
        self._errors()
        over = [claim for claim in self.held.values() if claim.ended and claim.ending.is_set()]
        if len(over) > self._portions.size:
            over = over[: self._portions.size]
            self._wake.ring()  # for the rest
        for claim in over:
            del self.held[claim.partition]
        sure = [claim for claim in over if self._session.alive_as(claim.owner) and not claim.lost.is_set()]
        left = dict.fromkeys(over)
        try:
            if sure:
                answers = await self._portions.ask(self.name, [Delete(claim.node) for claim in sure])
                for claim, answer in zip(sure, answers, strict=True):
                    if not isinstance(answer, Exception):
                        del left[claim]
                        claim.forget()
        except StoreUnavailable:
            return  # see below
        finally:
            for claim in left:
                self._session.remove_later(self.name, claim.remove)

    # -- ending

    async def end(self) -> None:
        """Have all work end, give everything back, and leave."""
        for claim in self.held.values():
            claim.ending.set()
        self._roll.let_go()
        for claim in self._waiting.values():
            claim.forget()
        try:
            await self._member.leave()  # first, so that the others know who comes next
        except CoordError as error:
            _log.warning("%s: member %s: %s", self.name, self._member.identity, error)
        while True:
            self._wake.reset()
            again = math.inf
            try:
                await self._give_back()
                await self._prove()  # whoever needs time to end has it
            except CoordError:
                again = self._runtime.now() + _PAUSE
            if not self.held:
                break
            await self._wake.wait(min(again, self._due()))
        self._session.unsubscribe(self._heard)
