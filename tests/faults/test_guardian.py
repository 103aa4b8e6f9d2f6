"""A guardian ends the session of a process that dies or hangs, and only of that."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from programs import alive, gone

from coordkit.errors import CoordError, LeadershipLost
from coordkit.testing.faults import Faults
from coordkit.testing.servers import scaled

SOON = 5.0
"""Seconds within which another leads: the sessions of the programs would last 15 to 20 by themselves."""

HANG = 4.0
"""Seconds after which a process of ours that should live counts as hung: a busy machine stops one for a second."""

GUARDED = """
async def main():
    async with flavour.within(flavour.Guardian(zk, hang={hang})) as guardian:
        say(guardian.pid)
        async with flavour.within(flavour.Election(zk, path, identity="process")) as leadership:
            say("leads")
            {body}

flavour.run(main())
"""


def guarded(body: str = "await flavour.sleep(60)", hang: float = 30.0) -> str:
    return GUARDED.format(body=body, hang=hang)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


async def succeeds(flavour: Any, zk: Any, path: str, within: float = SOON) -> None:
    """Lead after the program."""
    async with flavour.within(flavour.Election(zk, path, identity="successor").lead(timeout=scaled(within))):
        pass


async def test_a_killed_leader_is_replaced_at_once(flavour: Any, program: Any, zk_client: Any, path: str) -> None:
    """Without one the next leader waits for three quarters of the session timeout, or all of it."""
    leading = program(guarded())
    companion = int(leading.line())
    assert leading.line() == "leads"
    leading.kill(signal.SIGKILL)
    await succeeds(flavour, zk_client(), path)
    assert gone(companion)


async def test_a_stopped_leader_is_replaced_after_the_time_said(
    flavour: Any, program: Any, zk_client: Any, path: str
) -> None:
    body = """
            try:
                while True:
                    await flavour.sleep(0.01)
                    leadership.ensure()
            finally:
                say("lost")
    """
    leading = program(guarded(body.strip(), hang=0.5))
    companion = int(leading.line())
    assert leading.line() == "leads"
    leading.kill(signal.SIGSTOP)
    await succeeds(flavour, zk_client(), path)
    assert gone(companion)
    leading.kill(signal.SIGCONT)
    assert leading.line() == "lost"
    assert "LeadershipLost" in leading.ended()[1]


async def test_a_blocked_loop_is_a_hang(flavour: Any, program: Any, zk_client: Any, path: str) -> None:
    """Under threads the beats come from a thread of their own: there a blocked body is its own affair."""
    leading = program(guarded("heard(); time.sleep(4); heard()", hang=1.0))
    companion = int(leading.line())
    assert leading.line() == "leads"
    leading.tell()
    if flavour.is_async:
        await succeeds(flavour, zk_client(), path)
    else:
        time.sleep(2.5)  # noqa: ASYNC251  more than twice what would be a hang
        assert alive(companion)
        leading.tell()
        assert leading.ended()[0] == 0


async def test_it_follows_to_a_new_session(flavour: Any, program: Any, zk_client: Any, path: str) -> None:
    text = """
    from coordkit.testing.faults import kill_session

    async def main():
        async with flavour.within(flavour.Guardian(zk, hang=30.0)):
            before = zk.client_id
            kill_session(zk)
            await flavour.until(lambda: zk.connected and zk.client_id[0] != before[0], 20)
            async with flavour.within(flavour.Election(zk, path, identity="process")) as leadership:
                say("leads")
                heard()

    flavour.run(main())
    """
    leading = program(text)
    assert leading.line() == "leads"
    leading.kill()
    await succeeds(flavour, zk_client(), path)


async def test_a_client_may_be_started_inside(flavour: Any, program: Any, zk_client: Any, path: str) -> None:
    text = """
    zk.stop()

    async def main():
        async with flavour.within(flavour.Guardian(zk, hang=30.0)):
            zk.start(20)
            async with flavour.within(flavour.Election(zk, path, identity="process")) as leadership:
                say("leads")
                await flavour.sleep(60)

    flavour.run(main())
    """
    leading = program(text)
    assert leading.line() == "leads"
    leading.kill()
    await succeeds(flavour, zk_client(), path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
async def test_a_guardian_that_fails_ends_what_is_led(flavour: Any, zk_client: Any, path: str, number: int) -> None:
    """And another is there before one can lead again."""
    zk = zk_client(timeout=20.0)
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(flavour.Guardian(zk, hang=HANG)) as guardian:
        session, first = zk.client_id, guardian.pid
        with pytest.raises(LeadershipLost, match="guardian"):
            async with flavour.within(election) as leadership:
                os.kill(guardian.pid, number)
                assert await flavour.maybe(leadership.lost.wait(scaled(10)))
                leadership.ensure()
        assert gone(first)
        async with flavour.within(election.lead(timeout=scaled(20))) as again:
            assert again.ensure()
            assert guardian.pid != first
            assert alive(guardian.pid)
        second = guardian.pid
    assert gone(second)
    assert zk.client_id == session


async def test_without_another_guardian_nothing_is_led(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zk = zk_client(timeout=2.0)
    election = flavour.Election(zk, path, identity="one")
    async with flavour.within(flavour.Guardian(zk, hang=HANG)) as guardian:
        with pytest.raises(LeadershipLost, match="guardian"):
            async with flavour.within(election) as leadership:
                monkeypatch.setattr("sys.executable", "/no/such/python")
                os.kill(guardian.pid, signal.SIGKILL)
                assert await flavour.maybe(leadership.lost.wait(scaled(10)))
                leadership.ensure()
        with pytest.raises(CoordError, match="guardian"):
            async with flavour.within(election.lead(timeout=0.3)):
                pytest.fail("it leads without a guardian")
        monkeypatch.undo()
        async with flavour.within(election.lead(timeout=scaled(20))) as again:
            assert again.ensure()


async def test_a_moment_without_descriptors_or_threads_is_over_when_it_is(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The companion died in that moment, no other was ever started, and nothing was led again."""
    zk = zk_client(timeout=20.0)
    election = flavour.Election(zk, path, identity="one")
    failed: list[str] = []

    def none(*_: Any) -> Any:
        failed.append("no descriptors")
        raise OSError(24, "Too many open files")

    def no_threads(_: Any) -> None:
        failed.append("no threads")
        raise RuntimeError("can't start new thread")

    async with flavour.within(flavour.Guardian(zk, hang=HANG)) as guardian:
        monkeypatch.setattr("coordkit._guardian.socket.socketpair", none)
        worker = type(guardian._guard._replacer)
        if not flavour.is_async:  # a worker of a loop is a task
            monkeypatch.setattr(worker, "poke", no_threads)
        os.kill(guardian.pid, signal.SIGKILL)
        await flavour.until(lambda: failed)
        if not flavour.is_async:
            monkeypatch.undo()
            monkeypatch.setattr("coordkit._guardian.socket.socketpair", none)
        await flavour.until(lambda: failed.count("no descriptors") > 1)
        monkeypatch.undo()
        async with flavour.within(election.lead(timeout=scaled(20))) as leadership:
            assert leadership.ensure()
            assert alive(guardian.pid)


