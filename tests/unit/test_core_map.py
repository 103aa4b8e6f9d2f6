"""The map of `coordkit.core` in its docstring: every file is on it, once, and nothing that is not there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import coordkit.core

HERE = Path(coordkit.core.__file__).parent


def test_every_file_is_on_the_map_once() -> None:
    subjects = (coordkit.core.__doc__ or "").split("\n\n", 2)[2]
    named = Counter(re.findall(r"``(\w+)``", subjects))
    files = {path.stem for path in HERE.glob("*.py")} - {"__init__"}

    assert files - named.keys() == set(), "not on the map: coordkit/core/__init__.py"
    assert named.keys() - files == set(), "on the map, and not there"
    assert {name for name, times in named.items() if times > 1} == set()
