"""The workers of W6 and W7, followed by what they write: who leads for long, who saw what, which sessions they have."""

from __future__ import annotations

from typing import Any, NamedTuple

from regime.crew import Crew, Member
from regime.history import now


class Term(NamedTuple):
    """A term that is meant to last."""

    worker: str
    path: str
    token: int
    began: float
    hold: float

    @property
    def left(self) -> float:
        """Seconds that it would go on by itself."""
        return self.began + self.hold - now()


class Company(Crew):
    """What is known of the workers while they work."""

    every = 0.02

    def __init__(self, *args: Any, long: float, **kwargs: Any) -> None:
        self._long = long
        self.sessions: dict[str, list[Any]] = {}  # by worker: id and password
        self.terms: dict[str, Term] = {}  # by path: who leads for long now
        self.led: dict[str, list[str]] = {}  # by path: which worker led in each of its terms so far
        self.connected = 0  # how often workers have connected
        self.heard: dict[str, float] = {}  # by worker: when it last got something done
        self.stopped_at = ""  # the path at which a worker stopped itself
        self.views: dict[str, dict[str, str]] = {}  # by worker: what it saw last
        super().__init__(*args, **kwargs)

    def _hear(self, member: Member, said: dict[str, Any]) -> None:
        super()._hear(member, said)
        what = said.get("what")
        if said.get("holder"):
            self._led(said)
        elif what == "release" and self.terms.get(said["name"], _NONE).token == said["token"]:
            del self.terms[said["name"]]
        elif what == "stopping":
            self.stopped_at = said["path"]
        elif what == "session":
            self.sessions[said["actor"]] = said["session"]
            self.connected += 1
        elif what == "view":
            self.views[said["who"]] = said["members"]
        elif "id" in said and "who" in said and "token" in said:
            self.grants += 1  # a member has joined
            self.heard[said["who"].partition("/")[0]] = now()

    def _led(self, said: dict[str, Any]) -> None:
        path, worker = said["path"], said["who"].partition("/")[0]
        self.led.setdefault(path, []).append(worker)
        self.terms.pop(path, None)
        if said["hold"] >= self._long:
            self.terms[path] = Term(worker, path, said["token"], now(), said["hold"])

    def member(self, worker: str) -> Member | None:
        """Return the place in which a worker works, if it still does."""
        member = self.members[int(worker[1:].partition(".")[0])]
        return member if member.plan.name == worker and member.alive else None

    def terms_of(self, path: str) -> int:
        """Return how many terms of an election there were."""
        return len(self.led.get(path, ()))

    def alive(self) -> list[str]:
        return [member.plan.name for member in self.members if member.alive]


_NONE = Term("", "", 0, 0.0, 0.0)


def place(worker: str) -> str:
    """Return the name of a worker's place, which is also the name of its end of the cables."""
    return worker.partition(".")[0]
