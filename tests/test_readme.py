"""Every Python block of the README runs, on real servers: what a user copies works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from coordkit.testing.external import ExternalRedis

README = Path(__file__).parent.parent / "README.md"
BLOCKS = [
    (README.read_text("utf-8")[: found.start()].count("\n") + 1, found.group(1))
    for found in re.finditer(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
]
# A block that blocks for ever should say where, not eat the suite's time.
COMMAND = [sys.executable, "-X", "faulthandler", "-W", "error"]


@pytest.mark.parametrize(("line", "block"), BLOCKS, ids=[f"line {line}" for line, _ in BLOCKS])
def test_a_block_runs(
    line: int,
    block: str,
    coordkit_redis_shards: Any,
    coordkit_zk_server: Any,
    coordkit_redis_server: Any,
    tmp_path: Path,
) -> None:
    ports = dict(zip(("6379", "6380", "6381"), (server.port for server in coordkit_redis_shards), strict=True))
    code = re.sub(
        r"port=(\d{4})", lambda found: f'host="{coordkit_redis_shards[0].host}", port={ports[found[1]]}', block
    )
    code = re.sub(r"redis://localhost:(\d{4})", lambda found: coordkit_redis_shards[int(found[1]) - 6379].url, code)
    if "Reshard(" in block:  # a new shard must have no keys
        if any(isinstance(server, ExternalRedis) for server in coordkit_redis_shards):
            pytest.skip("it empties whole databases, and these are not ours to empty")
        for server in coordkit_redis_shards:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
    code = code.replace("Redis()", f'Redis.from_url("{coordkit_redis_server.url}")')
    code = code.replace("localhost:2181", coordkit_zk_server.hosts)
    path = tmp_path / f"test_readme_line_{line}.py"
    path.write_text(code, "utf-8")
    runner = ["-m", "pytest", "-q"] if "def test_" in block else []

    done = subprocess.run(
        [*COMMAND, *runner, str(path)], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 8


def test_the_links_to_sections_lead_somewhere() -> None:
    text = README.read_text("utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def test_the_files_that_it_names_are_there() -> None:
    """By their paths from the top, from the package, or from one of its rooms or of the tests'."""
    top = README.parent
    homes = [top, top / "coordkit", top / "coordkit/routing", top / "tests/bench", top / "tests/faults"]
    named = re.findall(r"`([\w/]+\.(?:py|lua|yml))`", README.read_text("utf-8"))

    assert len(named) > 20
    assert [path for path in named if not any((home / path).is_file() for home in homes)] == []
