"""A KazooClient that believes that it is connected, with coordkit hung into it and no server."""

from __future__ import annotations

import socket
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.utils import selector_select
from kazoo.protocol.serialization import ReplyHeader, int_struct
from kazoo.protocol.states import KeeperState

from coordkit._kazoo import wire_of


class Line:
    """A client that believes that it is connected; what it writes stays here."""

    def __init__(self, **options: Any) -> None:
        self.client = KazooClient("name.test:2181", **options)
        self.wire = wire_of(self.client)
        self.written: list[bytes] = []
        self.connection = self.client._connection
        self.connection._xid = 0
        self.connection._read_sock, self.connection._write_sock = socket.socketpair()
        self.connection._write = lambda data, _timeout: self.written.append(bytes(data))
        self.connection._socket, self.server = socket.socketpair()
        self.client._state = KeeperState.CONNECTED

    def turn(self) -> int:
        """Do what the connection thread does when it is woken, for as long as it is; return how often that was."""
        turns = 0
        while selector_select([self.connection._read_sock], [], [], 0)[0]:
            self.connection._send_request(1.0, 1.0)
            turns += 1
        return turns

    def sent(self) -> list[tuple[int, int]]:
        """Return the number and the kind of each request that was written."""
        data, found = b"".join(self.written), []
        while data:
            length, number, kind = (int_struct.unpack_from(data, at)[0] for at in (0, 4, 8))
            found.append((number, kind))
            data = data[4 + length :]
        return found

    def reads(self, xid: int, error: int = 0, body: bytes = b"") -> None:
        """Have the client read an answer."""
        answer = int_struct.pack(xid) + bytes(8) + int_struct.pack(error) + body
        assert ReplyHeader.deserialize(answer, 0)[0].xid == xid
        self.server.sendall(int_struct.pack(len(answer)) + answer)
        self.connection._read_socket(1.0)

    def close(self) -> None:
        self.connection._socket.close()
        self.server.close()
        self.connection._read_sock.close()
        self.connection._write_sock.close()
