"""A ZooKeeper ensemble of processes whose nodes speak to each other over cables, so that they can be kept apart.

Each node has a configuration of its own, in which the others are at the ends of its cables. Two things in ZooKeeper go
round a cable: a node of a lower id that calls a higher one says where it is to be called back (edited here), and a
leader hands out its configuration (not taken as long as ``reconfigEnabled`` is off, the default).
"""

from __future__ import annotations

import struct
from itertools import permutations
from typing import Any

from regime.cables import Cables

from coordkit.testing._process import free_ports, start_all
from coordkit.testing.processes import ZooKeeperProcess
from coordkit.testing.servers import Node, ServerFailed, ZooKeeperEnsemble, ask, scaled, wait_until, zookeeper_mode

TICK = 0.1
SYNC_LIMIT = 24  # ticks
GHOST = TICK * SYNC_LIMIT
"""Seconds for which a node that is cut off from the others goes on to serve its clients, at least."""


class Wired:
    """Three nodes, ``n1`` to ``n3``, and the cables between them; clients get cables of their own by ``hosts_for``."""

    def __init__(
        self, cables: Cables, nodes: int = 3, *, settings: tuple[str, ...] = (), java: tuple[str, ...] = ()
    ) -> None:
        self.cables = cables
        ports = free_ports(3 * nodes)
        real = {name(i): ports[3 * i : 3 * i + 3] for i in range(nodes)}  # client, peer, vote
        seen: dict[tuple[str, str], list[int]] = {}
        votes: dict[tuple[str, str], int] = {}
        for one, other in permutations(real, 2):
            client, peer, vote = real[other]

            def called_back(said: bytes, way: tuple[str, str] = (other, one)) -> bytes:
                return _call_back_at(said, votes[way])

            votes[one, other] = cables.lay(one, other, vote, first=called_back)
            seen[one, other] = [client, cables.lay(one, other, peer), votes[one, other]]
        processes = [
            ZooKeeperProcess(
                number,
                [real[one] if one == other else seen[one, other] for other in real],
                tick_time=round(TICK * 1000),
                settings=(f"initLimit={SYNC_LIMIT}", f"syncLimit={SYNC_LIMIT}", *settings),
                java=java,
            )
            for number, one in enumerate(real, 1)
        ]
        for process in processes:
            java, *rest = process.command
            # Who looks for a leader asks at growing intervals, up to a minute.
            process.command = [java, "-Dzookeeper.fastleader.maxNotificationInterval=400", *rest]
        start_all(processes, 60.0)
        self.ensemble = ZooKeeperEnsemble(processes)
        self.nodes: dict[str, Any] = dict(zip(real, processes, strict=True))

    def hosts_for(self, client: str) -> str:
        """Return what ``KazooClient(hosts=...)`` takes, over cables from ``client`` to each node."""
        ports = [self.cables.lay(client, n, node.port) for n, node in self.nodes.items()]
        return ",".join(f"127.0.0.1:{port}" for port in ports)

    def between(self, client: str) -> list[tuple[str, str]]:
        """Return the directions from a client to the nodes; turned around, those of the answers."""
        return [(client, n) for n in self.nodes]

    def ready(self, seconds: float = 60.0) -> None:
        """Wait until all nodes serve, one of them as the leader; raise ServerFailed."""
        self.ensemble.wait_ready(scaled(seconds))

    def mode(self, node: str) -> str | None:
        return zookeeper_mode(self.nodes[node].host, self.nodes[node].port)

    def says(self) -> str:
        """Return what each node says of itself, for people."""
        said: list[str] = []
        for name, node in self.nodes.items():
            lines = ask(node.host, node.port, b"srvr").decode(errors="replace").splitlines()
            told = [line for line in lines if line.startswith(("Mode", "Zxid", "Outstanding"))]
            said.append(f"{name}: {', '.join(told) or 'no answer'}")
        return "; ".join(said)

    def leader(self) -> str:
        leader: Node = self.ensemble.leader()
        return next(n for n, node in self.nodes.items() if node is leader)

    def around(self, node: str) -> list[tuple[str, str]]:
        """Return the directions from and to a node, as far as other nodes are concerned."""
        return [way for way in permutations(self.nodes, 2) if node in way]

    def split(self) -> list[tuple[str, str]]:
        """Return all directions between nodes."""
        return list(permutations(self.nodes, 2))

    def wait_for(self, node: str, *modes: str | None, seconds: float = 30.0) -> None:
        if not wait_until(lambda: self.mode(node) in modes, scaled(seconds)):
            raise ServerFailed(f"{node} is {self.mode(node)}, not {modes}")

    def stop(self) -> None:
        self.ensemble.stop()


def name(index: int) -> str:
    return f"n{index + 1}"


def _call_back_at(said: bytes, port: int) -> bytes:
    """Put ``port`` in place of the address in the greeting of an election connection: version, id, length, address."""
    version, sid, length = struct.unpack(">qqi", said[:20])
    if version != -65536:
        raise AssertionError(f"a greeting of version {version}: what is known of it must be looked up anew")
    address = said[20 : 20 + length].rpartition(b":")[0] + f":{port}".encode()
    return struct.pack(">qqi", version, sid, len(address)) + address + said[20 + length :]
