"""Change a ZooKeeper snapshot on disk: how many children a znode has had, from which its sequential ones are numbered.

The format is jute's: a znode is its path, its data, the number of its ACL, then czxid, mzxid, ctime, mtime, version,
cversion and so on; at the end stand an Adler-32 of all that and the path "/".
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_SEAL = 13  # bytes: the sum (8), the length of "/" (4), and "/"


def set_child_version(snapshot: Path, path: str, version: int) -> None:
    """Set the ``cversion`` of the znode at ``path``; raise ValueError if the file is not as described above."""
    content = snapshot.read_bytes()
    body, seal = bytearray(content[:-_SEAL]), content[-_SEAL:]
    if seal != _seal(body):
        raise ValueError(f"{snapshot} does not end as a snapshot without a digest does")
    name = path.encode()
    at = body.find(struct.pack(">i", len(name)) + name)
    if at < 0:
        raise ValueError(f"{snapshot} has no {path}")
    at += 4 + len(name)
    [length] = struct.unpack_from(">i", body, at)
    at += 4 + max(length, 0) + 8 + 4 * 8 + 4  # data, ACL, four longs, version
    struct.pack_into(">i", body, at, version)
    snapshot.write_bytes(bytes(body) + _seal(body))


def _seal(body: bytes | bytearray) -> bytes:
    return struct.pack(">qi", zlib.adler32(body), 1) + b"/"
