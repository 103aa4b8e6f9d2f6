"""The two flavours are one library: same names, same signatures, same documentation of what can go wrong."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import coordkit
import coordkit.aio
import coordkit.aio.sql
import coordkit.aio.zk
import coordkit.errors
import coordkit.routing
import coordkit.sql
import coordkit.testing
import coordkit.zk

PAIRS = {
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
    "__iter__": "__aiter__",
    "__next__": "__anext__",
    "close": "aclose",
}
TWINS = [(coordkit, coordkit.aio), (coordkit.zk, coordkit.aio.zk), (coordkit.sql, coordkit.aio.sql)]
MODULES = [*(module for twins in TWINS for module in twins), coordkit.errors, coordkit.routing, coordkit.testing]
CLASSES = [
    pytest.param(getattr(blocking, name), getattr(awaited, name), id=f"{blocking.__name__}.{name}")
    for blocking, awaited in TWINS
    for name in blocking.__all__
    if inspect.isclass(getattr(blocking, name))
]


def members(kind: type) -> dict[str, Any]:
    """Return what a user can call or read, by its blocking name."""
    back = {awaited: name for name, awaited in PAIRS.items()}
    own = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("coordkit"):
            own.update(vars(base))
    public = {back.get(name, name): value for name, value in own.items() if not name.startswith("_") or name in SPECIAL}
    return {name: value for name, value in public.items() if callable(value) or isinstance(value, property)}


SPECIAL = {"__init__", "__call__", "__len__", "__contains__", "__bool__", *PAIRS, *PAIRS.values()}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Return names, kinds and defaults; annotations differ where one flavour awaits."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("blocking", "awaited"), TWINS)
def test_the_names_are_the_same(blocking: Any, awaited: Any) -> None:
    assert awaited.__all__ == blocking.__all__


@pytest.mark.parametrize(("one", "other"), CLASSES)
def test_the_methods_are_the_same(one: type, other: type) -> None:
    assert sorted(members(other)) == sorted(members(one))


@pytest.mark.parametrize(("one", "other"), CLASSES)
def test_the_signatures_are_the_same(one: type, other: type) -> None:
    blocking, awaited = members(one), members(other)
    functions = [method for method in blocking if inspect.isfunction(blocking[method])]

    assert {method: parameters(awaited[method]) for method in functions} == {
        method: parameters(blocking[method]) for method in functions
    }


@pytest.mark.parametrize(("blocking", "awaited"), TWINS)
def test_the_functions_are_the_same(blocking: Any, awaited: Any) -> None:
    names = [name for name in blocking.__all__ if inspect.isfunction(getattr(blocking, name))]

    assert {name: parameters(getattr(awaited, name)) for name in names} == {
        name: parameters(getattr(blocking, name)) for name in names
    }


def test_the_parity_test_can_fail() -> None:
    """redis-py's own twins: the asyncio lock's acquire lacks ``sleep``."""
    from redis.asyncio.lock import Lock as AwaitedLock
    from redis.lock import Lock as BlockingLock

    assert parameters(AwaitedLock.acquire) != parameters(BlockingLock.acquire)


@pytest.mark.parametrize("module", MODULES)
def test_every_name_exists(module: Any) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: Any) -> None:
    undocumented = [name for name in module.__all__ if not _is_data(module, name) and not getattr(module, name).__doc__]
    undocumented += [
        f"{name}.{method}"
        for name in module.__all__
        if inspect.isclass(getattr(module, name))
        for method, value in members(getattr(module, name)).items()
        if not method.startswith("__") and not inspect.getdoc(value)
    ]

    assert undocumented == []


def _is_data(module: Any, name: str) -> bool:
    """Say whether it is a constant: what its value has for a docstring is its type's."""
    return not (inspect.isclass(getattr(module, name)) or inspect.isroutine(getattr(module, name)))
