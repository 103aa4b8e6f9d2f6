"""A site for deployments in containers: all share one network, so that they have one address inside and outside.

A Sentinel or a Cluster tells its clients the addresses by which its servers know each other. In containers with
networks of their own these mean nothing outside. So one container, which does nothing else, has the network and
publishes every port under its own number; the servers join it, and any of them may be killed and started again.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from testcontainers.core.container import DockerContainer

from coordkit.testing import containers
from coordkit.testing._process import free_ports
from coordkit.testing.deployments import Deployment, bus_ports
from coordkit.testing.servers import serves_redis

__all__ = ["ContainerSite", "MemberContainer"]

# The file is made once: a server that comes back finds what it wrote there.
_BEGIN = '[ -e redis.conf ] || printf %s "$1" >redis.conf; shift; exec redis-server /data/redis.conf "$@"'
_UNCHECKED = {"test": ["NONE"]}  # an image's own check asks the usual port


class MemberContainer(containers.ContainerRedis):
    """A server of a deployment in a container."""

    part_of: Deployment | None = None


class ContainerSite:
    """Containers of one image that share the network of one more."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.host = ""
        self._holder: containers.ContainerServer | None = None

    def open(self, count: int, *, bus: bool = False) -> list[int]:
        """Start the container that has the network and publishes the ports."""
        ports = bus_ports(count) if bus else free_ports(count)
        container = DockerContainer(self.image).with_command("-f /dev/null")
        for port in ports:
            container.with_bind_ports(port, port)
        holder = containers.ContainerServer(container, containers.Serves(ports[0], lambda _host, _port: True))
        container.with_kwargs(labels=containers.labels(), entrypoint="tail", healthcheck=_UNCHECKED)
        containers.start_all([holder])
        self._holder = holder
        self.host = socket.gethostbyname(holder.host)  # servers announce addresses, not names
        return ports

    def member(self, port: int, words: Sequence[str], config: Sequence[str] = ()) -> MemberContainer:
        if self._holder is None:
            raise RuntimeError("open the site first")
        words = ["--port", str(port), "--protected-mode", "no", "--dir", "/data", *words]
        if containers.takes_debug_option(self.image):
            words += ["--enable-debug-command", "yes"]
        lines = "".join(f"{line}\n" for line in config)
        container = _Joined(self.image, self.host)
        container.with_command(["sh", "-c", _BEGIN, "sh", lines, *words])
        member = MemberContainer(container, containers.Serves(port, serves_redis))
        member.host, member.port = self.host, port
        network = f"container:{self._holder.container.get_wrapped_container().id}"
        container.with_kwargs(
            labels=containers.labels(), network_mode=network, working_dir="/data", healthcheck=_UNCHECKED
        )
        return member

    def start(self, members: Sequence[Any]) -> None:
        containers.start_all(members)

    def close(self) -> None:
        if self._holder is not None:
            self._holder.stop()


class _Joined(DockerContainer):
    """A container in another one's network: its ports are that one's, and published under the same number."""

    def __init__(self, image: str, host: str) -> None:
        super().__init__(image)
        self._host = host

    def get_container_host_ip(self) -> str:
        return self._host

    def get_exposed_port(self, port: int) -> int:
        return port
