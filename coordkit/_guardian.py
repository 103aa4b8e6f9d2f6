"""A guardian's companion as its guarded process sees it: started, told of the session, beaten to, listened to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordkit import _companion
from coordkit._kazoo import Wire
from coordkit._threads.runtime import not_in_a_forked_child, now
from coordkit.errors import CoordError


class Companion:
    """One small process beside this one; after its end it may be started anew."""

    def __init__(self, wire: Wire, hang: float, python: str | None) -> None:
        self._wire = wire
        self._python = python
        self._hang = hang
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._answered = 0.0
        self._ready = False
        self._said = b""
        not_in_a_forked_child(self)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def reset(self) -> None:
        """Begin anew in a forked child: the socket must end with its parent, and the process is its parent's."""
        if self._line is not None:
            self._line.close()
        self._line = self._process = None

    def start(self) -> None:
        """Start it, and tell it of the session; raise ``CoordError`` if it cannot be started."""
        self.stop()
        if self._wire.companion is not None:
            raise CoordError(str(self._wire), "this client has a guardian already: enter one Guardian for each client")
        python, access = self._interpreter(), _access(self._wire)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise CoordError(str(self._wire), f"no guardian: there is no socket for it: {error}") from error
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [python, "-I", "-S", _companion.__file__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=dict(os.environ),
                start_new_session=True,  # Ctrl-C and Ctrl-Z at the terminal are for us
            )
        except OSError as error:
            ours.close()
            raise CoordError(str(self._wire), f"no guardian: {python} cannot be started: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._wire.companion = self
        self._line, self._answered, self._ready, self._said = ours, now(), False, b""
        self._send({"hang": self._hang, **access})
        self._wire.follow(self._session)

    def _interpreter(self) -> str:
        if self._python is not None:
            return self._python
        if getattr(sys, "frozen", False) or not sys.executable:
            what = f"{sys.executable!r}, which runs this program and no other" if sys.executable else "unknown"
            why = f"no guardian: sys.executable is {what}; name a Python interpreter by Guardian(python=...)"
            raise CoordError(str(self._wire), why)
        return sys.executable

    def _session(self, session: dict[str, Any]) -> None:
        """Be told of the session, in kazoo's thread, before anybody can use it."""
        self._send(session)

    def _send(self, message: dict[str, Any] | None) -> None:
        line = self._line
        if line is None:
            return
        text = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        try:
            sent = line.send(text)
        except OSError:  # it has ended, or stands still: ``trouble`` says so
            return
        if sent < len(text):
            line.close()  # half a message

    def beat(self) -> None:
        """Say that we live."""
        self._send(None)

    def ready(self) -> bool:
        """Return whether it has said that it guards."""
        return not self.trouble() and self._ready

    def trouble(self) -> str:
        """Return why it does not guard; an empty text if it does."""
        process, line = self._process, self._line
        if process is None or line is None:
            return "does not run"
        with suppress(OSError):
            while part := line.recv(65536):
                self._answered, self._ready = now(), True
                self._said = (self._said + part.lstrip(b"."))[-1000:]
        status = process.poll()
        if status == _companion.HUNG:
            return f"heard nothing from this process for {self._hang} s, and has ended its session"
        if status is not None:
            said = self._said.partition(b"!")[2].decode(errors="replace").strip()
            return f"ended (status {status}{', ' + said if said else ''})"
        return f"did not answer for {self._hang} s" if now() - self._answered > self._hang and self._ready else ""

    def dismiss(self) -> None:
        """Have it end without doing anything."""
        self._wire.follow(None)
        self._send({})
        if self._line is not None:
            self._line.close()
            self._line = None

    def gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """End it at once, without its doing anything, and leave nothing of it behind."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()  # before its line ends: it must not take that for our death
            process.wait()
        if self._wire.companion is self:
            self.dismiss()
            self._wire.companion = None
        self._process = None


def _access(wire: Wire) -> dict[str, Any]:
    """Return what it takes to reach the ensemble, for the companion; it goes over the socket, where nobody sees it."""
    client, tls = wire.client, None
    if client.use_ssl:
        files = {name: getattr(client, name) for name in ("ca", "certfile", "keyfile")}
        tls = {name: file and str(Path(file).absolute()) for name, file in files.items()}
        tls |= {name: getattr(client, name) for name in ("keyfile_password", "verify_certs", "check_hostname")}
    sasl = client._connection.sasl_options  # noqa: SLF001  no public way
    if sasl is not None:
        if "qops" in sasl:  # bytes, in a set, as pure-sasl has them
            sasl = {**sasl, "qops": [each.decode() if isinstance(each, bytes) else each for each in sasl["qops"]]}
        try:
            json.dumps(sasl)
        except TypeError as error:
            why = "no guardian: the client's sasl_options cannot be told to another process: text and numbers can"
            raise CoordError(str(wire), f"{why} ({error})") from error
    return {"tls": tls, "auth": [list(each) for each in client.auth_data], "sasl": sasl, "path": sys.path}
