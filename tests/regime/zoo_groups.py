"""The weather of W7: what is done to members, to watchers, and to the group itself."""

from __future__ import annotations

from itertools import count
from typing import Any

from kazoo.exceptions import NodeExistsError, NoNodeError
from regime.history import now
from regime.weather import NO_ANSWER, Weather, quietly
from regime.zoo_crew import place

from coordkit.core import znodes
from coordkit.testing.servers import scaled

CANARY = "canary"


class GroupWeather(Weather):
    """Hurts a group; a member of its own, which it changes, tells whether the streams still flow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sung = count(1)
        self._path = self.paths[0]
        self._song = ""

    def stuck(self) -> list[str]:
        """Return whose view does not come to show the canary and all residents, within a bound."""
        self._sing()
        wanted = {place(worker) for worker in self.crew.alive()}
        if self.goes_on(lambda: not self._behind(wanted)):
            return []
        return [f"{worker} does not see {what} for {self.patience:.1f} s" for worker, what in self._behind(wanted)]

    def _sing(self) -> None:
        """Change the canary; it is made anew where it is not there."""
        song, ends = f"{next(self._sung):06}", now() + self.patience
        self.recorder.note("faults", "canary", identity=CANARY, data=song)
        node = f"{self._path}/{CANARY}"
        while now() < ends:
            try:
                self.ask(self.direct.set_async(node, song.encode()))
            except NoNodeError:
                try:
                    self.ask(self.direct.create_async(node, song.encode(), ephemeral=True))
                except NoNodeError:
                    self.wait(0.02)
                    continue
                except NodeExistsError:
                    continue
            except NO_ANSWER:
                self.wait(0.05)
                continue
            self._song = song
            return

    def _behind(self, residents: set[str]) -> list[tuple[str, str]]:
        behind: list[tuple[str, str]] = []
        for worker in self.crew.alive():
            view = self.crew.views.get(worker, {})
            if view.get(CANARY) != self._song:
                behind.append((worker, f"canary {self._song}"))
            behind += [(worker, f"member {each}") for each in sorted(residents - view.keys())]
        return behind

    def _anybody(self) -> str:
        return str(self.chance.choice(self.crew.alive()))

    # -- faults of workers

    def pause_member(self) -> bool:
        return self.pause(self._anybody(), 1.5 * self.timeout)

    def kill_member(self) -> bool:
        """Kill a worker; every second time it is not replaced before the servers have noticed."""
        worker = self._anybody()

        def wait_for_its_end() -> None:
            bound = self.timeout + scaled(5.0)
            if not self.crew.follow(lambda: place(worker) not in (quietly(self.truth) or {place(worker)}), bound):
                self.found.append(f"ghosts: {worker} was killed, and is a member after {bound:.1f} s")

        return self.kill(worker, before_the_next=wait_for_its_end if self.fired["kill_member"] % 2 else lambda: None)

    def expire_member(self) -> bool:
        return self.expire(self._anybody())

    def watcher_cut_off(self) -> bool:
        """For a moment, or for longer than its session lives."""
        seconds = self.chance.choice([0.4, 1.4]) * self.timeout
        return self.cut(self._anybody(), seconds, requests=True, replies=self.chance.random() < 0.5)

    def blip(self) -> bool:
        """Reset every connection of a worker: nobody may see it leave, and its znode stays the same."""
        worker = self._anybody()
        before, began = self._node(worker), now()
        if before is None or not self.cables.hang_up(place(worker)):
            return False
        self._sing()  # who sees this is connected again
        seen = self.crew.follow(lambda: self.crew.views.get(worker, {}).get(CANARY) == self._song, self.patience)
        self.wait(0.1)
        after = self._node(worker)
        if not (seen and after is not None and after.ephemeralOwner == before.ephemeralOwner):
            return False
        if after.czxid != before.czxid:
            self.found.append(f"flaps: {worker} was made anew after a mere reconnect")
        self.recorder.note("faults", "calm", since=began, identity=place(worker), why="a reconnect")
        return True

    def forget_session(self) -> bool:
        """A new session finds the znode of the old one, which still lives: nobody sees the member leave."""
        worker = self._anybody()
        before, began = self._node(worker), now()
        if before is None or not self.forget(worker):
            return False

        def replaced() -> bool:
            after = self._node(worker)
            return after is not None and after.ephemeralOwner != before.ephemeralOwner

        connected = now()
        done = self.crew.follow(replaced, self.patience)
        self.wait(max(0.0, began + 1.5 * self.timeout - now()))  # the old session ends
        # A machine so busy that the session may have ended before the znode could be replaced tells nothing.
        busy = not connected < self.crew.heard.get(worker, 0.0)
        if done and not busy and connected - began < 0.3 * self.timeout:
            self.recorder.note("faults", "calm", since=began, identity=place(worker), why="a new session")
        return done

    # -- faults of what is stored

    def znode_deleted(self) -> bool:
        """Remove a member by hand: it comes back."""
        node = f"{self._path}/{place(self._anybody())}"
        before = quietly(lambda: self.ask(self.direct.exists_async(node)))
        return before is not None and quietly(lambda: self.ask(self.direct.delete_async(node))) is not None

    def parent_deleted(self) -> bool:
        """Delete the group while many come and go."""
        ends = now() + 3.0
        while now() < ends:
            transaction = self.direct.transaction()
            for name in quietly(lambda: self.ask(self.direct.get_children_async(self._path))) or []:
                transaction.delete(f"{self._path}/{name}")
            transaction.delete(self._path)
            done = quietly(lambda: self.ask(transaction.commit_async()))  # noqa: B023  called at once
            if done and not any(isinstance(each, Exception) for each in done):
                return True
        return False

    # -- what the servers say

    def truth(self) -> dict[str, str]:
        """Return the members as the servers have them."""
        try:
            names = self.ask(self.direct.get_children_async(self._path))
        except NoNodeError:
            return {}
        names = [name for name in names if znodes.may_be_member(name)]
        answers = [self.direct.get_async(f"{self._path}/{name}") for name in names]
        found: dict[str, str] = {}
        for name, answer in zip(names, answers, strict=True):
            try:
                data, stat = self.ask(answer)
            except NoNodeError:
                continue
            if stat.ephemeralOwner:
                found[name] = data.decode()
        return found

    def _node(self, worker: str) -> Any:
        return quietly(lambda: self.ask(self.direct.exists_async(f"{self._path}/{place(worker)}")))


def not_converged(weather: GroupWeather) -> list[str]:
    """Return whose last view is not what the servers say, when nothing changes any more."""
    wrong: list[str] = []
    ends = now() + weather.patience
    while True:
        truth = quietly(weather.truth)
        wrong = []
        if truth is not None:
            for worker in weather.crew.alive():
                if place(worker) not in truth:
                    wrong.append(f"not_converged: {worker} is no member")
                if weather.crew.views.get(worker, {}) != truth:
                    wrong.append(f"not_converged: {worker} saw {weather.crew.views.get(worker)}, and there is {truth}")
        if now() >= ends and truth is None:
            weather.unhealthy.append("who is a member is not known: the servers do not answer")
        if (truth is not None and not wrong) or now() >= ends:
            return wrong
        weather.wait(0.05)
