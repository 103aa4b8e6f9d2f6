"""Scene 3: a leader process is killed, a follower takes over with a higher token, and members see it leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient

from coordkit import Election, Group
from coordkit._kazoo import wire_of

if TYPE_CHECKING:
    from coordkit.demo.crew import Crew, Message, Worker
    from coordkit.demo.story import Stage
    from coordkit.demo.worker import Line

TITLE = "A leader is killed, and a follower takes over"

SESSION = 2.0  # seconds: asked for; a server may insist on more
_PATIENCE = 90.0  # seconds for a session to end: a server may be configured to wait for a minute


def work(line: Line) -> None:
    """Stand for leader as a member of the group, or watch both."""
    zk = KazooClient(hosts=line.arguments["hosts"], timeout=SESSION)
    patience: Any = 20.0  # kazoo says int, and takes a float
    zk.start(timeout=patience)
    if line.arguments["part"] == "watcher":
        _watch(line, zk)
    else:
        _stand(line, zk)
    zk.stop()
    zk.close()


def _stand(line: Line, zk: KazooClient) -> None:
    identity = line.arguments["identity"]
    with Group(zk, line.arguments["group"]).join(identity):
        line.report("joined")
        with Election(zk, line.arguments["election"], identity=identity) as leadership:
            line.report(
                "leads", identity=identity, token=int(leadership.token), session_timeout=wire_of(zk).session_timeout()
            )
            line.wait()
            leadership.ensure()
        line.report("resigned")
        line.wait()


def _watch(line: Line, zk: KazooClient) -> None:
    group = Group(zk, line.arguments["group"])
    election = Election(zk, line.arguments["election"], identity="watcher")

    def follow() -> None:
        for change in group.watch():
            line.report("change", members=sorted(change.members), left=sorted(change.left))

    threading.Thread(target=follow, daemon=True).start()
    while True:
        line.wait()
        leader = election.leader()
        line.report(
            "leader",
            identity=None if leader is None else leader.identity,
            token=None if leader is None else int(leader.token),
            contenders=election.contenders(),
        )


def play(stage: Stage) -> None:
    from coordkit.demo.crew import Crew  # a worker, which imports this file too, starts no workers

    shared = {
        "hosts": stage.servers.zookeeper().hosts,
        "election": f"/{stage.namespace}/leader",
        "group": f"/{stage.namespace}/members",
    }
    with Crew() as crew:
        watcher = crew.start("scene_3_takeover", "watcher", part="watcher", **shared)
        names = ("ada", "bob", "eve")
        team = {name: crew.start("scene_3_takeover", name, part="one", identity=name, **shared) for name in names}
        with stage.waiting("three processes join a group and stand for leader"):
            crew.hear_all("joined", list(team.values()))
            led = crew.hear("leads")
            _until_members(crew, watcher, set(names))
            _until_told(crew, watcher, lambda told: set(told["contenders"]) == set(names))
        stage.say(
            f"Three processes are members of a group and stand for leader: {', '.join(names)}. "
            f"{led['identity']} leads, with token {led['token']}."
        )
        next_led = _kill(stage, crew, watcher, team, led)
        _resign(stage, crew, team, next_led)


def _kill(stage: Stage, crew: Crew, watcher: Worker, team: dict[str, Worker], led: Message) -> Message:
    timeout = led["session_timeout"]
    stage.say(
        f"{led['identity']} is killed (SIGKILL). It cannot say good-bye: ZooKeeper has to wait for the end of its "
        f"session, whose timeout is {timeout:g} s."
    )
    killed = time.monotonic()
    crew.dismiss(team.pop(led["identity"]))
    with stage.waiting("the session of the killed leader runs out"):
        follower = crew.hear("leads", timeout=_PATIENCE)
        seen = _until_members(crew, watcher, set(team))
    took, noticed = follower.at - killed, seen.at - killed
    stage.figure(
        session_timeout_seconds=timeout,
        takeover_seconds=took,
        takeover_session_timeouts=took / timeout,
        seen_leaving_seconds=noticed,
        seen_leaving_session_timeouts=noticed / timeout,
        first_token=led["token"],
        second_token=follower["token"],
    )
    stage.say(f"{follower['identity']} leads after {took:.2f} s: {took / timeout:.2f} session timeouts.")
    stage.check(
        "another_leads",
        follower["identity"] in team and follower["token"] > led["token"],
        f"a follower leads, and its token {follower['token']} is greater than {led['token']}",
    )
    told = _until_told(crew, watcher, lambda told: told["identity"] == follower["identity"])
    stage.check(
        "all_agree",
        (told["identity"], told["token"]) == (follower["identity"], follower["token"])
        and sorted(told["contenders"]) == sorted(team),
        f"a process that only watches is told the same: {told['identity']}; in line: {', '.join(told['contenders'])}",
    )
    stage.check(
        "seen_leaving",
        seen["left"] == [led["identity"]],
        f"the members saw {led['identity']} leave after {noticed:.2f} s: {', '.join(seen['members'])} are left",
    )
    return follower


def _resign(stage: Stage, crew: Crew, team: dict[str, Worker], led: Message) -> None:
    stage.say(f"A leader that resigns keeps nobody waiting: {led['identity']} leaves its block.")
    began = time.monotonic()
    team[led["identity"]].tell(do="resign")
    follower = crew.hear("leads")
    took = follower.at - began
    stage.figure(handover_seconds=took, third_token=follower["token"])
    stage.check(
        "handed_over",
        follower["identity"] != led["identity"] and follower["token"] > led["token"],
        f"{follower['identity']} leads {took * 1000:.0f} ms later, with token {follower['token']}",
    )


def _until_told(crew: Crew, watcher: Worker, wanted: Callable[[Message], bool]) -> Message:
    """Ask the watcher who leads and who stands until that is as wanted; after 20 seconds return what it is."""
    deadline = time.monotonic() + 20.0
    while True:
        watcher.tell(do="look")
        told = crew.hear("leader", of=watcher)
        if wanted(told) or time.monotonic() >= deadline:
            return told


def _until_members(crew: Crew, watcher: Worker, expected: set[str]) -> Message:
    """Wait until the watcher has seen exactly these members."""
    while True:
        change = crew.hear("change", of=watcher, timeout=_PATIENCE)
        if set(change["members"]) == expected:
            return change
