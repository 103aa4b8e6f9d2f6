"""Seeded histories of what several may hold at once: a readers-writer lock, and a semaphore.

Processes, weather and faults are those of ``histories``; what is held, and what must hold of it, is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.histories import CALM, TTL, History, Settings
from sim.redis import SimStore
from sim.world import Process

from coordkit.core import rwlock, semaphore
from coordkit.core.fence import Fence
from coordkit.core.lease import Lease
from coordkit.errors import LeaseLost, StaleToken


@dataclass
class Shared(History):
    """What both kinds have in common: a server that knows several holders, each with an end of its own."""

    def _holders(self) -> dict[str, float]:
        """Return the server's holders, and the world's time at which each ends."""
        raise NotImplementedError

    def _is_free(self) -> bool:
        """Whether anybody who waits could be let in."""
        raise NotImplementedError

    def _check_beliefs(self, believers: list[tuple[Process, Lease]]) -> None:
        early = self.settings.wipes or self.settings.clock_steps or self.settings.evictions
        holders = self._holders()
        if not early:
            self._check_together([lease for _, lease in believers])
        for process, lease in believers:
            if lease.holder in holders:
                # A server that forgot may grant a repeated ask, or an entry, anew and for less.
                forgot = self.settings.clock_steps or self.settings.wipes or self.settings.evictions
                if lease.expires / process.rate > holders[lease.holder] and not forgot:
                    self._violated(f"{lease.holder} believes longer than the server")
                self._check_note(lease)
                continue
            since = self.disagreed.setdefault(lease.holder, self.world.time)
            if not early or self.world.time - since > TTL * 1.01 + 0.02:
                self._violated(f"{lease.holder} believes, the server does not")

    def _check_together(self, leases: list[Lease]) -> None:
        """Whether these may be held at once."""
        raise NotImplementedError

    def _check_note(self, lease: Lease) -> None:
        """Whether a lease agrees with the server on everything but its end."""
        raise NotImplementedError

    def _check_server(self) -> None:
        if self._is_free():
            self._check_waiters()
        else:
            self.free_since = None
        if self.settings == CALM:
            for holder in self._holders():
                if holder not in self.wanted | self._asking():
                    since = self.unwanted.setdefault(holder, self.world.time)
                    if self.world.time - since > 0.5:
                        self._violated(f"{holder} wants it no more, the server still keeps it")

    def _finish_server(self, tag: str) -> None:
        if self._holders() and not self.settings.clock_steps:
            self.violations.append("somebody's lease outlived everybody")
        left = [key for key in list(self.server.data) if key.startswith(tag.encode()) and self.server.get(key.decode())]
        kept = [b"token"] if self.settings == CALM else [b"token", b"queue"]  # who was killed stands there for an hour
        if not self.settings.clock_steps:
            self.violations += [f"{key!r} was left" for key in left if key.rsplit(b":")[-1] not in kept]


@dataclass
class Reading(Shared):
    """A history of readers and writers."""

    lookups: int = 0  # by readers who looked twice and found the same
    tag = "coordkit:1:{job}:rw:"

    def _populate(self, process: Process, store: SimStore) -> None:
        chance = self.world.random
        fence = Fence(process, store, "ledger")
        sides = [make(store, store.keeper, "job") for make in (rwlock.reading, rwlock.writing)]
        renew = chance.random() < 0.8
        contenders = [self.make(process, side, TTL, renew=renew) for side in sides]
        for _ in range(chance.randint(1, 3)):
            contender = chance.choice(contenders)
            self.tasks.append(process.spawn(self._work(process, contender, fence)))

    async def _critical(self, process: Process, lease: Lease, fence: Fence) -> None:
        if self._writes(lease):
            await super()._critical(process, lease, fence)
            return
        chance = self.world.random
        try:
            before = await fence.get("ledger", lease.token)
            await process.sleep(chance.choice([0.01, 0.1, 0.8, 1.6]))
            after = await fence.get("ledger", lease.token)
        except StaleToken:
            raise LeaseLost(lease.name, "refused", token=lease.token) from None
        if before != after and not self.settings.wipes:
            self._violated(f"{lease.holder} read {before!r}, then {after!r} under one token")
        self.lookups += 1

    @staticmethod
    def _writes(lease: Lease) -> bool:
        return lease.grantor.entry("", 1, "a b").startswith("w")

    def _evict(self) -> None:
        self.server.data.pop((self.tag + self.world.random.choice(["writer", "readers"])).encode(), None)

    def _readers(self) -> dict[bytes, float]:
        return self.server.live((self.tag + "readers").encode())

    def _holders(self) -> dict[str, float]:
        holders = {holder.decode(): ends for holder, ends in self._readers().items()}
        if (writer := self.server.get(self.tag + "writer")) is not None:
            holders[writer.decode()] = self.server.ends(self.tag + "writer")
        return holders

    def _is_free(self) -> bool:
        return not self._holders()

    def _check_together(self, leases: list[Lease]) -> None:
        if len(leases) > 1 and any(self._writes(lease) for lease in leases):
            self._violated(f"a writer is not alone: {[lease.holder for lease in leases]}")

    def _check_note(self, lease: Lease) -> None:
        signed = lease.holder if self._writes(lease) else f"readers:{lease.token:d}"
        if lease.token.holder != signed:
            self._violated(f"{lease.holder} signs {lease.token.holder}, not {signed}")

    def _check_server(self) -> None:
        super()._check_server()
        readers, writer = self._readers(), self.server.get(self.tag + "writer")
        if readers and writer is not None:
            self._violated(f"{writer!r} writes while {list(readers)} read")
        latest = max((token for _, _, token in self.server.grants), default=0)
        for holder in [*readers] if writer is None else [writer]:
            if max(token for _, who, token in self.server.grants if who == holder) < latest:
                self._violated(f"{holder!r} is in again after a later one was")

    def _finish(self) -> None:
        self._finish_server(self.tag)
        super()._finish()

    def _check_tokens(self) -> None:
        signers: dict[int, bytes] = {}
        highest = 0
        for when, holder, token in self.server.grants:
            note = self.server.notes[holder, token]
            by = note if note.startswith(b"readers:") else holder
            if signers.setdefault(token, by) != by:
                self.violations.append(f"{when:.3f}: token {token} was given out twice")
            elif token < highest:
                self.violations.append(f"{when:.3f}: token {token} after {highest}")
            highest = max(highest, token)


@dataclass
class Counting(Shared):
    """A history of a semaphore."""

    permits: int = 0
    most: int = 0  # who held at once
    by_slot: Counter[int] = field(default_factory=Counter)  # acknowledged updates
    tag = "coordkit:1:{job}:semaphore:"

    def _populate(self, process: Process, store: SimStore) -> None:
        chance = self.world.random
        self.permits = self.permits or chance.randint(1, 3)
        permits = semaphore.Permits(store, store.keeper, "job", self.permits)
        contender = self.make(process, permits, TTL, renew=chance.random() < 0.8)
        self.fences = [Fence(process, store, f"ledger-{slot}") for slot in range(self.permits)]
        for _ in range(chance.randint(1, 3)):
            self.tasks.append(process.spawn(self._work(process, contender, self.fences[0])))

    async def _critical(self, process: Process, lease: Lease, fence: Fence) -> None:
        assert lease.slot is not None
        fence, key = Fence(process, fence._store, f"ledger-{lease.slot}"), f"ledger-{lease.slot}"
        chance = self.world.random
        value = int(await fence.get(key, lease.token) or 0)
        for _ in range(chance.randint(0, 3)):
            await process.sleep(chance.choice([0.01, 0.1, 0.8]))
        if chance.random() < 0.2:
            await lease.renew()
        try:
            await fence.set(key, str(value + 1), lease.token)
        except StaleToken:
            raise LeaseLost(lease.name, "refused", token=lease.token) from None
        self.by_slot[lease.slot] += 1

    def _evict(self) -> None:
        self.server.data.pop((self.tag + self.world.random.choice(["permits", "holders"])).encode(), None)

    def _slots(self) -> dict[str, tuple[int, int, float]]:
        """Return slot, token and end of each of the server's holders."""
        live, fields = self.server.live((self.tag + "permits").encode()), self.server.hash(self.tag + "holders")
        slots = {}
        for holder, note in fields.items():
            slot, _, token = bytes(note).partition(b" ")
            if not holder.startswith(b"#") and slot in live:
                slots[holder.decode()] = int(slot), int(token), live[slot]
        return slots

    def _holders(self) -> dict[str, float]:
        return {holder: ends for holder, (_, _, ends) in self._slots().items()}

    def _is_free(self) -> bool:
        return len(self.server.live((self.tag + "permits").encode())) < self.permits

    def _check_together(self, leases: list[Lease]) -> None:
        self.most = max(self.most, len(leases))
        slots = [lease.slot for lease in leases]
        if len(leases) > self.permits or len(set(slots)) < len(slots):
            self._violated(f"{len(leases)} believe to hold {self.permits} permits: {slots}")

    def _check_note(self, lease: Lease) -> None:
        if self.settings.wipes or self.settings.evictions:
            return  # a repeated ask may have been granted anew
        slot, token, _ = self._slots()[lease.holder]
        if (slot, token) != (lease.slot, lease.token):
            self._violated(f"{lease.holder} has {lease.slot}, {lease.token:d}; the server says {slot}, {token}")

    def _check_server(self) -> None:
        super()._check_server()
        taken = Counter(slot for slot, _, _ in self._slots().values())
        live = self.server.live((self.tag + "permits").encode())
        if len(live) > self.permits or any(count > 1 for count in taken.values()):
            self._violated(f"{len(live)} of {self.permits} permits are held: {taken}")
        for holder, (slot, token, _) in self._slots().items():
            notes = self.server.notes
            later = [who for _, who, more in self.server.grants if notes[who, more] == b"%d" % slot and more > token]
            if later:
                self._violated(f"{holder} has slot {slot} again after {later} had")

    def _finish(self) -> None:
        self._finish_server(self.tag)
        super()._finish()
        for slot, acknowledged in self.by_slot.items():
            final = int(self.server.get(f"ledger-{slot}") or 0)
            if not self.settings.wipes and final < acknowledged:
                self.violations.append(f"slot {slot}: {acknowledged - final} acknowledged updates were lost")
        self.acknowledged = sum(self.by_slot.values())

    def _check_tokens(self) -> None:
        holders: dict[int, bytes] = {}
        known: set[tuple[bytes, int]] = set()
        highest = 0
        # One script may serve the asker and others: they are granted at one time.
        for when, token, holder in sorted((when, token, holder) for when, holder, token in self.server.grants):
            if holders.setdefault(token, holder) != holder:
                self.violations.append(f"{when:.3f}: token {token} was given out twice")
            elif token < highest and (holder, token) not in known:
                self.violations.append(f"{when:.3f}: token {token} after {highest}")
            known.add((holder, token))  # who asks again is given it again
            highest = max(highest, token)


def violations(kind: Callable[..., Any], seeds: range, settings: Settings) -> list[str]:
    """Run many histories of one kind; return what they broke, each line with its seed."""
    return [f"seed {seed}: {line}" for seed in seeds for line in kind(seed, settings).run().violations]
