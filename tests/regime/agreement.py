"""Whether the nodes of an ensemble go on, and say the same; where they do not, the one that errs is made anew.

They should always, and do not: a node that led without a quorum keeps, in a snapshot, writes that were never committed,
and has them again when it was told to forget them (ZOOKEEPER-1549; seen here on 3.8.0 after a quorum was lost twice in
a row). Such a znode is seen by the clients of that node only, and stays: whoever stands behind it waits for ever. No
client can help that, so it is not held against the library; it is counted, and the run goes on with a clean node.

An ensemble may also serve and commit nothing any more: seen on 3.8.0 after its quorum was lost for half a second. For a
minute and more clients connect, keep their sessions and get no answer. That is counted too; its leader is restarted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from regime.wired import Wired

from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.servers import scaled

_APART = 0.25  # seconds between two looks: what differs in both was not only on its way


class Agreement:
    """A client at each node, to compare what they say about the children of some znodes."""

    def __init__(self, wired: Wired, parents: Sequence[str]) -> None:
        self._wired = wired
        self._parents = parents
        self._clients: dict[str, KazooClient] = {}
        for name, node in wired.nodes.items():
            retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.2}
            self._clients[name] = KazooClient(f"{node.host}:{node.port}", timeout=20.0, connection_retry=retry)
            self._clients[name].start(30)

    def move(self) -> str:
        """Restart the leader if no write is answered; return what the nodes said of themselves then."""
        ends = time.monotonic() + scaled(10.0)
        while time.monotonic() < ends:
            for client in self._clients.values():
                try:
                    client.set_async("/", b"").get(True, 2.0)
                except (KazooException, KazooTimeoutError):
                    time.sleep(0.02)
                else:
                    return ""
        said = self._wired.says()
        server = self._wired.nodes[self._wired.leader()]
        server.kill()
        server.start()
        self._wired.ready()
        return said

    def restore(self) -> list[str]:
        """Make each node anew that says something else than the leader; return which, and what it said."""
        leader = self._wired.leader()
        differ = self._differences(leader)
        if differ:
            time.sleep(_APART)
            again = self._differences(leader)
            differ = {node: names & again.get(node, set()) for node, names in differ.items()}
        wrong = [f"{node} differs from {leader}: {sorted(names)}" for node, names in differ.items() if names]
        for node, names in differ.items():
            if names:
                self._renew(node)
        return wrong

    def close(self) -> None:
        for client in self._clients.values():
            close_kazoo(client)

    def _differences(self, leader: str) -> dict[str, set[str]]:
        seen = {node: self._children(node) for node in self._clients}
        truth = seen[leader]
        return {
            node: names ^ truth
            for node, names in seen.items()
            if names is not None and truth is not None and names != truth
        }

    def _children(self, node: str) -> set[str] | None:
        """Return the children as a node has them, once it has caught up; None where it does not answer."""
        client, found = self._clients[node], set()
        try:
            client.sync_async("/").get(True, 5.0)
            for parent in self._parents:
                try:
                    names, _ = client.get_children_async(parent, include_data=True).get(True, 5.0)
                except NoNodeError:
                    continue
                found |= {f"{parent}/{name}" for name in names}
        except (KazooException, KazooTimeoutError):
            return None
        return found

    def _renew(self, node: str) -> None:
        server = self._wired.nodes[node]
        server.kill()
        shutil.rmtree(server.directory / "version-2")
        server.start()
        self._wired.ready()
