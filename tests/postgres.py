"""A PostgreSQL of our own, as a child process, from binaries that are there: coordkit's own tests need one.

Not part of ``coordkit.testing``: what a service tests against its database is its own affair.
"""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coordkit.testing._process import LocalProcess, free_ports, start_all
from coordkit.testing.plugin import _settings, _skip_or_fail


def binaries() -> Path | None:
    """Return the directory of initdb and postgres; Debian keeps it off the path."""
    places = [str(Path(found).parent) for found in [shutil.which("postgres")] if found]
    places += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)  # noqa: PTH207 - an absolute pattern
    return next((Path(place) for place in places if (Path(place) / "initdb").exists()), None)


def start_postgres(config: pytest.Config) -> PostgresProcess:
    """Start one; skip the test where there are no binaries, or fail it where servers are required."""
    found = binaries()
    if found is None:
        lacks = "postgresql: no initdb on PATH or in /usr/lib/postgresql; sudo apt-get install postgresql"
        _skip_or_fail(lacks, fail=config.stash[_settings].require)
    server = PostgresProcess(found)
    start_all([server], 30.0)
    return server


class PostgresProcess(LocalProcess):
    """One cluster in a directory of its own; root runs it as another user, as it must."""

    def __init__(self, bin_directory: Path) -> None:
        super().__init__("PostgreSQL", free_ports(1)[0])
        self.password = secrets.token_hex(8)
        user = _user()
        secret, data = self.directory / "password", self.directory / "data"
        secret.write_text(self.password)
        if user is not None:
            for path in (self.directory, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = [bin_directory / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256"]
        subprocess.run(
            [*initdb, f"--pwfile={secret}", "--no-sync", "--no-locale", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **({} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}),
        )
        command = [str(bin_directory / "postgres"), "-D", str(data), "-p", str(self.port)]
        for setting in (
            f"listen_addresses={self.host}",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
        ):
            command += ["-c", setting]
        if user is not None:
            # Changing users clears the wish to die with the parent, so that it is set again.
            become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            command = [*become, *(["--pdeathsig=KILL"] if sys.platform == "linux" else []), "--", *command]
        self.command = command

    @property
    def dsn(self) -> str:
        """What psycopg's ``connect`` takes."""
        return f"host={self.host} port={self.port} user=postgres password={self.password} dbname=postgres"

    @property
    def url(self) -> str:
        """What SQLAlchemy's ``create_engine`` takes."""
        return f"postgresql+psycopg://postgres:{self.password}@{self.host}:{self.port}/postgres"

    def ready(self) -> bool:
        import psycopg

        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except (OSError, psycopg.OperationalError):
            return False
        return True

    def stop(self) -> None:
        if self._child is not None and self.running():
            self._child.send_signal(signal.SIGINT)  # a fast shutdown: its shared memory goes with it
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.send_signal(signal.SIGQUIT)
                self._child.wait(10)
        super().stop()


def _user() -> pwd.struct_passwd | None:
    """Return whom to run it as, or None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {each.pw_name: each for each in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]
