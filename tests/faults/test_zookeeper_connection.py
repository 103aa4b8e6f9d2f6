"""One KazooClient in bad weather: a node that hangs, a host that is off, credentials given in operation, giving up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss

import coordkit
from coordkit._kazoo import wire_of
from coordkit.errors import StoreUnavailable
from coordkit.testing._process import free_ports
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.faults import Faults
from coordkit.testing.servers import ZooKeeperEnsemble, paused, scaled


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Give a way to make started clients of all kinds."""
    made: list[Any] = []

    def make(hosts: str, **options: Any) -> Any:
        made.append(KazooClient(hosts, randomize_hosts=False, **options))
        made[-1].start(scaled(20))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


# -- a node that hangs

TIMEOUT = 8.0
"""Seconds: what is asked every 1.2 s keeps kazoo from ever pinging where a ping is due after 2.3 s or more."""


def first_a_follower(ensemble: ZooKeeperEnsemble) -> tuple[Any, str]:
    """Return a node that does not lead the others, and hosts of which it is the first."""
    node = ensemble.followers()[0]
    others = [each for each in ensemble.nodes if each is not node]
    return node, ",".join(f"{each.host}:{each.port}" for each in (node, *others))


@pytest.mark.timeout(120)
async def test_whoever_leads_at_a_node_that_hangs_leads_again_at_another(
    flavour: Any, coordkit_zk_ensemble: ZooKeeperEnsemble, connect: Any, path: str
) -> None:
    """The lost term's znode is to be removed, which is asked again and again: kazoo takes that for pings."""
    node, hosts = first_a_follower(coordkit_zk_ensemble)
    zk, terms = connect(hosts, timeout=TIMEOUT), []
    election = flavour.Election(zk, path, identity="one")

    async def body(leadership: Any) -> None:
        terms.append(leadership)
        if len(terms) == 1:
            if flavour.is_async:
                await flavour.sleep(60)
            leadership.lost.wait(60)

    def serve(leadership: Any) -> Any:
        if flavour.is_async:
            return body(leadership)
        with pytest.raises(StopIteration):
            body(leadership).send(None)
        return None

    async def stand() -> None:
        await flavour.maybe(election.run(serve))

    running = flavour.spawn(stand)
    await flavour.until(lambda: terms)
    await flavour.renewed(terms[0])
    await flavour.sleep(TIMEOUT / 10)  # so that it hangs between two renewals, and the next one puts off kazoo's ping
    with paused(node):
        await flavour.until(lambda: len(terms) == 2, 4 * TIMEOUT)
        await running.result()
    assert terms[0].token < terms[1].token


@pytest.mark.timeout(120)
def test_what_the_program_itself_asks_does_not_keep_it_at_a_node_that_hangs(
    coordkit_zk_ensemble: ZooKeeperEnsemble, connect: Any
) -> None:
    node, hosts = first_a_follower(coordkit_zk_ensemble)
    zk = connect(hosts, timeout=TIMEOUT)
    at = wire_of(zk)
    with paused(node):
        until = time.monotonic() + scaled(4 * TIMEOUT)
        asked = zk.get_async("/")
        while at.near is None or at.near[2] == node.port:
            assert time.monotonic() < until, "it waits there for ever"
            time.sleep(0.5)
            if zk.connected:
                zk.get_async("/")
        with pytest.raises(ConnectionLoss):
            asked.get(timeout=scaled(20))


# -- a host that is off


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Give an address that answers no attempt to connect, as a machine that is off."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        for each in waiting:
            each.close()


def test_a_host_that_is_off_does_not_cost_the_session(
    coordkit_zk_server: ZooKeeperEnsemble, connect: Any, nowhere: str
) -> None:
    """kazoo waits there for as long as the session lasts."""
    zk = connect(f"{nowhere},{coordkit_zk_server.hosts}", timeout=4.0)
    wire_of(zk)
    session = zk.client_id[0]
    states: list[str] = []
    zk.add_listener(states.append)
    zk._connection._socket.shutdown(socket.SHUT_RDWR)
    until = time.monotonic() + scaled(20)
    while "CONNECTED" not in states and time.monotonic() < until:
        time.sleep(0.01)
    assert states == ["SUSPENDED", "CONNECTED"]
    assert zk.client_id[0] == session


