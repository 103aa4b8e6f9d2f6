"""The weather of W6: what is done to leaders, to who stands behind them, and to what an election is made of."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from kazoo.exceptions import NoNodeError
from regime.history import now
from regime.weather import NO_ANSWER, Weather, quietly
from regime.zoo_crew import Term, place

from coordkit.core import records, znodes
from coordkit.testing.servers import scaled


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

    def _victim(
        self,
        *,
        least: float = 0.4,
        most: float = 9.0,
        may: Callable[[Term], bool] = lambda _: True,
        better: Callable[[Term], bool] = lambda _: True,
        busy: float = 0.4,
    ) -> Term | None:
        """Wait for somebody who leads, and would for a good while, and ``may`` be hurt; for a moment, for the best.

        Those lead the first election, by a chance of ``busy``; else they are ``better``.
        """
        found: list[Term] = []
        best = self._fenced if self.chance.random() < busy else better
        moment = now() + 2.0

        def look() -> bool:
            found[:] = [
                term
                for term in self.crew.terms.values()
                if least * self.timeout < term.left < most * self.timeout
                and self.crew.member(term.worker) is not None
                and (now() >= moment or best(term))
                and may(term)
            ]
            return bool(found)

        self.crew.follow(look, 4.0)
        return self.chance.choice(found) if found else None

    def _fenced(self, term: Term) -> bool:
        return term.path == self.paths[0]

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
    while True:
        try:
            left = [each for path in weather.paths for each in _children(weather, f"{path}/candidates")]
        except NO_ANSWER as error:
            if now() >= ends:
                weather.unhealthy.append(f"who still stands is not known: {error!r}")
                return []
        else:
            if not left or now() >= ends:
                return [f"orphans: {each} still stands" for each in left]
        weather.wait(0.02)


def _children(weather: Weather, parent: str) -> list[str]:
    with contextlib.suppress(NoNodeError):
        return [f"{parent}/{name}" for name in weather.ask(weather.direct.get_children_async(parent))]
    return []
