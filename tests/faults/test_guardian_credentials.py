"""A guardian on three nodes that answer nobody who has not said who he is: its companion has to say it, too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from guarded import LEADS, TIMEOUT, a_node, hurt, mend, succeeds, three_nodes
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from programs import gone
from regime.wired import Wired

from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.servers import scaled

JAAS = """
Server {
  org.apache.zookeeper.server.auth.DigestLoginModule required
  user_alice="secret";
};
"""

CREDENTIALS: dict[str, dict[str, Any]] = {
    "sasl": {"sasl_options": {"mechanism": "DIGEST-MD5", "username": "alice", "password": "secret"}},
    "digest": {"auth_data": [["digest", "alice:secret"]]},
}

LEADS_ALONE = "zk.default_acl = __import__('kazoo.security').security.CREATOR_ALL_ACL\n" + LEADS
"""What it writes nobody else may read or delete."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    jaas = tmp_path_factory.mktemp("sasl") / "jaas.conf"
    jaas.write_text(JAAS)
    settings = (
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "enforce.auth.enabled=true",
        "enforce.auth.schemes=sasl,digest",
    )
    with three_nodes(*settings, java=(f"-Djava.security.auth.login.config={jaas}",)) as three:
        yield three


@pytest.fixture
def wired(three: Wired) -> Iterator[Wired]:
    """Give the ensemble, well before and after."""
    three.ready()
    yield three
    mend(three)


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/x"


def client(hosts: str, kind: str) -> Any:
    zk = KazooClient(hosts, timeout=10.0, **CREDENTIALS[kind])
    zk.start(scaled(20))
    return zk


def test_nobody_is_served_without_credentials(wired: Wired) -> None:
    """What the tests below stand on: also the end of a session is not taken from a stranger."""
    node = next(iter(wired.nodes.values()))
    zk = KazooClient(f"{node.host}:{node.port}", timeout=10.0)
    zk.start(scaled(20))
    try:
        with pytest.raises(KazooException):
            zk.exists("/")
    finally:
        close_kazoo(zk)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("flavour", "kind", "mode", "how", "end"),
    [
        ("blocking", "sasl", "leader", "not hurt", signal.SIGKILL),
        ("asyncio", "sasl", "follower", "not hurt", signal.SIGKILL),
        ("asyncio", "sasl", "leader", "killed", signal.SIGKILL),
        ("blocking", "sasl", "leader", "cut off", signal.SIGKILL),
        ("asyncio", "sasl", "follower", "paused", signal.SIGSTOP),
        ("blocking", "sasl", "follower", "cut off", signal.SIGKILL),
        ("asyncio", "digest", "leader", "cut off", signal.SIGKILL),
        ("blocking", "digest", "follower", "killed", signal.SIGKILL),
    ],
    indirect=["flavour"],
)
async def test_a_leader_with_credentials_fails_at_once(
    flavour: Any, wired: Wired, program: Any, path: str, kind: str, mode: str, how: str, end: int
) -> None:
    """Its companion asks one node after the other, and does not wait for the one that says nothing."""
    node, hosts, others = a_node(wired, mode)
    hang = 2.0 if end == signal.SIGSTOP else 60.0
    text = LEADS_ALONE.replace("HANG", str(hang))
    leading = program(text, hosts=hosts, timeout=TIMEOUT, options=CREDENTIALS[kind])
    companion = int(leading.line())
    if how != "not hurt":
        leading.kill(signal.SIGSTOP)  # so that it does not hear of its node, and leave by itself
        hurt(wired, node, how)
    leading.kill(end)
    await succeeds(flavour, client(others, kind), path)
    assert gone(companion, 30)
