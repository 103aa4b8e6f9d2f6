"""The weather of W6: what is done to leaders, to who stands behind them, and to what an election is made of."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from regime.history import now
from regime.weather import Weather, quietly
from regime.wired import GHOST
from regime.zoo_crew import Term, place

from coordkit.core import records, znodes
from coordkit.testing.servers import ask, scaled


class Reign(NamedTuple):
    """Who leads by the epoch record, and by which version of it."""

    token: int
    version: int
    candidate: str


class ElectionWeather(Weather):
    """Hurts elections."""

    def stuck(self) -> list[str]:
        """Return the elections that nobody wins any more."""
        was = self.crew.terms_of(self.paths[0])
        if self.goes_on(lambda: self.crew.terms_of(self.paths[0]) > was):
            return []
        return [f"nobody has led {self.paths[0]} for {self.patience:.1f} s: {quietly(self._line) or 'no line'}"]

    def _line(self) -> str:
        """Return who stands in which order, for people: by which znode, of which session, and whether its worker's."""
        text: list[str] = []
        parent = f"{self.paths[0]}/candidates"
        workers = {session[0]: worker for worker, session in self.crew.sessions.items() if session}
        for name in znodes.line(self.ask(self.direct.get_children_async(parent))):
            data, stat = self.ask(self.direct.get_async(f"{parent}/{name}"))
            whose = workers.get(stat.ephemeralOwner, f"{stat.ephemeralOwner:#x}, nobody's now")
            age = time.time() - stat.ctime / 1000
            text.append(
                f"{name} {records.candidate_identity(data)} (session of {whose}, {stat.czxid:#x}, {age:.1f} s old)"
            )
        return "; ".join(text)

    def _followed(self, term: Term, seconds: float) -> bool:
        """Wait until another term of the same election has begun; return whether it did."""
        was = self.crew.terms_of(term.path)
        return self.crew.follow(lambda: self.crew.terms_of(term.path) > was, seconds)

    def _victim(self, *, least: float = 0.4, most: float = 9.0, at_a_follower: bool = False) -> Term | None:
        """Wait for somebody who leads, and would for a good while; it is a matter of chance in which election."""
        found: list[Term] = []
        first = self.chance.random() < 0.4

        def look() -> bool:
            found[:] = [
                term
                for term in self.crew.terms.values()
                if least * self.timeout < term.left < most * self.timeout
                and self.crew.member(term.worker) is not None
                and (term.path == self.paths[0] or not first)
                and not (at_a_follower and self._follower(term) is None)
            ]
            return bool(found)

        self.crew.follow(look, 4.0)
        return self.chance.choice(found) if found else None

    def _follower(self, term: Term) -> str | None:
        """Return the node that serves a leader, if that is a follower."""
        node = self.wired.node_at.get(term.node, "")
        return node if node and self.wired.mode(node) == "follower" else None

    # -- faults of workers

    def pause_leader(self) -> bool:
        """For longer than its session lives: another leads when it wakes."""
        term = self._victim()
        return term is not None and self.pause(term.worker, 1.5 * self.timeout)

    def kill_leader(self) -> bool:
        term = self._victim()
        if term is None or not self.kill(term.worker):
            return False
        return self._must_follow(term)

    def expire_leader(self) -> bool:
        term = self._victim()
        return term is not None and self.expire(term.worker)

    def forget_session(self) -> bool:
        return self.forget(self.chance.choice(self.crew.alive()))

    def requests_lost(self) -> bool:
        """One way: what the servers send still comes."""
        term = self._victim()
        return term is not None and self.cut(term.worker, 1.3 * self.timeout, requests=True, replies=False)

    def replies_lost(self) -> bool:
        term = self._victim()
        return term is not None and self.cut(term.worker, 1.3 * self.timeout, requests=False, replies=True)

    def blip(self) -> bool:
        """Reset every connection of a worker: its session lives on."""
        return self.cables.hang_up(place(self.chance.choice(self.crew.alive()))) > 0

    def pause_in_line(self) -> bool:
        """Stop who stands behind a leader until its place has gone with its session, and another leads for long."""
        term = self._victim(least=0.3, most=0.7)  # it resigns before the session of who is stopped ends
        second = None if term is None else quietly(lambda: self._second(term.path))
        if term is None or second is None or second[1] == term.worker or self.crew.member(second[1]) is None:
            return False
        node, worker = second
        member = self.crew.member(worker)
        assert member is not None
        member.send(signal.SIGSTOP)
        try:
            self.crew.follow(lambda: quietly(lambda: self.ask(self.direct.exists_async(node))) is None, self.patience)
            found = self.crew.follow(lambda: self._left(term.path) > 0.6 * self.timeout, 3 * self.timeout)
        finally:
            member.send(signal.SIGCONT)
        self.wait(0.5 * self.timeout)
        return found

    def _left(self, path: str) -> float:
        term = self.crew.terms.get(path)
        return term.left if term is not None else 0.0

    def _second(self, path: str) -> tuple[str, str] | None:
        """Return the znode of who is second in line, and which worker that is."""
        line = znodes.line(self.ask(self.direct.get_children_async(f"{path}/candidates")))
        if len(line) < 2:
            return None
        node = f"{path}/candidates/{line[1]}"
        return node, records.candidate_identity(self.ask(self.direct.get_async(node))[0]).partition("/")[0]

    def late_answer(self) -> bool:
        """Stop a worker between the answer to its take-over and its use, and cut its server off: the lease counts from
        when it asked, so when it goes on it has next to nothing left, or nothing, and another leads soon.
        """
        served = [each for each in self.crew.members if self._serving(each.plan.name) is not None]
        member = self.chance.choice(served or self.crew.members)
        if not self.crew.stops(member, signal.SIGUSR2, 4.0):
            return False
        began, path = now(), self.crew.stopped_at
        was = self.crew.terms_of(path)
        try:
            node = self._serving(member.plan.name)
            if node is not None:
                self.cables.stop(*self.wired.around(node))
                self.wait(self.chance.uniform(0.55, 0.9) * self.timeout - (now() - began))
        finally:
            member.send(signal.SIGCONT)
        if node is None:
            return False
        others = {each.plan.name for each in self.crew.members} - {member.plan.name}
        followed = self.crew.follow(lambda: not others.isdisjoint(self.crew.led.get(path, [])[was:]), GHOST)
        self.wait(0.2 * self.timeout)
        self.cables.heal()
        return followed

    def _serving(self, worker: str) -> str | None:
        """Return the follower that serves a worker, if it is one."""
        session = self.crew.sessions.get(worker)
        for name, node in self.wired.nodes.items():
            if session and f"sid={session[0]:#x}" in ask(node.host, node.port, b"cons").decode(errors="replace"):
                return name if self.wired.mode(name) == "follower" else None
        return None

    # -- faults of the ensemble

    def follower_cut_off(self) -> bool:
        """Cut the server of a leader off from the others, in one direction or in both: the ghost leader."""
        term = self._victim(at_a_follower=True)
        node = None if term is None else self._follower(term)
        if term is None or node is None:
            return False
        around = self.wired.around(node)
        out, into = [way for way in around if way[0] == node], [way for way in around if way[1] == node]
        ways = self.chance.choice([around, around, out, into])
        self.cables.stop(*ways)
        followed = self._followed(term, GHOST)
        ghost = followed and self.wired.mode(node) == "follower"  # it served the old leader when the new one led
        self.wait(0.2 * self.timeout)
        self.cables.heal()
        return ghost

    # -- faults of what is stored

    def znode_deleted(self) -> bool:
        """Depose a leader by hand."""
        return self._by_hand(lambda path, reign, do: do.delete(f"{path}/candidates/{reign.candidate}"))

    def first_two_deleted(self) -> bool:
        """Depose a leader and remove who stands next, at once: the place from which that one would lead is gone."""

        def both(path: str, reign: Reign, do: Any) -> None:
            line = znodes.line(self.ask(self.direct.get_children_async(f"{path}/candidates")))
            if len(line) > 1 and line[0] == reign.candidate:
                do.delete(f"{path}/candidates/{line[0]}")
                do.delete(f"{path}/candidates/{line[1]}")

        return self._by_hand(both)

    def name_made_again(self) -> bool:
        """Depose a leader, and put another's znode under the very same name for a while."""

        def again(path: str, reign: Reign, do: Any) -> None:
            do.delete(f"{path}/candidates/{reign.candidate}")
            do.create(f"{path}/candidates/{reign.candidate}", b'{"v": 1, "identity": "a hand"}', ephemeral=True)
            names.append(f"{path}/candidates/{reign.candidate}")

        names: list[str] = []
        hit = self._by_hand(again)
        self.wait(0.3 * self.timeout)
        if hit:
            quietly(lambda: self.ask(self.direct.delete_async(names[-1])))
        return hit

    def parent_deleted(self) -> bool:
        """Delete the line while many come and go, now and then the epoch record as well: numbers begin anew."""

        def all_of_it(path: str, reign: Reign, do: Any) -> None:
            del reign
            for child in self.ask(self.direct.get_children_async(f"{path}/candidates")):
                do.delete(f"{path}/candidates/{child}")
            do.delete(f"{path}/candidates")
            if with_epoch:
                do.delete(f"{path}/epoch")

        with_epoch = self.chance.random() < 0.5
        return self._by_hand(all_of_it)

    def _by_hand(self, change: Callable[[str, Reign, Any], None]) -> bool:
        """Do something about an election in one transaction, if the same still leads; write down whom that deposes."""
        term = self._victim()
        ends = now() + 3.0
        while term is not None and now() < ends:
            if quietly(lambda: self._changed(term.path, change)):
                return True
            self.crew.follow(lambda: False, 0.0)
        return False

    def _changed(self, path: str, change: Callable[[str, Reign, Any], None]) -> bool:
        began = now()
        reign = self._reign(path)
        transaction = self.direct.transaction()
        transaction.check(f"{path}/epoch", reign.version)
        change(path, reign, transaction)
        if len(transaction.operations) == 1:
            return False
        done = self.ask(transaction.commit_async())
        if any(isinstance(each, Exception) for each in done):
            return False
        self.recorder.note("faults", "deposed", since=began, name=path, token=reign.token)
        return True

    def _reign(self, path: str) -> Reign:
        text, stat = self.ask(self.direct.get_async(f"{path}/epoch"))
        return Reign(stat.mzxid, stat.version, json.loads(text)["candidate"])

    def _must_follow(self, term: Term) -> bool:
        if self.crew.terms.get(term.path, term).token == term.token and not self._followed(term, self.patience):
            self.found.append(f"nobody succeeded {term.worker}, who was killed, at {term.path}")
        return True


def orphans(weather: Weather) -> list[str]:
    """Return the candidates that still stand when nobody does (P6)."""
    ends = now() + 2 * weather.timeout + scaled(10.0)
    left: list[str] = []
    while now() < ends:
        left = []
        for path in weather.paths:
            left += [f"{path}/{name}" for name in quietly(lambda path=path: _children(weather, path)) or []]
        if not left:
            break
        weather.wait(0.02)
    return [f"orphans: {name} still stands" for name in left]


def _children(weather: Weather, path: str) -> list[str]:
    return list(weather.ask(weather.direct.get_children_async(f"{path}/candidates")))
