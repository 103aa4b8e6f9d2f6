"""Elections, groups and guardians where ZooKeeper asks who one is: TLS, digest ACLs below a chroot, SASL."""

from __future__ import annotations

import gc
import socket
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError
from kazoo.protocol.serialization import SASL
from kazoo.security import make_acl, make_digest_acl

from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.testing._process import free_ports
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.processes import start_zookeeper
from coordkit.testing.servers import ZooKeeperEnsemble, scaled

JAAS = """
Server {
  org.apache.zookeeper.server.auth.DigestLoginModule required
  user_alice="secret";
};
"""

GUARDED = """
async def main():
    async with flavour.within(flavour.Guardian(zk, hang=30.0)):
        async with flavour.within(flavour.Election(zk, path, identity="process")):
            say("leads")
            await flavour.sleep(60)

flavour.run(main())
"""


def certificates(directory: Path) -> None:
    """Make an authority, and a key and a certificate of the server and of a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    (directory / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "stranger"):
        whom = ("-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "2", "-subj", f"/CN={authority}")
        openssl("req", "-x509", *new, *whom)
    for who in ("server", "client"):
        openssl("req", *new, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{who}.csr", *by, "-out", f"{who}.crt")
    (directory / "server.pem").write_text(
        (directory / "server.key").read_text() + (directory / "server.crt").read_text()
    )


class Secure:
    """A server that speaks TLS, and what its clients need."""

    def __init__(self, hosts: str, directory: Path) -> None:
        self.hosts = hosts
        self.options = {
            "use_ssl": True,
            "ca": str(directory / "ca.pem"),
            "certfile": str(directory / "client.crt"),
            "keyfile": str(directory / "client.key"),
            "check_hostname": True,
        }
        self.stranger = str(directory / "stranger.pem")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    directory = tmp_path_factory.mktemp("tls")
    certificates(directory)
    [port] = free_ports(1)
    settings = [
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
        f"secureClientPort={port}",
        "secureClientPortAddress=127.0.0.1",
        f"ssl.keyStore.location={directory}/server.pem",
        f"ssl.trustStore.location={directory}/ca.pem",
    ]
    with start_zookeeper(settings=settings):
        yield Secure(f"localhost:{port}", directory)


@pytest.fixture(scope="module")
def sasl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperEnsemble]:
    """A server that talks with nobody who has not said who he is, by DIGEST-MD5."""
    jaas = tmp_path_factory.mktemp("sasl") / "jaas.conf"
    jaas.write_text(JAAS)
    settings = [
        "authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
        "sessionRequireClientSASLAuth=true",
    ]
    with start_zookeeper(settings=settings, java=[f"-Djava.security.auth.login.config={jaas}"]) as ensemble:
        yield ensemble


@pytest.fixture
def connect() -> Iterator[Any]:
    """Give a way to make started clients of all kinds."""
    made: list[Any] = []

    def make(hosts: str, **options: Any) -> Any:
        made.append(KazooClient(hosts, **{"timeout": 4.0, **options}))
        made[-1].start(scaled(20))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Give a name that each test has for itself."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


async def works(flavour: Any, zk: Any, path: str) -> None:
    """Lead, and be a member."""
    election, group = flavour.Election(zk, f"{path}/leader", identity="one"), flavour.Group(zk, f"{path}/members")
    async with flavour.within(election) as leadership:
        await flavour.maybe(leadership.verify())
        assert (await flavour.maybe(election.leader())).token == leadership.token
        assert await flavour.maybe(election.contenders()) == ["one"]
        async with flavour.within(group.join("one", data=b"1")) as member:
            await flavour.maybe(member.update(b"2"))
            assert await flavour.maybe(group.members()) == {"one": b"2"}
    assert await flavour.maybe(election.contenders()) == []
    assert await flavour.maybe(group.members()) == {}


# -- TLS


async def test_all_of_it_works_over_tls(flavour: Any, secure: Secure, connect: Any, name: str) -> None:
    await works(flavour, connect(secure.hosts, **secure.options), f"/{name}")


async def test_a_guardian_closes_over_tls(
    flavour: Any, secure: Secure, connect: Any, program: Any, coordkit_namespace: str
) -> None:
    zk = connect(secure.hosts, **secure.options)
    leading = program(GUARDED, hosts=secure.hosts, options=secure.options)
    assert leading.line() == "leads"
    leading.kill()
    election = flavour.Election(zk, f"/{coordkit_namespace}/x", identity="successor")
    async with flavour.within(election.lead(timeout=scaled(5))) as leadership:
        assert leadership.ensure()


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("wrong", ["no certificate of ours", "an authority that did not sign the server's"])
async def test_tls_that_is_refused_is_no_answer(flavour: Any, secure: Secure, name: str, wrong: str) -> None:
    """In bounded time, whichever side says no."""
    changed = {"certfile": None, "keyfile": None} if wrong.startswith("no") else {"ca": secure.stranger}
    zk = KazooClient(secure.hosts, timeout=2.0, **{**secure.options, **changed})
    zk.start_async()
    try:
        with pytest.raises(StoreUnavailable):
            await flavour.maybe(flavour.Election(zk, f"/{name}", identity="one").leader())
    finally:
        close_kazoo(zk)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # kazoo leaves sockets open whose handshake failed


# -- digest ACLs and a chroot


ALICE = make_digest_acl("alice", "secret", all=True)


@pytest.fixture
def app(coordkit_zk_server: ZooKeeperEnsemble, coordkit_namespace: str, connect: Any) -> Iterator[str]:
    """Give hosts with a chroot that is alice's alone."""
    root = connect(coordkit_zk_server.hosts, auth_data=[("digest", "alice:secret")])
    root.ensure_path(f"/{coordkit_namespace}")
    root.create(f"/{coordkit_namespace}/app", acl=[ALICE])
    yield f"{coordkit_zk_server.hosts}/{coordkit_namespace}/app"
    root.delete(f"/{coordkit_namespace}/app", recursive=True)  # nobody else can


