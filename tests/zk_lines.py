"""What the tests of the locks on ZooKeeper share: looking at their lines, and meddling with one client's requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kazoo.exceptions import NoNodeError


def names(client: Any, parent: str) -> list[str]:
    """Return the children of a znode; none where there is none."""
    try:
        return list(client.get_children(parent))
    except NoNodeError:
        return []


def in_order(client: Any, parent: str) -> list[str]:
    """Return the znodes of a line as paths, in order of their numbers."""
    return [f"{parent}/{name}" for name in sorted(names(client, parent), key=lambda name: int(name.rpartition("-")[2]))]


def raze(client: Any, path: str) -> None:
    """Delete a lock in one step, so that nobody enters its line meanwhile."""
    while client.exists(path):
        transaction = client.transaction()
        for parent in names(client, path):
            for name in names(client, f"{path}/{parent}"):
                transaction.delete(f"{path}/{parent}/{name}")
            transaction.delete(f"{path}/{parent}")
        transaction.delete(path)
        if all(outcome is True for outcome in transaction.commit()):
            return


def meddle(
    zk: Any, kind: type | tuple[type, ...], instead: Callable[[Any, Callable[[], Any]], Any], times: int = 1
) -> None:
    """Have the next requests of this kind sent by ``instead(request, send)``."""
    wire = zk._coordkit_wire
    submit, left = wire.submit, [None] * times

    def meddling(request: Any, deliver: Any) -> Any:
        if isinstance(request, kind) and left:
            left.pop()
            return instead(request, lambda: submit(request, deliver))
        return submit(request, deliver)

    wire.submit = meddling


def record(zk: Any, asked: list[Any]) -> None:
    """Have whatever a client asks for from now on put into ``asked`` as well."""
    wire = zk._coordkit_wire
    submit = wire.submit

    def recording(request: Any, deliver: Any) -> Any:
        asked.append(request)
        return submit(request, deliver)

    wire.submit = recording


def watched(zk: Any) -> set[str]:
    """Return the znodes that a client watches."""
    return {path for table in (zk._data_watchers, zk._child_watchers) for path in list(table) if table[path]}
