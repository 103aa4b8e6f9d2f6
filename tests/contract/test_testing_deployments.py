"""Replicated, behind Sentinels, Cluster: what the handles promise, on the backend of the run."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster

from coordkit.routing.placement.slots import slot_of
from coordkit.testing import ServerFailed, deployments
from coordkit.testing.cluster import start_cluster
from coordkit.testing.deployments import LocalSite, Silent, tell
from coordkit.testing.replicated import start_replicated
from coordkit.testing.sentinel import start_sentinel
from coordkit.testing.servers import wait_until


def cluster_client(cluster: Any) -> RedisCluster:
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in cluster.startup_nodes])


@pytest.fixture
def service(coordkit_redis_sentinel: Any) -> Any:
    """Give a client of the primary, by way of the Sentinels."""
    sentinel = redis.Sentinel(coordkit_redis_sentinel.sentinels, socket_timeout=2)
    client = sentinel.master_for(coordkit_redis_sentinel.service_name, socket_timeout=2)
    yield client
    for each in (client, *sentinel.sentinels):
        each.close()


# -- replicated


def test_replicas_have_what_the_primary_has(coordkit_redis_replicated: Any, coordkit_namespace: str) -> None:
    servers = coordkit_redis_replicated
    assert servers.owned
    assert len(servers.replicas) == 2
    tell(servers.primary, "SET", coordkit_namespace, "1")
    servers.wait_in_sync()
    assert [tell(replica, "GET", coordkit_namespace) for replica in servers.replicas] == ["1", "1"]
    with pytest.raises(Silent, match="read only replica"):
        tell(servers.replicas[0], "SET", coordkit_namespace, "2")


def test_a_promoted_replica_leads_the_others(
    coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    servers = coordkit_redis_replicated
    old, new, third = servers.primary, *servers.replicas
    coordkit_faults.kill(old)
    servers.promote(new)
    assert servers.primary is new
    tell(new, "SET", coordkit_namespace, "after")
    coordkit_faults.heal()  # the old one comes back as a replica, although it was started as a primary
    servers.wait_in_sync()
    assert {tell(replica, "GET", coordkit_namespace) for replica in (old, third)} == {"after"}


def test_a_replica_that_is_paused_and_cut_misses_what_is_written(
    coordkit_redis_replicated: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    servers = coordkit_redis_replicated
    old, replica = servers.primary, servers.replicas[0]
    coordkit_faults.pause(replica)
    tell(old, "CLIENT", "KILL", "TYPE", "replica")
    tell(old, "SET", coordkit_namespace, "missed")
    with pytest.raises(ServerFailed, match=f"{replica.port}"):
        servers.wait_in_sync(0.1)
    coordkit_faults.kill(old)
    coordkit_faults.resume(replica)
    servers.promote(replica)
    assert tell(replica, "GET", coordkit_namespace) is None


# -- Sentinel


def test_sentinels_name_the_primary_and_promote_another(
    coordkit_redis_sentinel: Any, service: Any, coordkit_namespace: str
) -> None:
    servers = coordkit_redis_sentinel
    old = servers.primary()
    assert service.connection_pool.get_master_address() == (old.host, old.port)
    service.set(coordkit_namespace, "before")
    assert wait_until(lambda: all(tell(each, "GET", coordkit_namespace) for each in servers.replicas()), 10.0)
    new = servers.failover()
    assert new is not old
    assert service.connection_pool.get_master_address() == (new.host, new.port)
    servers.wait_ready()
    assert old in servers.replicas()
    assert service.get(coordkit_namespace) == b"before"


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_primary_that_is_gone_is_replaced_and_comes_back_as_a_replica(
    coordkit_redis_sentinel: Any, coordkit_faults: Any, fault: str
) -> None:
    servers = coordkit_redis_sentinel
    old = servers.primary()
    getattr(coordkit_faults, fault)(old)
    new = servers.wait_promoted(old)
    assert servers.primary() is new
    coordkit_faults.heal()
    assert tell(old, "ROLE")[:3] == ["slave", new.host, new.port]


def test_sentinels_that_are_started_again_know_what_they_knew(
    coordkit_redis_sentinel: Any, coordkit_faults: Any
) -> None:
    servers = coordkit_redis_sentinel
    primary = servers.failover()
    for watcher in servers.watchers:
        coordkit_faults.restart(watcher)
    coordkit_faults.heal()
    assert servers.primary() is primary


# -- Cluster


def test_a_cluster_serves_every_slot_and_says_where(coordkit_redis_cluster: Any, coordkit_namespace: str) -> None:
    servers = coordkit_redis_cluster
    assert (len(servers.nodes), len(servers.primaries())) == (6, 3)
    client = cluster_client(servers)
    for number in range(30):
        key = f"{coordkit_namespace}:{number}"
        client.set(key, number)
        assert tell(servers.primary_for(key), "GET", key) == str(number)
    client.close()
    plain = RedisCluster.from_url(servers.url)
    assert plain.get(f"{coordkit_namespace}:7") == b"7"
    plain.close()


def test_a_slot_moves_with_its_keys_while_clients_go_on(coordkit_redis_cluster: Any, coordkit_namespace: str) -> None:
    servers, key = coordkit_redis_cluster, f"{coordkit_namespace}:k"
    client = cluster_client(servers)
    client.set(key, "here")
    source = servers.primary_for(key)
    target = next(each for each in servers.primaries() if each is not source)
    with servers.moving(slot_of(key), target):
        with pytest.raises(Silent, match=f"ASK {slot_of(key)} {target.host}:{target.port}|{target.port}"):
            tell(source, "GET", key)
        assert client.get(key) == b"here"
    assert servers.primary_for(key) is target
    assert tell(target, "GET", key) == "here"
    assert client.get(key) == b"here"
    with pytest.raises(ValueError, match="has slot"):
        servers.move_slot(slot_of(key), target)
    servers.move_slot(slot_of(key), source)
    client.close()


def test_the_replica_of_a_dead_primary_takes_over(
    coordkit_redis_cluster: Any, coordkit_faults: Any, coordkit_namespace: str
) -> None:
    servers, key = coordkit_redis_cluster, coordkit_namespace
    old = servers.primary_for(key)
    replica = servers.replica_of(old)
    coordkit_faults.kill(old)
    assert servers.wait_promoted(old) is replica
    coordkit_faults.heal()
    assert servers.primary_for(key) is replica
    assert servers.replica_of(replica) is old
    assert servers.failover(replica) is old
    servers.wait_ready()


# -- what all have in common, on local processes


def need_redis(request: Any) -> None:
    from coordkit.testing import plugin, processes

    if lacks := processes.missing("redis"):
        (pytest.fail if "process" in request.config.stash[plugin._settings].backends else pytest.skip)(lacks)


@pytest.mark.parametrize("start", [start_replicated, start_sentinel, start_cluster])
def test_what_does_not_come_up_is_told_and_leaves_nothing(request: Any, monkeypatch: Any, start: Any) -> None:
    need_redis(request)
    made: list[Any] = []

    class Site(LocalSite):
        def member(self, *args: Any) -> Any:
            made.append(super().member(*args))
            return made[-1]

    with pytest.raises(ServerFailed, match="Bad directive"):
        start(site=Site(), args=["--no-such-option", "yes"])
    assert len(made) >= 3
    assert not any(member.running() or member.directory.exists() for member in made)


@pytest.mark.parametrize("start", [start_replicated, start_sentinel, start_cluster])
def test_one_that_can_not_be_joined_leaves_nothing(request: Any, monkeypatch: Any, start: Any) -> None:
    need_redis(request)
    made: list[Any] = []

    class Site(LocalSite):
        def member(self, *args: Any) -> Any:
            made.append(super().member(*args))
            return made[-1]

    def fail(_: Any) -> str:
        raise Silent("no word of it")

    for kind in ("replicated.ReplicatedRedis", "sentinel.SentinelRedis", "cluster.ClusterRedis"):
        monkeypatch.setattr(f"coordkit.testing.{kind}.trouble", fail)
    monkeypatch.setenv("COORDKIT_TEST_TIMEOUT_FACTOR", "0.02")
    monkeypatch.setattr(deployments, "start_all", lambda members, _: [member.start() for member in members])
    with pytest.raises(ServerFailed, match=r"no word of it|REPLICAOF|CLUSTER"):
        start(site=Site())
    assert len(made) >= 3
    assert not any(member.running() or member.directory.exists() for member in made)


def test_a_deployment_keeps_its_data_and_addresses_over_a_crash_of_all(request: Any) -> None:
    need_redis(request)
    with start_cluster(replicas=0, args=["--appendonly", "yes", "--appendfsync", "always"]) as servers:
        urls = [node.url for node in servers.nodes]
        tell(servers.primary_for("a"), "SET", "a", "1")
        servers.restart()
        assert [node.url for node in servers.nodes] == urls
        assert tell(servers.primary_for("a"), "GET", "a") == "1"
        with pytest.raises(LookupError, match="has no replica"):
            servers.replica_of(servers.nodes[0])
    assert not any(node.running() for node in servers.nodes)


def test_ports_of_a_cluster_leave_room_for_its_bus() -> None:
    ports = deployments.bus_ports(12)
    assert len(set(ports)) == 12
    assert max(ports) + 10_000 < 65_536


@pytest.mark.parametrize(
    ("start", "wrong", "said"),
    [
        (start_replicated, {"replicas": 0}, "replicas: 0 is not 1 or more"),
        (start_sentinel, {"sentinels": 0}, "replicas, sentinels: 2, 0 are not 1 or more"),
        (start_cluster, {"primaries": 2}, "primaries, replicas: 2, 1 are not 3 or more, and 0 or more"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(start: Any, wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        start(**wrong)