def tree(zk: Any, path: str = "/") -> Iterator[str]:
    yield path
    for child in zk.get_children(path):
        yield from tree(zk, f"{path.rstrip('/')}/{child}")


async def test_every_znode_has_the_default_acl(flavour: Any, app: str, connect: Any) -> None:
    zk = connect(app, auth_data=[("digest", "alice:secret")], default_acl=[ALICE])
    await works(flavour, zk, "/deep/down")
    async with (
        flavour.within(flavour.Election(zk, "/deep/down/leader", identity="one")),
        flavour.within(flavour.Group(zk, "/deep/down/members").join("one")),
    ):
        found = {path: zk.get_acls(path)[0] for path in tree(zk)}
    assert {path: acls for path, acls in found.items() if acls != [ALICE]} == {}
    assert len(found) == 9  # /, deep, down, leader, epoch, candidates, the candidate, members, the member


@pytest.mark.parametrize("credentials", [[("digest", "alice:wrong")], []], ids=["wrong password", "nobody"])
async def test_a_stranger_is_refused(flavour: Any, app: str, connect: Any, credentials: Any) -> None:
    zk = connect(app, auth_data=[("digest", "alice:secret")], default_acl=[ALICE])
    stranger = connect(app, auth_data=credentials)
    election, group = flavour.Election(stranger, "/leader", identity="two"), flavour.Group(stranger, "/members")
    async with (
        flavour.within(flavour.Election(zk, "/leader", identity="one")),
        flavour.within(flavour.Group(zk, "/members").join("one")),
    ):
        before = sorted(tree(zk))
        for call in (election.leader, election.contenders, group.members):
            with pytest.raises(StoreRefused, match="check its ACLs") as refused:
                await flavour.maybe(call())
            assert refused.value.__cause__ is not None
        for block in (election.lead(timeout=5), group.join("two"), group.join("one")):
            with pytest.raises(StoreRefused, match="check its ACLs"):
                async with flavour.within(block):
                    pytest.fail("entered")
        with pytest.raises(StoreRefused):
            await flavour.maybe(election.run(lambda _: pytest.fail("it leads")))
        assert sorted(tree(zk)) == before
    # Where nothing is yet, it may not make the parents either.
    with pytest.raises(StoreRefused, match="check its ACLs"):
        async with flavour.within(flavour.Election(stranger, "/other/leader", identity="two").lead(timeout=5)):
            pytest.fail("entered")


