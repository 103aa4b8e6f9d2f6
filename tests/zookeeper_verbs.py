"""Every public verb of an election and a group, found by looking: a new one is in these tests without being told.

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
}
ALWAYS: dict[str, Any] = {"again": False}  # else it stands again for ever, as it is told to
QUIET = {"stop", "close", "share"}
"""These ask nothing; a share is a description, whose ``run`` goes on through an outage, as it says."""


def verbs(flavour: Any, thing: Any) -> dict[str, Callable[[], Any]]:
    """Return every verb of ``thing`` by name, to be called and carried to where it asks the servers."""
    found = {}
    for name, method in inspect.getmembers(thing, inspect.ismethod):
        if name.startswith("_") or name in QUIET:
            continue
        found[f"{type(thing).__name__}.{name}"] = _call(flavour, method)
    if hasattr(thing, "__enter__") or hasattr(thing, "__aenter__"):
        found[f"with {type(thing).__name__}"] = lambda: _follow(flavour, thing)
    return found


def _call(flavour: Any, method: Callable[..., Any]) -> Callable[[], Any]:
    parameters = inspect.signature(method).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]

    async def serve(_leadership: Any) -> None:
        raise AssertionError("it leads")

    def served(leadership: Any) -> Any:
        return serve(leadership) if flavour.is_async else (_ for _ in ()).throw(AssertionError("it leads"))

    known = {**ARGUMENTS, **ALWAYS, "serve": served}
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
