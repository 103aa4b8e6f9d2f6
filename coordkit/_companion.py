"""The program of a guardian's companion: it ends a ZooKeeper session when the process that has it dies or hangs.

It is started as ``python -I -S _companion.py`` and imports nothing but the standard library (pure-sasl only where SASL
is asked for), so that it is there in a few milliseconds and costs a few megabytes. Its standard input is a socket whose
other end only the guarded process has: the socket ends when that process does, however it ends. What comes over it
are lines of JSON, and an empty line for each beat, which is answered by a dot.

To end the session it connects as its client would after a lost connection, with the session's id and password, and
closes it. It is not stopped by what the terminal or a service manager sends to the whole family (SIGINT, SIGTERM,
SIGHUP): it ends by itself a moment later.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time  # noqa: TID251  a program of its own
from contextlib import suppress
from typing import Any

HUNG = 3
"""The exit status after the guarded process was not heard of for too long."""

AUTH, SASL, CLOSE = 100, 102, -11
_AUTH_XID = -4
_EXPIRED = -112

_NONE: list[int] = []


class Closer:
    """Knows how to reach the ensemble, and which session is to be closed there."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._tls = None if job["tls"] is None else _tls(**job["tls"])  # now: later every millisecond counts
        self.session: dict[str, Any] | None = None
        self._asked = False  # whether a server was told to close it, and perhaps did not
        if job["sasl"] is not None:
            sys.path[:] = job["path"]
            self._sasl: Any = importlib.import_module("puresasl.client")  # now, as above

    def close(self) -> bool:
        """Close the session, at whatever server answers; return False once the servers have ended it by themselves."""
        session = self.session
        if session is None:
            return False
        near = [session["near"]] if session["near"] else []
        until = time.monotonic() + session["timeout"]
        # A server that is cut off says nothing, and the next one has to have its turn; a slow one has it again, longer.
        # Servers without a leader hang up at once, again and again: that must not make us wait longer for the others.
        patience, longest = 0.25, max(1.0, session["timeout"] / 10)
        while time.monotonic() < until:
            silent = False
            for host, address, port in [*near, *([host, host, port] for host, port in session["hosts"])]:
                try:
                    self._close_at(session, host, address, port, patience)
                except TimeoutError:
                    silent = True
                except (OSError, EOFError):
                    pass
                else:
                    return True
            time.sleep(0.02)
            patience = min(patience * 2, longest) if silent else patience
        return False

    def _close_at(self, session: dict[str, Any], host: str, address: str, port: int, patience: float) -> None:
        where = host, address, port, patience
        if self._asked:
            # A leader that has lost the others has closed it as far as it knows itself, and so it says; a new session
            # is answered by one that has them.
            with self._connection(*where) as connection:
                if not connect(connection, 0, bytes(16), 0.0):  # the shortest that they give
                    raise ConnectionError("no session")
                self._close_over(connection, host)
        with self._connection(*where) as connection:
            if connect(connection, session["id"], bytes.fromhex(session["password"]), session["timeout"]):
                self._asked = True
                self._close_over(connection, host)
            # else it has ended already

    def _connection(self, host: str, address: str, port: int, patience: float) -> socket.socket:
        connection = socket.create_connection((address, port), patience)
        return connection if self._tls is None else self._tls.wrap_socket(connection, server_hostname=host)

    def _close_over(self, connection: socket.socket, host: str) -> None:
        """Close the session of a connection; raise ``EOFError`` or ``OSError`` if that was not answered."""
        if self._job["sasl"] is not None:
            self._say_who(connection, host)
        for scheme, credential in self._job["auth"]:
            texts = b"".join(struct.pack(">i", len(each)) + each for each in (scheme.encode(), credential.encode()))
            send(connection, struct.pack(">iii", _AUTH_XID, AUTH, 0) + texts)
        send(connection, struct.pack(">ii", 1, CLOSE))
        answered = error = 0
        while answered != 1:
            answered, _, error = struct.unpack_from(">iqi", receive(connection))
        if error not in (0, _EXPIRED):
            raise ConnectionError(f"not closed: error {error}")

    def _say_who(self, connection: socket.socket, host: str) -> None:
        """Say by SASL who we are, with kazoo's options and in its way."""
        options = {"service": "zookeeper", **self._job["sasl"]}
        if "qops" in options:
            options["qops"] = [each.encode() for each in options["qops"]]
        # With this mechanism ZooKeeper has one name for all of its servers.
        client = self._sasl.SASLClient("zk-sasl-md5" if options["mechanism"] == "DIGEST-MD5" else host, **options)
        challenge, number = None, 0
        while not client.complete:
            response = client.process(challenge) or b""
            if client.complete and not response:
                break
            number += 1
            send(connection, struct.pack(">iii", number, SASL, len(response)) + response)
            answer = receive(connection)
            error = struct.unpack_from(">i", answer, 12)[0]
            if error:
                raise ConnectionError(f"not let in by SASL: error {error}")
            challenge = answer[20:]