async def test_a_guardian_closes_below_a_chroot(
    flavour: Any, app: str, connect: Any, program: Any, coordkit_namespace: str
) -> None:
    text = "zk.default_acl = __import__('kazoo.security').security.CREATOR_ALL_ACL\n" + GUARDED
    zk = connect(app, auth_data=[("digest", "alice:secret")], default_acl=[ALICE])
    leading = program(text, hosts=app, options={"auth_data": [["digest", "alice:secret"]]})
    assert leading.line() == "leads"
    leading.kill()
    election = flavour.Election(zk, f"/{coordkit_namespace}/x", identity="successor")
    async with flavour.within(election.lead(timeout=scaled(5))) as leadership:
        assert leadership.ensure()


# -- SASL

OPTIONS = {"sasl_options": {"mechanism": "DIGEST-MD5", "username": "alice", "password": "secret"}}


async def test_all_of_it_works_with_sasl(flavour: Any, sasl: ZooKeeperEnsemble, connect: Any, name: str) -> None:
    zk = connect(sasl.hosts, default_acl=[make_acl("sasl", "alice", all=True)], **OPTIONS)
    await works(flavour, zk, f"/{name}")


async def test_a_wrong_sasl_password_is_a_refusal(flavour: Any, sasl: ZooKeeperEnsemble, name: str) -> None:
    zk = KazooClient(sasl.hosts, timeout=4.0, sasl_options={**OPTIONS["sasl_options"], "password": "wrong"})
    election = flavour.Election(zk, f"/{name}", identity="one")
    zk.start_async()
    try:
        with pytest.raises(StoreRefused, match=r"refuse the client's credentials; check its") as refused:
            await flavour.maybe(election.leader())
        assert isinstance(refused.value.__cause__, AuthFailedError)
    finally:
        close_kazoo(zk)


async def test_a_connection_that_breaks_within_sasl_is_made_anew(
    flavour: Any, sasl: ZooKeeperEnsemble, connect: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that restarts, not a wrong password: kazoo closes the client for good."""
    zk, broken = connect(sasl.hosts, **OPTIONS), []
    await works(flavour, zk, f"/{name}")
    connection = zk._connection
    submit = connection._submit

    def breaking(request: Any, *rest: Any) -> None:
        if request.type == SASL.type and not broken:
            broken.append(connection._socket.shutdown(socket.SHUT_RDWR))  # it counts as sent, and no answer comes
        else:
            submit(request, *rest)

    monkeypatch.setattr(connection, "_submit", breaking)
    connection._socket.shutdown(socket.SHUT_RDWR)
    await flavour.until(lambda: broken)
    await works(flavour, zk, f"/{name}")


async def test_a_guardian_closes_with_sasl(
    flavour: Any, sasl: ZooKeeperEnsemble, connect: Any, program: Any, coordkit_namespace: str
) -> None:
    zk = connect(sasl.hosts, **OPTIONS)
    leading = program(GUARDED, hosts=sasl.hosts, options=OPTIONS)
    assert leading.line() == "leads"
    leading.kill()
    election = flavour.Election(zk, f"/{coordkit_namespace}/x", identity="successor")
    async with flavour.within(election.lead(timeout=scaled(5))) as leadership:
        assert leadership.ensure()


async def test_a_guardian_closes_with_bytes_among_its_sasl_options(
    flavour: Any, sasl: ZooKeeperEnsemble, connect: Any, program: Any, coordkit_namespace: str
) -> None:
    text = "zk._connection.sasl_options['qops'] = {b'auth'}\n" + GUARDED
    leading = program(text, hosts=sasl.hosts, options=OPTIONS)
    assert leading.line() == "leads"
    leading.kill()
    election = flavour.Election(connect(sasl.hosts, **OPTIONS), f"/{coordkit_namespace}/x", identity="successor")
    async with flavour.within(election.lead(timeout=scaled(5))) as leadership:
        assert leadership.ensure()


async def test_a_guardian_that_cannot_be_told_of_the_sasl_options_is_none(
    flavour: Any, sasl: ZooKeeperEnsemble, connect: Any
) -> None:
    """A function stays in its process; that is said before anything relies on the guardian."""
    asks = {**OPTIONS["sasl_options"], "callback": lambda _: "secret"}
    with pytest.raises(CoordError, match=r"no guardian: .*sasl_options"):
        async with flavour.within(flavour.Guardian(connect(sasl.hosts, sasl_options=asks))):
            pytest.fail("entered")
