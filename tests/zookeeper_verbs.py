"""Every public verb of all that stands on ZooKeeper, found by looking: a new one is in these tests without being told.

A verb that needs an argument which is not named here fails the test that wants to call it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

ARGUMENTS: dict[str, Any] = {
    "identity": "one",
    "data": b"1",
    "timeout": None,
    "partitions": ["a", "b"],
    "keys": ["a", "b"],
    "identities": ["one"],
}
ALWAYS: dict[str, Any] = {"again": False}  # else it stands again for ever, as it is told to
QUIET = {"stop", "close", "share", "held", "remaining", "transaction", "handover"}
"""These ask nothing; a share is a description, a transaction is carried out at the end of its block, and what is held
on ZooKeeper goes with its session, so that it cannot be handed over."""
GO_ON = {"Roles.run", "Share.run"}
"""These go on through an outage, as they say, until they are told to stop."""


def everything(flavour: Any, zk: Any, path: str) -> dict[str, Any]:
    """Return one of each kind of thing, on paths of their own, by a name for it."""
    rwlock = flavour.zk.ReadWriteLock(zk, f"{path}/rwlock")
    group = flavour.Group(zk, f"{path}/group")
    return {
        "Election": flavour.Election(zk, path, identity="one"),
        "Group": group,
        "Share": group.share("one", ["a", "b"]),
        "Roles": flavour.Roles(zk, f"{path}/roles", identity="one", on_primary=_serving(flavour)),
        "Lock": flavour.zk.Lock(zk, f"{path}/lock"),
        "ReadWriteLock.read": rwlock.read,
        "ReadWriteLock.write": rwlock.write,
        "Semaphore": flavour.zk.Semaphore(zk, f"{path}/semaphore", permits=1),
        "Barrier": flavour.zk.Barrier(zk, f"{path}/barrier"),
        "DoubleBarrier": flavour.zk.DoubleBarrier(zk, f"{path}/double", parties=1),
    }


def verbs_of_everything(flavour: Any, zk: Any, path: str) -> dict[str, Callable[[], Any]]:
    """Return the verbs of one of each kind of thing."""
    things = everything(flavour, zk, path)
    return {verb: call for name, thing in things.items() for verb, call in verbs(flavour, thing, name).items()}


def verbs(flavour: Any, thing: Any, called: str = "") -> dict[str, Callable[[], Any]]:
    """Return every verb of ``thing`` by name, to be called and carried to where it asks the servers."""
    called, found = called or type(thing).__name__, {}
    for name, method in inspect.getmembers(thing, inspect.ismethod):
        if name.startswith("_") or name in QUIET:
            continue
        found[f"{called}.{name}"] = _call(flavour, method)
    if hasattr(thing, "__enter__") or hasattr(thing, "__aenter__"):
        found[f"with {called}"] = lambda: _follow(flavour, thing)
    return found


def _serving(flavour: Any) -> Callable[[Any], Any]:
    """Return what is to be called when we lead, or own a part: that must not be."""

    async def serve(_given: Any) -> None:
        raise AssertionError("it serves")

    def served(_given: Any) -> None:
        raise AssertionError("it serves")

    return serve if flavour.is_async else served


def _call(flavour: Any, method: Callable[..., Any]) -> Callable[[], Any]:
    parameters = inspect.signature(method).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    known = {**ARGUMENTS, **ALWAYS, "serve": _serving(flavour)}
    given = [each.name for each in parameters if each in needed or each.name in ALWAYS]
    unknown = [each.name for each in needed if each.name not in known]

    async def call() -> Any:
        assert not unknown, f"tell tests/zookeeper_verbs.py what to give {method.__qualname__} as {unknown}"
        return await _follow(flavour, method(**{name: known[name] for name in given}))

    return call


async def _follow(flavour: Any, given: Any) -> Any:
    """Await it, enter it, or take its first element, as its kind is."""
    if inspect.isawaitable(given):
        return await given
    if hasattr(given, "__anext__") or hasattr(given, "__next__"):
        async for first in flavour.each(given):
            return first
    if hasattr(given, "__enter__") or hasattr(given, "__aenter__"):
        async with flavour.within(given) as inside:
            return inside
    return given
