"""Which shard a key is on, as the client sends it: for both flavours, without I/O."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Sequence
from typing import Any

from coordkit.errors import CrossShardError
from coordkit.routing.commands.plan import listed
from coordkit.routing.placement.placement import Placement
from coordkit.routing.placement.slot_map import SlotMap
from coordkit.routing.placement.slots import BRACE, tagged

_NAMES = {str, bytes}  # the types of nearly all keys


class KeyRouter:
    """Turn keys into shards, for one placement and one encoding of keys.

    ``encode`` gives the bytes of an argument that is neither bytes nor str as the client sends it.
    """

    def __init__(
        self,
        placement: Placement,
        encode: Callable[[Any], Any] | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> None:
        self.placement = placement
        self._table = placement.table if isinstance(placement, SlotMap) else None
        self._encode, self._encoding, self._errors = encode or _buffer, encoding, errors

    def bytes_of(self, key: Any) -> bytes:
        """Return the bytes of ``key`` on the wire."""
        if isinstance(key, str):
            return key.encode(self._encoding, self._errors)
        return bytes(key if isinstance(key, (bytes, bytearray, memoryview)) else self._encode(key))

    def slot(self, key: Any) -> int:
        """Return the slot of ``key``."""
        return crc_hqx(tagged(self.bytes_of(key)), 0) & 0x3FFF

    def route(self, key: Any) -> str:
        """Return the shard of ``key``."""
        # The same as placement.lookup(bytes), for a SlotMap written out: every command passes here.
        if isinstance(key, str):
            key = key.encode(self._encoding, self._errors)
        elif type(key) is not bytes:
            key = self.bytes_of(key)
        if self._table is None:
            return self.placement.lookup(self.placed(key))
        return self._table[crc_hqx(tagged(key) if BRACE in key else key, 0) & 0x3FFF]

    def one_shard(self, name: str, keys: Sequence[Any]) -> str:
        """Return the shard of all these keys; CrossShardError, naming each, if a command's keys are on several."""
        shards = self.route_many(keys)
        if len(set(shards)) > 1:
            raise self._crossing(name, keys, shards)
        return shards[0]

    def route_many(self, keys: Sequence[Any]) -> list[str]:
        """Return the shard of each key."""
        table, encoding, errors = self._table, self._encoding, self._errors
        if table is None:
            return [self.route(key) for key in keys]
        wire = [
            key.encode(encoding, errors) if type(key) is str else key if type(key) is bytes else self.bytes_of(key)
            for key in keys
        ]
        return [table[crc_hqx(tagged(key) if BRACE in key else key, 0) & 0x3FFF] for key in wire]

    def placed(self, key: bytes) -> bytes:
        """Return what the placement is asked for ``key``: the key, or the tag of a key of coordkit's own.

        No other router placed those, and a placement that heeds no tags would tear the keys of one lock apart.
        """
        return tagged(key) if not self.placement.hash_tags and key.startswith(b"coordkit:") else key

    def _crossing(self, name: str, keys: Sequence[Any], shards: Sequence[str]) -> CrossShardError:
        where = dict(zip(named(keys), shards, strict=True))
        said = listed(where)
        return CrossShardError(
            name.replace("|", " "),
            f"its keys are on {len(set(shards))} shards and it cannot be split: {said}. "
            + ("Give the keys one {tag}, or send" if self.placement.hash_tags else "Send")
            + " a command for each shard",
            shards=where,
        )


def _buffer(key: Any) -> bytes:
    return memoryview(key).tobytes()  # and not bytes(), which takes 5 for five zeros


def named(keys: Sequence[Any]) -> tuple[Any, ...]:
    """Return keys as they are named in errors and explanations."""
    # Names stand in dicts, where a bytearray, or a memoryview of one, may not.
    if _NAMES.issuperset(map(type, keys)):
        return tuple(keys)
    return tuple([bytes(key) if isinstance(key, (bytearray, memoryview)) else key for key in keys])
