"""Play the scenes: from the options of ``coordkit demo`` to its exit status."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import coordkit
from coordkit.demo.output import Output, output_for
from coordkit.demo.servers import Servers, ServersMissing
from coordkit.demo.story import Record, Stage, tell
from coordkit.testing.servers import ServerFailed

SCHEMA = 1

HELD, FAILED, BAD_USAGE, NO_SERVERS = 0, 1, 2, 3
SCENES = {
    1: "scene_1_balance",
    2: "scene_2_late_write",
    3: "scene_3_takeover",
    4: "scene_4_shards",
    5: "scene_5_replicas",
}


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    as_json: bool = False
    redis_url: str | None = None
    zookeeper: str | None = None
    scenes: Sequence[int] = tuple(SCENES)


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP: clean up and end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def demo(options: Options) -> int:
    """Play the scenes that were chosen, in order; return the exit status, which ``coordkit demo --help`` explains."""
    output = output_for(sys.stderr if options.as_json else sys.stdout)
    began = time.monotonic()
    records: list[Record] = []
    servers = Servers(options.redis_url, options.zookeeper, announce=output.paragraph)
    status, error = NO_SERVERS, None
    try:
        with _signals_raise() as no_more_signals, _own_directory(), servers:
            try:
                _find(servers, options.scenes)
                _play(servers, options.scenes, records, output)
            finally:
                no_more_signals()  # what follows removes everything, takes seconds, and is not to be disturbed
        status = HELD if all(record.ok for record in records) else FAILED
    except Interrupted as stop:
        status, error = 128 + stop.number, f"interrupted by {signal.Signals(stop.number).name}; everything was removed"
    except BrokenPipeError:
        # `coordkit demo | head`: nobody reads on, not even what the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.stream.fileno())
        return 128 + signal.SIGPIPE
    except ValueError as bad:
        status, error = BAD_USAGE, str(bad)
    except (ServersMissing, ServerFailed) as lacks:
        error = str(lacks)
    except Exception as failed:  # noqa: BLE001 - what was made on a named server could not be deleted
        status, error = FAILED, f"cleaning up failed: {type(failed).__name__}: {failed}"
    seconds = time.monotonic() - began
    _sum_up(output, records, error, status, seconds)
    if options.as_json:
        report = {
            "schema": SCHEMA,
            "ok": status == HELD,
            "status": status,
            "seconds": round(seconds, 3),
            "versions": {**_versions(), **servers.versions},
            "servers": servers.told,
            "scenes": [record.as_dict() for record in records],
            "error": error,
        }
        print(json.dumps(report))
    return status


def _find(servers: Servers, scenes: Sequence[int]) -> None:
    wanted = {"redis": not {1, 2}.isdisjoint(scenes), "zookeeper": 3 in scenes, "shards": 4 in scenes}
    try:
        servers.find(**wanted, replicas=5 in scenes)
    except (ServersMissing, ServerFailed, ValueError):
        raise
    except Exception as failed:  # whatever redis-py, kazoo or docker say of a server that answers, and does not serve
        raise ServerFailed(f"a server cannot be used: {type(failed).__name__}: {failed}") from failed


def _play(servers: Servers, scenes: Sequence[int], records: list[Record], output: Output) -> None:
    output.paragraph(f"coordkit {coordkit.__version__}: {len(scenes)} scenes on real servers and live processes.")
    for number in scenes:
        module = importlib.import_module(f"coordkit.demo.{SCENES[number]}")
        name = SCENES[number].split("_", 2)[2]
        record = Record(number, name, module.TITLE)
        records.append(record)
        tell(Stage(servers, record, output), record, output, module.play)


def _sum_up(output: Output, records: Sequence[Record], error: str | None, status: int, seconds: float) -> None:
    if records and error is None:
        output.heading("In short")
        for record in records:
            held = sum(record.checks.values())
            output.check(record.ok, f"{record.number}. {record.title} ({held} of {len(record.checks)} checks held)")
    if status == HELD:
        output.paragraph(f"Every check held, in {seconds:.1f} s. Everything was removed.")
    elif error is None:
        output.paragraph("A check did not hold: see FAILED above.")
    else:
        print(f"coordkit demo: {error}", file=sys.stderr)  # unbroken, because commands in it are to be copied


def _versions() -> dict[str, str]:
    return {
        "coordkit": coordkit.__version__,
        "python": platform.python_version(),
        "redis-py": importlib.metadata.version("redis"),
        "kazoo": importlib.metadata.version("kazoo"),
    }


@contextlib.contextmanager
def _signals_raise() -> Iterator[Callable[[], None]]:
    """Raise Interrupted at the first Ctrl-C, SIGTERM or SIGHUP; give a function after which they are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def no_more() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _: FrameType | None) -> None:
        no_more()
        raise Interrupted(number)

    for number in numbers:
        if before[number] is not signal.SIG_IGN:  # nohup, or a shell's background job: leave it so
            signal.signal(number, stop)
    try:
        yield no_more
    finally:
        for number in numbers:
            signal.signal(number, before[number])


@contextlib.contextmanager
def _own_directory() -> Iterator[None]:
    """Keep every temporary file in one directory, removed at the end, whatever was half made when it came."""
    before = tempfile.tempdir
    directory = tempfile.mkdtemp(prefix="coordkit-demo-")
    tempfile.tempdir = str(Path(directory).resolve())
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(directory, ignore_errors=True)
