"""Containers: the handles that the docker backend gives, and that dead runs leave nothing. Needs a Docker engine."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import redis

from coordkit.testing import ServerFailed, plugin
from coordkit.testing.servers import ask, wait_until, zookeeper_mode

pytest.importorskip("testcontainers", reason="pip install 'coordkit[testing]'")


@pytest.fixture(scope="module")
def containers():
    """Give the module, where a Docker engine answers."""
    from coordkit.testing import containers

    return containers


@pytest.fixture(autouse=True)
def settings(request, containers):
    """Give the run's images; skip without an engine or the images, but fail where the run asked for docker by name."""
    settings = request.config.stash[plugin._settings]
    named = "docker" in settings.backends
    if (lacks := containers.missing()) is not None:
        (pytest.fail if named else pytest.skip)(lacks)
    for image in (settings.redis_image, settings.zk_image):
        if not named and not containers.has_image(image):
            pytest.skip(f"{image} is not on this machine: docker pull {image}, or --coordkit-backend docker")
    return settings


@pytest.fixture
def api():
    """Give the engine's API."""
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient().client
    yield client.api
    client.close()


def named(api, server):
    """Return what the engine lists of a server's container."""
    return api.containers(all=True, filters={"id": server.container.get_container_id()})


def test_a_redis_container_keeps_its_port_over_a_crash_and_is_removed_by_stop(containers, settings, api):
    [server] = containers.start_redis_servers(1, image=settings.redis_image)
    try:
        url = server.url
        server.kill()
        server.restart()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        server.pause()
        server.kill()  # also when paused
        server.restart()
        assert named(api, server)
    finally:
        server.stop()
    assert not named(api, server)


def test_a_container_that_ends_is_a_failure_with_its_log_and_leaves_nothing(containers, settings, api):
    mine = {"label": [f"{name}={value}" for name, value in containers.labels().items()]}
    before = {each["Id"] for each in api.containers(all=True, filters=mine)}
    with pytest.raises(ServerFailed, match=r"(?s)the container ended.*Bad directive"):
        containers.start_redis_servers(2, image=settings.redis_image, args=["--no-such-option", "yes"])
    assert {each["Id"] for each in api.containers(all=True, filters=mine)} == before


def test_an_image_that_does_not_exist_is_a_failure_that_names_it(containers):
    with pytest.raises(ServerFailed, match="coordkit/no-such-image:none"):
        containers.start_redis_servers(1, image="coordkit/no-such-image:none")


def test_a_zookeeper_container_waits_by_itself_when_used_as_any_container(containers, settings):
    node = containers.ZooKeeperContainer(settings.zk_image).with_kwargs(labels=containers.labels())
    with containers._reaper_if_here(), node:
        assert zookeeper_mode(node.get_container_host_ip(), node.get_exposed_port(2181)) == "standalone"


def test_a_zookeeper_image_honours_the_variables_of_the_official_one(containers, settings):
    """Ours is a stand-in for it: what it was told is read back from the server."""
    node = containers.ZooKeeperContainer(settings.zk_image, tick_time=300).with_kwargs(labels=containers.labels())
    node.with_envs(
        ZOO_DATA_DIR="/datalog",  # the other way round: both are there in any image
        ZOO_DATA_LOG_DIR="/data",
        ZOO_AUTOPURGE_PURGEINTERVAL="7",
        ZOO_AUTOPURGE_SNAPRETAINCOUNT="9",
        ZOO_MAX_CLIENT_CNXNS="77",
        ZOO_STANDALONE_ENABLED="false",
        ZOO_ADMINSERVER_ENABLED="true",
    )
    with containers._reaper_if_here(), node:
        host, port = node.get_container_host_ip(), node.get_exposed_port(2181)
        conf = ask(host, port, b"conf").decode().splitlines()
        assert {
            "dataDir=/datalog/version-2",
            "dataLogDir=/data/version-2",
            "tickTime=300",
            "maxClientCnxns=77",
            "maxSessionTimeout=60000",  # from ZOO_CFG_EXTRA
        } <= set(conf)
        assert zookeeper_mode(host, port) == "leader"  # of one: not standalone
        written = node.exec(["cat", "/conf/zoo.cfg"]).output.decode().splitlines()
        assert {"autopurge.purgeInterval=7", "autopurge.snapRetainCount=9"} <= set(written)
        commands = "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /commands/ruok HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        assert '"command" : "ruok"' in node.exec(["bash", "-c", commands]).output.decode()


def test_an_ensemble_of_containers_elects_again_and_removes_its_network(containers, settings, api):
    mine = {"label": [f"{name}={value}" for name, value in containers.labels().items()]}
    networks = {each["Id"] for each in api.networks(filters=mine)}
    with containers.start_zookeeper(3, image=settings.zk_image) as ensemble:
        assert len(api.networks(filters=mine)) == len(networks) + 1
        old = ensemble.leader()
        old.kill()
        assert ensemble.leader() is not old
        old.restart()
        assert wait_until(lambda: len(ensemble.followers()) == 2, 20.0)
    assert {each["Id"] for each in api.networks(filters=mine)} == networks


def test_what_a_dead_run_left_is_swept_and_what_a_living_run_has_stays(containers, settings, api):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = containers.labels()
    ids = {}
    for name, labels in {
        "dead": {**living, "coordkit.pid": str(dead.pid)},
        "living": living,
        "elsewhere": {"coordkit.pid": str(dead.pid), "coordkit.host": f"not-{socket.gethostname()}"},
    }.items():
        ids[name] = api.create_container(settings.redis_image, labels=labels)["Id"]
    network = api.create_network("coordkit-swept", labels={**living, "coordkit.pid": str(dead.pid)})["Id"]
    try:
        containers.sweep()
        left = {each["Id"] for each in api.containers(all=True)}
        assert {name for name, each in ids.items() if each in left} == {"living", "elsewhere"}
        assert network not in {each["Id"] for each in api.networks()}
    finally:
        for name in ("living", "elsewhere"):
            api.remove_container(ids[name], force=True)
