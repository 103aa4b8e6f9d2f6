"""Guardians on three nodes, each of which may be killed, paused or cut off from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from regime.cables import Cables
from regime.wired import Wired

from coordkit.testing import processes
from coordkit.testing.cleaning import close_kazoo
from coordkit.testing.servers import scaled

TIMEOUT = 60.0
"""Seconds that the sessions would last by themselves."""

SOON = 20.0
"""Seconds within which another leads: the others may have to elect a leader of their own first."""

LEADS = """
async def main():
    async with flavour.within(flavour.Guardian(zk, hang=HANG)) as guardian:
        async with flavour.within(flavour.Election(zk, path, identity="process")) as leadership:
            say(guardian.pid)
            while True:
                await flavour.sleep(0.01)
                leadership.ensure()

flavour.run(main())
"""


@contextmanager
def three_nodes(*settings: str, java: tuple[str, ...] = ()) -> Iterator[Wired]:
    """Start three nodes, and skip where there is no ZooKeeper on this machine."""
    why = processes.missing("zookeeper")
    if why is not None:
        pytest.skip(f"nodes are kept apart on local processes only: {why}")
    with Cables() as cables:
        three = Wired(cables, settings=(f"maxSessionTimeout={TIMEOUT * 1000:.0f}", *settings), java=java)
        try:
            yield three
        finally:
            three.stop()


def mend(wired: Wired) -> None:
    """Undo what ``hurt`` did."""
    wired.cables.heal()
    for node in wired.nodes.values():
        node.resume()
        if not node.running():
            node.start()
    wired.ready()


def a_node(wired: Wired, mode: str) -> tuple[str, str, str]:
    """Return a node in that mode, the addresses with it first, and those of the others."""
    node = next(name for name in wired.nodes if wired.mode(name) == mode)
    hosts = {name: f"{each.host}:{each.port}" for name, each in wired.nodes.items()}
    first = hosts.pop(node)
    return node, ",".join([first, *hosts.values()]), ",".join(hosts.values())


def hurt(wired: Wired, node: str, how: str) -> None:
    if how == "killed":
        wired.nodes[node].kill()
    elif how == "paused":
        wired.nodes[node].pause()
    else:
        wired.cables.stop(*wired.around(node))


async def succeeds(flavour: Any, zk: Any, path: str) -> None:
    """Lead after the program, by a client that is stopped afterwards."""
    try:
        async with flavour.within(flavour.Election(zk, path, identity="successor").lead(timeout=scaled(SOON))):
            pass
    finally:
        close_kazoo(zk)
