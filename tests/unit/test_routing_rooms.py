"""The rooms of `coordkit.routing`: each imports those only that it may, so that data flows one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import coordkit

ROUTING = Path(coordkit.__file__).parent / "routing"

# In an order in which each comes after those that it may import.
MAY: dict[str, set[str]] = {
    "placement": set(),
    "balance": {"placement"},
    "commands": {"placement"},
    "fence": set(),
    "ways": {"commands", "fence"},
    "replicas": {"balance", "commands", "fence", "ways"},
    "topology": {"placement", "commands", "fence", "ways"},
    "moving": {"placement", "fence", "topology"},
    "resharding": {"placement", "fence", "ways", "topology", "moving"},
    "directory": {"placement", "balance", "commands", "ways", "replicas", "topology"},
    "pubsub": {"commands", "fence", "ways", "directory"},
    "client": {
        "placement",
        "balance",
        "commands",
        "fence",
        "ways",
        "replicas",
        "topology",
        "moving",
        "directory",
        "pubsub",
    },
}


def imported(source: str) -> Iterator[str]:
    """Yield all that is imported, wherever in a file: also for annotations, and within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "written out, so that it can be read here"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def strangers(room: str, source: str) -> list[str]:
    """Return what a file of this room imports of `coordkit.routing` and may not."""
    names = [name.split(".") for name in imported(source)]
    return [
        ".".join(parts)
        for parts in names
        if parts[:2] == ["coordkit", "routing"] and (len(parts) < 4 or parts[2] not in {room, *MAY[room]})
    ]


def test_each_file_is_in_a_room() -> None:
    assert {path.name for path in ROUTING.iterdir() if path.is_dir() and any(path.glob("*.py"))} == set(MAY)
    assert [path.name for path in ROUTING.glob("*.py")] == ["__init__.py"]


def test_data_flows_one_way() -> None:
    above = set(MAY)
    for room, below in MAY.items():
        assert not below & above, f"{room} comes before what it imports"
        above.discard(room)


@pytest.mark.parametrize("room", MAY)
def test_a_room_imports_what_it_may(room: str) -> None:
    files = sorted((ROUTING / room).rglob("*.py"))

    assert {path.name: found for path in files if (found := strangers(room, path.read_text()))} == {}


@pytest.mark.parametrize("room", MAY)
def test_a_room_says_what_it_is_for(room: str) -> None:
    """And which others it imports; by itself it imports nothing: who needs one file of it gets that."""
    room_file = ast.parse((ROUTING / room / "__init__.py").read_text())

    said = ast.get_docstring(room_file) or ""
    assert set(re.findall(r"`(\w+)`", said.partition("Imports ")[2])) == MAY[room]
    assert len(room_file.body) == 1


@pytest.mark.parametrize("room", MAY)
def test_a_room_may_import_no_more_than_it_does(room: str) -> None:
    files = (ROUTING / room).rglob("*.py")
    names = [name.split(".") for path in files for name in imported(path.read_text())]

    assert {parts[2] for parts in names if parts[:2] == ["coordkit", "routing"]} - {room} == MAY[room]


@pytest.mark.parametrize(
    "line",
    [
        "from coordkit.routing.client.client import ShardedRedis",
        "from coordkit.routing import client",
        "from coordkit.routing import Topology",
        "import coordkit.routing.client.live",
        "def f():\n    from coordkit.routing.client import live",
        "if TYPE_CHECKING:\n    from coordkit.routing.pubsub.lines import PubSubLines",
    ],
)
def test_a_stranger_is_seen(line: str) -> None:
    assert strangers("ways", line)
    assert not strangers("ways", "from coordkit.routing.fence.decision import Decision\nimport redis")