# -- credentials in operation


async def test_credentials_may_be_given_while_others_ask(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """They are answered out of turn, and kazoo gives that to another, who takes it for a success."""
    zk = zk_client(timeout=20.0, hosts=coordkit_faults.proxy(coordkit_zk_server).address)
    states: list[str] = []
    zk.add_listener(states.append)
    async with flavour.within(flavour.Election(zk, path, identity="one")) as leadership:
        for number in range(20):
            data = str(number).encode()
            writing = [zk.set_async(f"{path}/candidates", data) for _ in range(5)]
            given = zk.add_auth_async("digest", f"user-{number}:secret")
            await flavour.maybe(leadership.verify())
            assert given.get(timeout=scaled(20)) is True
            versions = [each.get(timeout=scaled(20)).version for each in writing]
            assert versions == list(range(versions[0], versions[0] + 5))
    assert states == []


# -- watches of the program's own


async def test_a_watch_that_the_program_hangs_up_meanwhile_is_left(
    flavour: Any, zk_client: Any, path: str, coordkit_faults: Faults, coordkit_zk_server: ZooKeeperEnsemble
) -> None:
    """Ours on the same znode is taken back while the program's is on its way: the server knows no difference."""
    proxy = coordkit_faults.proxy(coordkit_zk_server)
    direct, zk = zk_client(), zk_client(timeout=20.0, hosts=proxy.address)
    async with flavour.within(flavour.Election(direct, path, identity="one")):
        pass
    async with flavour.within(flavour.Election(zk, path, identity="x").observe()) as views:
        assert await flavour.maybe(views.next(scaled(10)))
    heard: list[Any] = []
    proxy.latency = 0.1
    asked = zk.get_async(f"{path}/epoch", heard.append)
    wire_of(zk).sweep()  # as a second after the stream was closed
    asked.get(timeout=scaled(20))
    zk.sync(path)
    direct.set(f"{path}/epoch", b"")
    await flavour.until(lambda: heard)


# -- giving up


async def test_a_client_that_has_given_up_says_so_and_can_be_started_anew(
    flavour: Any, coordkit_zk_server: ZooKeeperEnsemble, path: str
) -> None:
    [port] = free_ports(1)
    zk = KazooClient(f"127.0.0.1:{port}", timeout=4.0, connection_retry={"max_tries": 1})
    election = flavour.Election(zk, path, identity="one")
    try:
        with pytest.raises(StoreUnavailable, match=r"not running: call its start\(\)"):
            await flavour.maybe(election.leader())
        zk.start_async()
        await flavour.until(zk._connection.connection_stopped.is_set)
        with pytest.raises(StoreUnavailable, match=r"not running: it gave up, .*connection_retry.*start\(\) again"):
            await flavour.maybe(election.leader())
        zk.set_hosts(coordkit_zk_server.hosts)
        zk.start(scaled(20))
        assert await flavour.maybe(election.leader()) is None
    finally:
        close_kazoo(zk)


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_client_whose_thread_has_ended_says_so(
    coordkit_zk_server: ZooKeeperEnsemble, connect: Any, path: str
) -> None:
    zk = connect(coordkit_zk_server.hosts, timeout=4.0)
    election = coordkit.Election(zk, path, identity="one")

    def ends(*_: Any) -> None:
        raise SystemExit

    send, zk._connection._send_request = zk._connection._send_request, ends
    zk.get_async("/")
    assert zk._connection.connection_stopped.wait(scaled(20))
    with pytest.raises(StoreUnavailable, match=r"its connection thread ended, see its log: call its start\(\) again"):
        election.leader()
    zk._connection._send_request = send
    zk.start(scaled(20))
    assert election.leader() is None
