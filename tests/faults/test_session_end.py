"""A session ends when its process does: at the end of the interpreter, of a block, on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

import coordkit
import coordkit.aio
from coordkit.errors import CoordError, LeadershipLost
from coordkit.testing.faults import Faults
from coordkit.testing.servers import ZooKeeperEnsemble, scaled

SOON = 5.0
"""Seconds within which another leads: the sessions of these programs would last 15 to 20 by themselves."""

LEADS = """
async def main():
    election = flavour.Election(zk, path, identity="process")
    await flavour.maybe(election.lead().{enter}())
    say("leads")
    {then}

flavour.run(main())
"""


def leads(then: str, flavour: Any) -> str:
    """Return a program that leads, in a block that is not left."""
    return LEADS.format(enter="__aenter__" if flavour.is_async else "__enter__", then=then)


async def succeeds(flavour: Any, zk: Any, path: str) -> float:
    """Lead after the program; return when."""
    async with flavour.within(flavour.Election(zk, path, identity="successor").lead(timeout=scaled(SOON))):
        return time.monotonic()


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


async def test_a_program_that_ends_gives_up_its_session(
    flavour: Any,
    program: Any,
    zk_client: Any,
    path: str,
) -> None:
    """With kazoo alone the next leader waits for the whole session timeout (K21)."""
    leading = program(leads("heard()", flavour))
    assert leading.line() == "leads"
    leading.tell()
    await succeeds(flavour, zk_client(), path)
    assert leading.ended()[0] == 0


async def test_a_program_that_fails_gives_up_its_session(
    flavour: Any,
    program: Any,
    zk_client: Any,
    path: str,
) -> None:
    leading = program(leads("raise ValueError('for the test')", flavour))
    assert leading.line() == "leads"
    await succeeds(flavour, zk_client(), path)
    status, errors = leading.ended()
    assert status == 1
    assert "ValueError: for the test\n" in errors


async def test_the_end_is_not_put_off_by_servers_that_do_not_answer(
    flavour: Any,
    program: Any,
    coordkit_faults: Faults,
    coordkit_zk_server: ZooKeeperEnsemble,
) -> None:
    proxy = coordkit_faults.proxy(coordkit_zk_server)
    leading = program(leads("heard()", flavour), hosts=proxy.address, timeout=40.0)
    assert leading.line() == "leads"
    proxy.drop_requests = proxy.drop_replies = True
    leading.tell()
    assert leading.ended(SOON)[0] == 0


async def test_a_program_that_stops_its_client_itself_is_not_disturbed(
    flavour: Any,
    program: Any,
    zk_client: Any,
    path: str,
) -> None:
    text = """
    import atexit
    atexit.register(lambda: (zk.stop(), zk.close(), say("stopped")))
    """
    leading = program(
        leads("heard()", flavour).replace("async def main", text.replace("\n    ", "\n") + "async def main")
    )
    assert leading.line() == "leads"
    leading.tell()
    await succeeds(flavour, zk_client(), path)
    assert leading.line() == "stopped"
    assert leading.ended()[0] == 0


async def test_a_forked_child_that_ends_closes_nothing(
    flavour: Any,
    program: Any,
    path: str,
) -> None:
    """It would end its parent's session."""
    text = """
    async def main():
        async with flavour.within(flavour.Election(zk, path, identity="process")) as leadership:
            child = os.fork()
            if not child:
                sys.exit(0)
            os.waitpid(child, 0)
            await flavour.maybe(leadership.verify())
            say("leads")
            heard()

    flavour.run(main())
    """
    leading = program(text)
    assert leading.line() == "leads"
    leading.tell()
    assert leading.ended()[0] == 0


SCOPE = """
async def main():
    async with flavour.within(flavour.SessionScope(zk)):
        try:
            async with flavour.within(flavour.Election(zk, path, identity="process")):
                say("leads")
                await flavour.sleep(60)
        finally:
            say("left")

flavour.run(main())
"""


async def test_sigterm_leaves_the_block_and_ends_the_session(
    flavour: Any,
    program: Any,
    zk_client: Any,
    path: str,
) -> None:
    leading = program(SCOPE)
    assert leading.line() == "leads"
    leading.kill(signal.SIGTERM)
    await succeeds(flavour, zk_client(), path)
    assert leading.line() == "left"
    status, errors = leading.ended()
    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in errors


async def test_leaving_a_scope_stops_the_client(flavour: Any, zk_client: Any, path: str) -> None:
    zk, before = zk_client(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(LeadershipLost, match="stopped"):
        async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
            async with flavour.within(flavour.SessionScope(zk)):
                assert signal.getsignal(signal.SIGTERM) != before
            await flavour.maybe(leadership.lost.wait(10))
            leadership.ensure()
    assert not zk.connected
    assert signal.getsignal(signal.SIGTERM) == before
    await flavour.until(zk._connection.connection_closed.is_set, 30)


async def test_a_scope_ends_in_time_though_servers_do_not_answer(
    flavour: Any, zk_client: Any, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    proxy = coordkit_faults.proxy(coordkit_zk_server)
    zk = zk_client(timeout=20.0, hosts=proxy.address)
    async with flavour.within(flavour.SessionScope(zk)):
        proxy.drop_requests = proxy.drop_replies = True
        began = time.monotonic()
    assert time.monotonic() - began < scaled(SOON)
    proxy.heal()  # what goes on in the background can end, before the fixture looks at it
    await flavour.until(zk._connection.connection_closed.is_set, 30)


async def test_a_scopes_own_error_wins(flavour: Any, zk_client: Any) -> None:
    with pytest.raises(ValueError, match="for the test"):
        async with flavour.within(flavour.SessionScope(zk_client())):
            raise ValueError("for the test")


async def test_a_cancellation_by_somebody_else_is_one(zk_client: Any) -> None:
    async def body() -> None:
        async with coordkit.aio.SessionScope(zk_client()):
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_signals_are_for_the_main_thread(zk_client: Any) -> None:
    zk, said = zk_client(), []

    def elsewhere() -> None:
        try:
            with coordkit.SessionScope(zk):
                pytest.fail("entered")
        except CoordError as error:
            said.append(str(error))
        with coordkit.SessionScope(zk, signals=()):
            said.append("entered")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(scaled(20))
    assert "main thread" in said[0]
    assert said[1:] == ["entered"]
    assert not zk.connected


def test_a_second_signal_does_not_interrupt_the_leaving(zk_client: Any) -> None:
    steps = []
    with pytest.raises(SystemExit) as left, coordkit.SessionScope(zk_client(), signals=[signal.SIGUSR1]):
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGUSR1)
            steps.append("left")
    assert left.value.code == 128 + signal.SIGUSR1
    assert steps == ["left"]


@pytest.mark.parametrize("signals", [15, "TERM", [signal.SIGKILL], [signal.SIGSTOP], [0], [-1], [True], ["TERM"]])
async def test_signals_that_are_none(flavour: Any, zk_client: Any, signals: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="signals"):
        flavour.SessionScope(zk_client(), signals=signals)


async def test_clients_that_are_none(flavour: Any) -> None:
    for kind in (flavour.SessionScope, flavour.Guardian):
        with pytest.raises(TypeError, match="zk must be"):
            kind("localhost:2181")
