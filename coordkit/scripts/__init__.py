"""The Lua that runs inside Redis: one file per script, each headed by its KEYS, ARGV and returns."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from coordkit._ports import Script

_USERS_SCRIPT = "-- THE USER'S SCRIPT\n"


def load(*names: str) -> Script:
    """Return one script made of the named files in order; all but the last define functions for the last."""
    return _script(
        names[-1], "".join(files("coordkit.scripts").joinpath(f"{name}.lua").read_text("utf-8") for name in names)
    )


def around(script: Script, text: str) -> Script:
    """Return ``script`` with a user's ``text`` in it, whose lines keep their numbers: errors name those."""
    before, after = script.source.split(_USERS_SCRIPT)
    lines = (line.strip() for line in before.splitlines())
    return _script(script.name, f"{' '.join(line for line in lines if not line.startswith('--'))} {text}\n{after}")


def _script(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
