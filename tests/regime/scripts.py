"""Change a Lua script of coordkit in this process: for mutants, and for a resource that keeps a log."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coordkit._ports import Script


def edit(module: Any, name: str, old: str, new: str, *, last: bool = False) -> None:
    """Replace ``old`` in the script that ``module`` calls ``name``, everywhere or at its last place."""
    script: Script = getattr(module, name)
    if old not in script.source:
        raise AssertionError(f"{script.name}.lua changed: {old!r} is not there, so this edit must be made anew")
    if last:
        before, _, after = script.source.rpartition(old)
        source = before + new + after
    else:
        source = script.source.replace(old, new)
    setattr(module, name, Script(script.name, source, hashlib.sha1(source.encode()).hexdigest()))  # noqa: S324  Redis's own name for it


def names() -> dict[bytes, str]:
    """Return the scripts that coordkit has loaded, by their SHA-1, for people to read."""
    found: dict[bytes, str] = {}
    for module in [module for name, module in sys.modules.items() if name.startswith("coordkit.core")]:
        for value in vars(module).values():
            if isinstance(value, Script):
                found[value.sha.encode()] = value.name
    return found


@contextmanager
def restored(module: Any) -> Iterator[None]:
    """Undo, at the end, what was edited in a module."""
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).update(before)