def send(connection: socket.socket, body: bytes) -> None:
    connection.sendall(struct.pack(">i", len(body)) + body)


def receive(connection: socket.socket) -> bytes:
    """Return the body of one frame; raise ``EOFError`` at the end."""
    return _exactly(connection, struct.unpack(">i", _exactly(connection, 4))[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    whole = b""
    while len(whole) < count:
        part = connection.recv(count - len(whole))
        if not part:
            raise EOFError
        whole += part
    return whole


def connect(connection: socket.socket, session: int, password: bytes, timeout: float) -> bool:
    """Take up a session (0: a new one), as one who has seen nothing; return whether it still exists."""
    head = struct.pack(">iqiqi", 0, 0, int(timeout * 1000), session, len(password))
    send(connection, head + password + b"\0")
    return bool(struct.unpack_from(">ii", receive(connection))[1] > 0)


def _tls(
    *,
    ca: str | None,
    certfile: str | None,
    keyfile: str | None,
    keyfile_password: str | None,
    verify_certs: bool,
    check_hostname: bool,
) -> Any:
    """Return the context that kazoo would make."""
    import ssl  # only where it is needed: it costs more than the rest together

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.check_hostname = check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if verify_certs else ssl.CERT_NONE
    if ca:
        context.load_verify_locations(ca)
    if certfile and keyfile:
        context.load_cert_chain(certfile, keyfile, keyfile_password)
    return context


class Watch:
    """The guarded process, seen through its socket."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._unread = b""
        self._ends = _end_of(os.getppid())
        self._hang = 0.0
        self._closer: Closer | None = None
        self._beaten = time.monotonic()  # stands still while the machine is suspended, as the guarded process does
        self.dismissed = False

    def keep(self) -> int:
        """Wait until the process dies or hangs, and close its session; return the exit status."""
        status = 0
        while not self.dismissed:
            left = None if self._closer is None else max(0.0, self._beaten + self._hang - time.monotonic())
            if not select.select([self._line.fileno(), *self._ends], _NONE, _NONE, left)[0]:
                status = HUNG
                break
            if not self._read():
                break
        if self._closer is not None and not self.dismissed:
            self._closer.close()
        return status

    def _read(self) -> bool:
        """Take what has come; return False at its end, or if the process is gone."""
        while not self.dismissed:
            try:
                part = self._line.recv(65536)
            except BlockingIOError:
                return not (self._ends and select.select(self._ends, _NONE, _NONE, 0)[0])
            except OSError:
                return False
            if not part:
                return False
            *lines, self._unread = (self._unread + part).split(b"\n")
            for line in lines:
                self._heard(line)
        return True

    def _heard(self, line: bytes) -> None:
        self._beaten = time.monotonic()
        if not line:
            self.say(b".")
            return
        message = json.loads(line)
        if "hang" in message:
            self._closer = Closer(message)
            self._hang = message["hang"]
            self.say(b".")
        elif "id" in message and self._closer is not None:
            self._closer.session = message
        else:
            self.dismissed = True

    def say(self, text: bytes) -> None:
        with suppress(OSError):  # it is gone, or does not listen: that is seen elsewhere
            self._line.send(text)


def _end_of(process: int) -> list[int]:
    """Return what becomes readable when a process ends, where there is such a thing: a copy of the socket that a child
    of that process inherited against all rules would hide its end."""
    try:
        return [os.pidfd_open(process)]
    except (AttributeError, OSError):  # not Linux, or not allowed: the socket has to do
        return []


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = socket.socket(fileno=0)
    line.setblocking(False)
    watch = Watch(line)
    try:
        return watch.keep()
    except Exception as error:  # noqa: BLE001  whatever it is, the one who can say it to somebody shall hear it
        watch.say(f"!{type(error).__name__}: {error}\n".encode())
        return 1


if __name__ == "__main__":
    sys.exit(main())
