"""The weather of W6 that cuts a leader's server off from its ensemble: ghosts, who cannot know that another leads."""

from __future__ import annotations

import signal

from regime.history import now
from regime.wired import GHOST
from regime.zoo_actors import CALM
from regime.zoo_crew import Term, place
from regime.zoo_elections import ElectionWeather


class GhostWeather(ElectionWeather):
    """Cuts followers off; clients that do not know of it go on to be served by them for a while."""

    def follower_cut_off(self) -> bool:
        """Cut the server of a leader off from the others, in one direction or in both: the ghost leader.

        Its session ends also where what it says is heard: a follower tells of its clients when it is asked.
        """
        self._spread()
        term = self._ghost()
        node = None if term is None else self._follower(term.worker)
        if term is None or node is None:
            return False
        around = self.wired.around(node)
        out, into = [way for way in around if way[0] == node], [way for way in around if way[1] == node]
        ways = self.chance.choice([around, around, out, into])
        self.cables.stop(*ways)
        self.recorder.note("faults", "cut off", node=node, ways=ways, victim=term)
        followed = self._followed(term, GHOST)
        served = followed and self.wired.mode(node) == "follower"  # it served the old leader when the new one led
        self.wait(0.2 * self.timeout)
        self.cables.heal()
        return served

    def late_answer(self) -> bool:
        """Stop a worker between the answer to its take-over and its use, and cut its server off: the lease counts from
        when it asked, so when it goes on it has next to nothing left, or nothing, and another leads soon.
        """
        self._spread()
        served = [each for each in self.crew.members if self._follower(each.plan.name) is not None]
        member = self.chance.choice(served or self.crew.members)
        if not self.crew.stops(member, signal.SIGUSR2, 4.0):
            return False
        began, path = now(), self.crew.stopped_at
        was = self.crew.terms_of(path)
        try:
            node = self._follower(member.plan.name)
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

    def _ghost(self) -> Term | None:
        """Return a leader that a follower serves, and that would lead for longer than its session lives: best one that
        writes next to nothing.

        A server that is cut off answers no ping that comes after a write. So whoever writes hears soon that its
        connection is of no use, whatever it believes of its lease.
        """
        return self._victim(
            least=1.5,
            may=lambda term: self._follower(term.worker) is not None,
            better=lambda term: self.crew.members[int(place(term.worker)[1:])].plan.work == CALM,
            busy=0.25,
        )

    def _follower(self, worker: str) -> str | None:
        """Return the node that serves a worker, if that is a follower."""
        nodes = self.cables.ends(place(worker))
        return nodes[-1] if nodes and self.wired.mode(nodes[-1]) == "follower" else None

    def _spread(self) -> None:
        """See to it that followers serve most workers: who lost its own goes elsewhere, at last all to the leader."""
        for _ in range(10):
            leader = self.wired.leader()
            there = [worker for worker in self.crew.alive() if leader in self.cables.ends(place(worker))]
            if len(there) <= len(self.crew.members) // 3:
                return
            self.cables.hang_up(place(self.chance.choice(there)), leader)
            self.wait(0.2 * self.timeout)
