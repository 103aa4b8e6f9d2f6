"""The Lua that runs inside Redis: one file per script, each headed by its KEYS, ARGV and returns."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from coordkit._ports import Script


def load(*names: str) -> Script:
    """Return one script made of the named files in order; all but the last define functions for the last."""
    source = "".join(files("coordkit.scripts").joinpath(f"{name}.lua").read_text("utf-8") for name in names)
    return Script(names[-1], source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
