"""The bytes of a topology: compact JSON with a checksum in it, compressed where that is worth it.

The checksum is over the document without it, so that it does not depend on how it was compressed. A reader refuses a
format that it does not know: a field that is added changes what a topology means to those who do not know it. Format 2
says whether the topology is a cache, and that a shard is given up. It is written for those topologies alone, so that
an older coordkit goes on with all others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from coordkit.errors import BadTopology
from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.topology.parts import Move, Shard, of_runs, runs_of

if TYPE_CHECKING:
    from coordkit.routing.topology.topology import Topology

FORMAT = 2

_HASH = "crc16"  # of the key's {tag}, as in Redis Cluster; another one would be another format's

LIMIT = 1_000_000
"""Bytes of a document at most: ZooKeeper refuses a znode from about 1 MiB on."""

_PLAIN = 2_000  # bytes below which it stays text, for people to read in the znode
_UNPACKED = 64 * LIMIT  # bytes that a compressed document may have at most when read


def document_of(topology: Topology) -> dict[str, Any]:
    """Return what a topology says, without the checksum."""
    shards = {name: _fields(shard) for name, shard in topology.shards.items()}
    moves = [{**_fields(move), "slots": runs_of(move.slots)} for move in topology.moves]
    slots = [list(run) for run in topology.owners.runs()]
    newer = topology.cache or any(move.state == "abandoning" for move in topology.moves)
    names = {"format": FORMAT if newer else 1, "hash": _HASH, "name": topology.name, "epoch": topology.epoch}
    cache = {"cache": topology.cache} if newer else {}
    return {**names, **cache, "shards": shards, "slots": slots, "moves": moves}


def parts_of(document: Mapping[str, Any]) -> tuple[str, int, dict[str, Shard], SlotMap, tuple[Move, ...], bool]:
    """Return what a topology is made of; KeyError, TypeError, ValueError and the like if the document is none."""
    if document["hash"] != _HASH:
        raise ValueError(f"hash={document['hash']!r}; {_HASH!r} is allowed")
    shards = {name: Shard(**values) for name, values in document["shards"].items()}
    moves = tuple(Move(**{**values, "slots": of_runs(values["slots"])}) for values in document["moves"])
    cache = document["cache"] if document["format"] > 1 else False
    return document["name"], document["epoch"], shards, SlotMap.of_runs(shards, document["slots"]), moves, cache


def _fields(part: Shard | Move) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in fields(part)}


def checksum(document: dict[str, Any]) -> str:
    """Return 16 hex digits that two documents share when they say the same."""
    content = {key: value for key, value in document.items() if key != "checksum"}
    return blake2b(_text(content), digest_size=8, person=b"coordkit-topol-1").hexdigest()


def pack(document: dict[str, Any]) -> bytes:
    """Return the bytes of a document; ValueError if they are more than `LIMIT`."""
    text = _text({**document, "checksum": checksum(document)})
    data = text if len(text) < _PLAIN else zlib.compress(text, 9)
    if len(data) > LIMIT:
        raise ValueError(f"the topology takes {len(data):,} bytes; at most {LIMIT:,} are allowed: use shorter names")
    return data


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """Return the document; BadTopology, naming ``where`` it was found, if it is damaged or of another format."""
    document = _parsed(data, where)
    found = document.get("format")
    if isinstance(found, int) and found > FORMAT:
        why = f"it has format {found}, and this coordkit reads up to {FORMAT}: bring coordkit up to date here, first"
        raise BadTopology(where, why)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise BadTopology(where, f"it has format {found!r}, which is none; 1 to {FORMAT} is allowed")
    if document.get("checksum") != checksum(document):
        why = f"its checksum is {document.get('checksum')!r} and its content has {checksum(document)!r}"
        raise BadTopology(where, f"{why}: it was damaged or edited by hand; restore it from its history")
    return document


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    try:
        if data[:1] != b"{":
            data = _decompressed(data)
        document = json.loads(data)
    except (ValueError, zlib.error) as error:
        raise BadTopology(where, f"it is no topology: {data[:40]!r} ({error})") from error
    if not isinstance(document, dict):
        raise BadTopology(where, f"it is no topology: {data[:40]!r}")
    return document


def _decompressed(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(data, _UNPACKED)
    if not unpacking.eof:
        raise ValueError(f"it is cut off, or larger than {_UNPACKED:,} bytes")
    return text


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
