"""The plugin's servers, clients and faults on real servers, whatever backend the run has chosen."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
import redis
from kazoo.client import KazooClient
from kazoo.protocol.states import KazooState

from coordkit.testing import expire, kill_session, paused
from coordkit.testing.cleaning import close_kazoo, delete_keys, start_kazoo
from coordkit.testing.external import ExternalRedis, connect_redis
from coordkit.testing.faults import Faults
from coordkit.testing.servers import NotOwned, serves_redis, serves_zookeeper, wait_until, zookeeper_mode

pytest_plugins = ["pytester"]


def answers(server) -> bool:
    """Whether a server answers within the second that a probe waits."""
    return serves_redis(server.host, server.port) or serves_zookeeper(server.host, server.port)


@pytest.fixture(params=["redis", "zookeeper"])
def server(request):
    """Give one server of each kind."""
    if request.param == "redis":
        return request.getfixturevalue("coordkit_redis_server")
    return request.getfixturevalue("coordkit_zk_server").nodes[0]


@pytest.mark.parametrize("role", ["coordkit_redis_shards", "coordkit_redis_quorum"])
def test_shards_and_quorum_are_so_many_different_servers(request, role):
    servers = request.getfixturevalue(role)
    run_ids = set()
    for each in servers:
        with redis.Redis.from_url(each.url) as client:
            run_ids.add(client.info("server")["run_id"])
    assert len(run_ids) == len(servers) == {"coordkit_redis_shards": 3, "coordkit_redis_quorum": 5}[role]


def test_an_ensemble_has_one_leader_and_two_followers(coordkit_zk_ensemble):
    assert len(coordkit_zk_ensemble.nodes) == 3
    assert len(coordkit_zk_ensemble.hosts.split(",")) == 3
    assert coordkit_zk_ensemble.leader() not in coordkit_zk_ensemble.followers()
    assert len(coordkit_zk_ensemble.followers()) == 2


def test_a_paused_server_stays_connected_and_answers_nothing_until_it_is_resumed(server, coordkit_faults):
    coordkit_faults.pause(server)
    assert not answers(server)
    coordkit_faults.resume(server)
    assert answers(server)
    assert coordkit_faults.fired == {"pause": 1, "resume": 1}


def test_the_block_of_paused_ends_with_a_server_that_runs(coordkit_redis_server):
    with contextlib.suppress(KeyError), paused(coordkit_redis_server):
        assert not answers(coordkit_redis_server)
        raise KeyError
    assert answers(coordkit_redis_server)


def test_a_killed_server_is_gone_and_comes_back_at_the_same_address(server, coordkit_faults):
    address = (server.host, server.port)
    coordkit_faults.kill(server)
    assert not answers(server)
    coordkit_faults.restart(server)
    assert (server.host, server.port) == address
    assert answers(server)


def test_zookeeper_keeps_its_data_over_a_crash(coordkit_zk, coordkit_zk_server, coordkit_faults):
    coordkit_zk.create("/kept", b"1")
    coordkit_faults.restart(coordkit_zk_server)
    assert wait_until(lambda: coordkit_zk.connected, 20.0)
    assert coordkit_zk.retry(coordkit_zk.get, "/kept")[0] == b"1"


def test_an_ensemble_that_lost_its_leader_elects_another_and_takes_the_old_one_back(
    coordkit_zk_ensemble, coordkit_faults
):
    old = coordkit_zk_ensemble.leader()
    coordkit_faults.kill(old)
    new = coordkit_zk_ensemble.leader()
    assert new is not old
    coordkit_faults.heal()
    assert zookeeper_mode(old.host, old.port) == "follower"


@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_what_was_hurt_serves_again_after_healing(server, fault):
    with Faults() as faults:
        getattr(faults, fault)(server)
        proxy = faults.proxy(server)
        assert not answers(server)
    assert answers(server)
    assert not answers(proxy)


def test_an_ensemble_without_quorum_is_healed_as_a_whole(coordkit_zk_ensemble):
    with Faults() as faults:
        for node in coordkit_zk_ensemble.nodes[:2]:
            faults.kill(node)
        assert wait_until(lambda: not answers(coordkit_zk_ensemble.nodes[2]), 20.0)
    assert all(answers(node) for node in coordkit_zk_ensemble.nodes)


def test_a_fault_on_a_server_that_is_not_ours_is_refused_and_leaves_nothing_to_heal(coordkit_redis_server):
    guest = ExternalRedis(coordkit_redis_server.url)
    with Faults() as faults:
        with pytest.raises(NotOwned):
            faults.kill(guest)
        assert not faults.fired
    assert answers(guest)


@pytest.mark.parametrize(("require", "outcome"), [("0", {"skipped": 1}), ("1", {"failed": 1})])
def test_the_faults_fixture_skips_on_a_server_that_is_not_ours_and_fails_when_required(
    coordkit_redis_server, pytester, monkeypatch, require, outcome
):
    monkeypatch.setenv("COORDKIT_TEST_REQUIRE", require)
    monkeypatch.delenv("COORDKIT_TEST_BACKEND", raising=False)
    pytester.makepyfile(
        "def test_kill(coordkit_redis_server, coordkit_faults): coordkit_faults.kill(coordkit_redis_server)"
    )
    result = pytester.runpytest_subprocess("-rsf", "--coordkit-redis-url", coordkit_redis_server.url)
    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines(["*was not started by coordkit*"])
    assert answers(coordkit_redis_server)


def test_tests_leave_nothing_behind_on_servers_that_are_not_ours(
    coordkit_redis, coordkit_redis_server, coordkit_zk_server, coordkit_namespace, pytester
):
    pytester.makepyfile(
        """
        import pathlib
        def test_leaves(coordkit_redis, coordkit_redis_server, coordkit_zk, coordkit_namespace):
            assert not coordkit_redis_server.owned
            pathlib.Path("namespace").write_text(coordkit_namespace)
            coordkit_redis.set(coordkit_namespace + ":a", 1)
            coordkit_redis.set("coordkit:1:{" + coordkit_namespace + ":b}:lock", 1)
            coordkit_zk.create("/a/b/c", makepath=True)
            coordkit_zk.create("/a/b/e", ephemeral=True)
        """
    )
    hosts = coordkit_zk_server.hosts
    coordkit_redis.set(f"{coordkit_namespace}:of others", 1)
    result = pytester.runpytest_subprocess(
        "--coordkit-backend=external",
        f"--coordkit-redis-url={coordkit_redis_server.url}",
        f"--coordkit-zk-hosts={hosts}",
    )
    result.assert_outcomes(passed=1)
    theirs = (pytester.path / "namespace").read_text()
    assert not list(coordkit_redis.scan_iter(f"*{theirs}*"))
    assert coordkit_redis.exists(f"{coordkit_namespace}:of others")
    zk = start_kazoo(hosts, 10.0)
    try:
        assert theirs not in zk.get_children("/")
    finally:
        close_kazoo(zk)


def test_only_keys_of_the_namespace_are_deleted(coordkit_redis, coordkit_redis_server, coordkit_namespace):
    mine = [f"{coordkit_namespace}:{n}" for n in range(1200)] + [f"coordkit:1:{{{coordkit_namespace}:x}}:lock"]
    other = f"other-{coordkit_namespace[:-1]}?"
    coordkit_redis.mset(dict.fromkeys(mine, 1))
    coordkit_redis.set(other, 1)
    assert delete_keys(coordkit_redis_server.url, coordkit_namespace) == len(mine)
    assert coordkit_redis.delete(other) == 1


def test_the_zookeeper_client_sees_its_own_namespace_only(coordkit_zk, coordkit_zk_server, coordkit_namespace):
    coordkit_zk.create("/a")
    root = start_kazoo(coordkit_zk_server.hosts, 10.0)
    try:
        assert root.exists(f"/{coordkit_namespace}/a")
        assert not root.exists("/a")
    finally:
        close_kazoo(root)


@pytest.mark.coordkit_zk(nodes=3, timeout=4.0)
def test_the_mark_chooses_the_ensemble_and_the_session_timeout(coordkit_zk, coordkit_zk_ensemble):
    assert {port for _, port in coordkit_zk.hosts} == {node.port for node in coordkit_zk_ensemble.nodes}
    assert coordkit_zk._session_timeout == 4000


def test_a_killed_session_is_lost_and_its_ephemeral_znodes_are_gone_at_once(coordkit_zk, coordkit_zk_server):
    states = []
    coordkit_zk.add_listener(states.append)
    coordkit_zk.create("/e", ephemeral=True)
    session = coordkit_zk.client_id[0]
    kill_session(coordkit_zk)
    watcher = start_kazoo(f"{coordkit_zk_server.hosts}{coordkit_zk.chroot}", 10.0)
    try:
        assert not watcher.exists("/e")
    finally:
        close_kazoo(watcher)
    assert wait_until(lambda: KazooState.LOST in states, 20.0)
    assert wait_until(lambda: coordkit_zk.connected and coordkit_zk.client_id[0] != session, 20.0)


def test_a_client_without_a_session_has_none_to_kill(coordkit_zk_server):
    client = KazooClient(hosts=coordkit_zk_server.hosts)
    try:
        with pytest.raises(LookupError, match="no session"):
            kill_session(client)
    finally:
        close_kazoo(client)


async def test_a_lock_that_was_expired_is_free_and_a_free_one_cannot_expire(
    flavour, maybe, coordkit_redis_server, coordkit_redis, coordkit_namespace
):
    lock = flavour.Lock(flavour.redis(coordkit_redis_server.url), f"{coordkit_namespace}:a", ttl=60.0)
    first = await maybe(lock.acquire())
    assert coordkit_redis.exists(lock.key)
    await maybe(expire(lock))
    assert not coordkit_redis.exists(lock.key)
    second = await maybe(lock.try_acquire())
    assert second.token > first.token
    await maybe(second.release())
    with pytest.raises(LookupError, match="nobody holds it"):
        await maybe(expire(lock))
    assert await maybe(first.release()) is False


@pytest.fixture(params=["+@all", "+@all -info"], ids=["info is allowed", "info is forbidden"])
def named(request, coordkit_redis_shards, coordkit_namespace):
    """Give URLs of two servers for a user with a password."""
    rules = ["on", ">secret", "~*", *request.param.split()]
    for server in coordkit_redis_shards[:2]:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", coordkit_namespace, *rules)
    yield [f"redis://{coordkit_namespace}:secret@{each.host}:{each.port}/0" for each in coordkit_redis_shards[:2]]
    for server in coordkit_redis_shards[:2]:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "DELUSER", coordkit_namespace)


def test_two_databases_of_one_server_are_not_independent_servers(named):
    one, other = named
    database = one.removesuffix("0") + "1"
    with pytest.raises(LookupError, match="are one Redis server, and 2 independent ones are needed") as caught:
        connect_redis(f"{one},{database}", 2)
    for url in (one, database):
        assert url.rpartition("@")[2] in str(caught.value)
    assert "secret" not in str(caught.value)
    assert [server.url for server in connect_redis(f"{one},{one},{other}", 2)] == [one, other]
    assert [server.url for server in connect_redis(database, 1)] == [database]


def test_one_server_by_two_names_is_one_server(coordkit_redis_server):
    port = coordkit_redis_server.port
    address = ip_address(socket.gethostbyname(coordkit_redis_server.host))
    with pytest.raises(LookupError, match="are one Redis server"):
        connect_redis(f"redis://{address}:{port}/0,redis://{int(address)}:{port}/0", 2)  # an IPv4 address is a number


def test_a_proxy_reaches_the_database_of_the_server_s_url(coordkit_redis_server, coordkit_faults, coordkit_namespace):
    here = urlsplit(coordkit_redis_server.url)
    server = ExternalRedis(here._replace(path="/5").geturl())
    key = f"{coordkit_namespace}:key"
    with (
        redis.Redis.from_url(coordkit_faults.proxy(server).url) as far,
        redis.Redis.from_url(server.url) as near,
        redis.Redis.from_url(here._replace(path="/4").geturl()) as elsewhere,
    ):
        far.set(key, "v", px=60_000)
        assert near.get(key) == b"v"
        assert not elsewhere.exists(key)
        near.delete(key)