async def test_a_program_that_is_no_interpreter_names_one(
    flavour: Any, zk_client: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, zk = sys.executable, zk_client()
    monkeypatch.setattr("sys.frozen", True, raising=False)
    with pytest.raises(CoordError, match="python="):
        async with flavour.within(flavour.Guardian(zk)):
            pytest.fail("entered")
    async with flavour.within(flavour.Guardian(zk, python=python)) as guardian:
        assert alive(guardian.pid)
    for wrong, kind in ((3, TypeError), ("", ValueError)):
        with pytest.raises(kind, match="python must"):
            flavour.Guardian(zk, python=wrong)


async def test_one_that_cannot_be_started_is_an_error(
    flavour: Any, zk_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    zk = zk_client()
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(CoordError, match="cannot be started"):
        async with flavour.within(flavour.Guardian(zk)):
            pytest.fail("entered")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CoordError, match="status"):
        async with flavour.within(flavour.Guardian(zk)):
            pytest.fail("entered")
    monkeypatch.undo()
    async with flavour.within(flavour.Guardian(zk)):
        pass


async def test_leaving_it_leaves_the_session_and_no_process(flavour: Any, zk_client: Any, path: str) -> None:
    zk = zk_client()
    guardian = flavour.Guardian(zk, hang=HANG)
    for _ in range(3):
        async with flavour.within(guardian):
            session, companion = zk.client_id, guardian.pid
            async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
                await flavour.maybe(leadership.verify())
        with pytest.raises(ProcessLookupError):
            os.kill(companion, 0)  # not even a zombie
        assert zk.client_id == session
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            await flavour.maybe(leadership.verify())


async def test_it_serves_groups_as_well(flavour: Any, program: Any, zk_client: Any, path: str) -> None:
    text = """
    async def main():
        async with flavour.within(flavour.Guardian(zk, hang=30.0)):
            async with flavour.within(flavour.Group(zk, path).join("process")):
                say("joined")
                await flavour.sleep(60)

    flavour.run(main())
    """
    member, zk = program(text), zk_client()
    assert member.line() == "joined"
    assert zk.get_children(path) == ["process"]
    member.kill()
    await flavour.until(lambda: zk.get_children(path) == [], SOON)


def open_in(pid: int) -> list[str]:
    """Return what a process has open, by kind."""
    return sorted(str(each.readlink()).partition(":")[0] for each in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc shows what a process has open")
async def test_it_inherits_nothing(flavour: Any, zk_client: Any, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        async with flavour.within(flavour.Guardian(zk_client())) as guardian:
            there = open_in(guardian.pid)
    assert there in (
        ["/dev/null", "/dev/null", "anon_inode", "socket"],
        ["/dev/null", "/dev/null", "socket"],  # where no pidfd is to be had
    )


async def test_a_client_has_one_guardian(flavour: Any, zk_client: Any) -> None:
    zk = zk_client()
    async with flavour.within(flavour.Guardian(zk)) as guardian:
        for second in (flavour.Guardian(zk), guardian):
            with pytest.raises(CoordError, match="uardian"):
                async with flavour.within(second):
                    pytest.fail("two guardians")
        assert alive(guardian.pid)
        async with flavour.within(flavour.Guardian(zk_client())) as other:
            assert other.pid != guardian.pid


async def test_the_terminals_signals_are_not_for_the_companion(flavour: Any, program: Any, path: str) -> None:
    body = """
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            say("ready")
            heard()
            await flavour.maybe(leadership.verify())
    """
    leading = program(guarded(body.strip()))
    companion = int(leading.line())
    assert (leading.line(), leading.line()) == ("leads", "ready")
    os.killpg(leading.pid, signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(companion, number)
    await flavour.sleep(0.5)
    assert alive(companion)
    leading.tell()
    assert leading.ended()[0] == 0
    assert gone(companion)


async def test_a_forked_child_neither_ends_nor_keeps_the_session(
    flavour: Any, program: Any, zk_client: Any, path: str
) -> None:
    body = """
            if not os.fork():
                sys.exit(0)  # leaves the blocks
            os.wait()
            await flavour.maybe(leadership.verify())
            child = os.fork()
            if not child:
                time.sleep(60)
            say(child)
            await flavour.sleep(60)
    """
    leading = program(guarded(body.strip()))
    companion = int(leading.line())
    assert leading.line() == "leads"
    child = int(leading.line())
    assert alive(companion)
    leading.kill()
    await succeeds(flavour, zk_client(), path)
    assert alive(child)
    os.kill(child, signal.SIGKILL)


async def test_it_finds_the_server_that_serves(
    flavour: Any, program: Any, zk_client: Any, path: str, coordkit_zk_server: Any, coordkit_faults: Faults
) -> None:
    """Others in the list are down, or say nothing."""
    silent = coordkit_faults.proxy(coordkit_zk_server)
    silent.hold = True
    working = coordkit_faults.proxy(coordkit_zk_server)
    leading = program(guarded(), hosts=f"127.0.0.1:1,{working.address},{silent.address}", timeout=40.0)
    leading.line()
    assert leading.line() == "leads"
    working.refuse = True  # what it was at is down for newcomers: all that is left is to ask again
    leading.kill()
    working.refuse = False
    await succeeds(flavour, zk_client(), path, within=20.0)


@pytest.mark.parametrize("hang", [0, 0.05, -1, float("nan"), "2", True])
def test_a_hang_that_is_none(flavour: Any, zk_client: Any, hang: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="hang"):
        flavour.Guardian(zk_client(), hang=hang)
