"""The pair of Redis servers on containers: killed, paused, and cut off from the network. Needs a Docker engine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pair import Pair

from coordkit.testing import plugin
from coordkit.testing.servers import ZooKeeperEnsemble, serves_redis, wait_until

pytest.importorskip("testcontainers", reason="pip install 'coordkit[testing]'")


@pytest.fixture
def image(request: pytest.FixtureRequest) -> str:
    """Give the image of Redis; skip without an engine or it, but fail where the run asked for docker by name."""
    from coordkit.testing import containers

    settings = request.config.stash[plugin._settings]
    named = "docker" in settings.backends
    lacks = containers.missing()
    if lacks is None and sys.platform != "linux":
        lacks = "the addresses of containers are reached on Linux only"
    if lacks is not None:
        (pytest.fail if named else pytest.skip)(lacks)
    if not named and not containers.has_image(settings.redis_image):
        pytest.skip(f"{settings.redis_image} is not here: docker pull {settings.redis_image}")
    return settings.redis_image


class Boxed:
    """A Redis server in a container, at an address that its peer reaches as well, on a network that can be cut."""

    port = 6379

    def __init__(self, network: Any, image: str) -> None:
        from testcontainers.core.container import DockerContainer

        from coordkit.testing import containers

        command = ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"]
        self._network = network
        self._container = DockerContainer(image).with_command([*command, "--repl-diskless-sync-delay", "0"])
        self._container.with_network(network).with_kwargs(labels=containers.labels())
        self._container.start()
        self.host = str(self._attributes()["IPAddress"])
        assert self.ready()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def _box(self) -> Any:
        return self._container.get_wrapped_container()

    def _attributes(self) -> Any:
        box = self._box()
        box.reload()
        return box.attrs["NetworkSettings"]["Networks"][self._network.name]

    def ready(self) -> bool:
        return wait_until(lambda: serves_redis(self.host, self.port), 30.0)

    def pause(self) -> None:
        self._box().pause()

    def resume(self) -> None:
        self._box().unpause()

    def kill(self) -> None:
        self._box().kill("SIGKILL")
        self._box().wait()

    def start(self) -> None:
        self._box().start()
        assert self._attributes()["IPAddress"] == self.host
        assert self.ready()

    def cut(self) -> None:
        self._network._network.disconnect(self._box())

    def heal(self) -> None:
        self._network._network.connect(self._box(), ipv4_address=self.host)
        assert self.ready()

    def stop(self) -> None:
        self._container.stop()


@pytest.fixture
def pair(image: str, coordkit_zk_server: ZooKeeperEnsemble, zk_client: Any, coordkit_namespace: str) -> Iterator[Pair]:
    from docker.types import IPAMConfig, IPAMPool
    from testcontainers.core.network import Network

    from coordkit.testing import containers

    with ExitStack() as stack:
        # An address can be asked for again only where the pool was named.
        pool = IPAMConfig(pool_configs=[IPAMPool(subnet=_free_subnet())])
        network = Network(docker_network_kw={"labels": containers.labels(), "ipam": pool}).create()
        stack.callback(network.remove)
        servers = []
        for _ in range(2):
            servers.append(Boxed(network, image))
            stack.callback(servers[-1].stop)
        made = Pair(
            (servers[0], servers[1]), coordkit_zk_server.hosts, zk_client(), f"/{coordkit_namespace}/pair", stack
        )
        made.start()
        yield made


def _free_subnet() -> str:
    """Return a small private network that no network of the engine overlaps."""
    from ipaddress import ip_network

    from testcontainers.core.docker_client import DockerClient

    client = DockerClient().client
    try:
        pools = [pool for each in client.networks.list() for pool in (each.attrs["IPAM"]["Config"] or [])]
    finally:
        client.close()
    taken = [ip_network(pool["Subnet"]) for pool in pools if "." in pool.get("Subnet", "")]
    for third in range(1, 255):
        subnet = ip_network(f"10.213.{third}.0/28")
        if not any(subnet.overlaps(each) for each in taken):
            return str(subnet)
    raise AssertionError("no free network")


@pytest.mark.timeout(240)
def test_two_machines_die_one_after_the_other(pair: Pair) -> None:
    a, b = pair.machines.values()
    pair.hold("a").crash()
    pair.until(pair.leads("b"))
    a.server.start()
    a.start_agent()
    pair.goes_well("b")

    pair.hold("b").crash()
    pair.until(pair.leads("a"))
    b.server.start()
    b.start_agent()
    pair.goes_well("a")
    pair.check("a")


@pytest.mark.timeout(240)
def test_a_machine_is_paused_and_goes_on_later(pair: Pair) -> None:
    a, b = pair.machines.values()
    pair.hold("a").pause()
    pair.until(pair.leads("b"))
    a.resume()
    pair.goes_well("b")

    pair.hold("b").pause()
    pair.until(pair.leads("a"))
    b.resume()
    pair.goes_well("a")
    pair.check("a")


@pytest.mark.timeout(240)
def test_a_machine_is_cut_off_from_everything(pair: Pair) -> None:
    a = pair.machines["a"]
    assert a.agent is not None
    pair.hold("a").server.cut()
    a.ensemble.drop_requests = a.ensemble.drop_replies = True
    a.agent.send_signal(signal.SIGCONT)
    pair.until(pair.leads("b"))

    a.server.heal()
    a.ensemble.drop_requests = a.ensemble.drop_replies = False
    if wait_until(lambda: a.agent is not None and a.agent.poll() is not None, 3.0):
        a.start_agent()  # it could not reach its own server, and ended: its supervisor begins it again
    pair.goes_well("b")

    pair.hold("b").crash()
    pair.until(pair.leads("a"))
    pair.check("a")
