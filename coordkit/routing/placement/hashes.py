"""The hash functions of other routers, by the names that they have there: needed to find the data that those placed.

Each takes the bytes of a key and returns an int of 32 or 64 bits, the same one on every machine and Python. Where a C
program adds a ``char``, bytes from 0x80 on count as negative, as on x86, where nearly all of these routers ran; an ARM
build of twemproxy or libmemcached hashes such keys differently, and keys of ASCII alike.
None of these resists a caller who chooses keys that collide; nor does any router that uses one.
"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from struct import unpack, unpack_from
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from coordkit.routing.placement.xxh64 import xxh64

_32, _64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class Hash(NamedTuple):
    """A hash function of keys: the name by which it is chosen, the number of bits of its results, itself."""

    name: str
    bits: int
    of: Callable[[bytes], int]

    def __reduce__(self) -> tuple[Callable[[str], Hash], tuple[str]]:
        # By its name: a placement may be pickled, for another process, and a closure may not.
        return hash_named, (self.name,)


def md5_words(data: bytes) -> tuple[int, int, int, int]:
    """Return the MD5 digest as four little-endian words: four points of a ketama ring."""
    a, b, c, d = unpack("<4I", hashlib.md5(data, usedforsecurity=False).digest())
    return a, b, c, d


def _md5(data: bytes) -> int:
    return md5_words(data)[0]


def _signed(data: bytes) -> Sequence[int]:
    # As 32 bits of two's complement.
    return data if data.isascii() else [byte | 0xFFFFFF00 if byte > 127 else byte for byte in data]


def _fnv1(start: int, prime: int) -> Callable[[bytes], int]:
    def of(data: bytes) -> int:
        value = start
        for byte in _signed(data):
            value = value * prime & _32 ^ byte
        return value

    return of


def _fnv1a(start: int, prime: int) -> Callable[[bytes], int]:
    def of(data: bytes) -> int:
        value = start
        for byte in _signed(data):
            value = (value ^ byte) * prime & _32
        return value

    return of


def _fnv64(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = value * 0x100000001B3 & _64 ^ byte
    return value


def _fnv64a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & _64
    return value


def _one_at_a_time(data: bytes) -> int:
    """Bob Jenkins' hash of 1997."""
    value = 0
    for byte in _signed(data):
        value = (value + byte) * 1025 & _32
        value ^= value >> 6
    value = value * 9 & _32
    value ^= value >> 11
    return value * 32769 & _32


def _crc16(data: bytes) -> int:
    """CRC16 with a remainder of 32 bits, from which nothing falls out at bit 16: so twemproxy has it."""
    value = 0
    for byte in data:
        value = value << 8 & _32 ^ crc_hqx(bytes((value >> 8 & 0xFF ^ byte,)), 0)
    return value


def _crc32(data: bytes) -> int:
    return crc32(data) >> 16 & 0x7FFF


def _crc64_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ 0xC96C5795D7870F42 if value & 1 else value >> 1
    return value


_CRC64 = tuple(_crc64_entry(byte) for byte in range(256))


def _crc64_ecma(data: bytes) -> int:
    value = _64
    for byte in data:
        value = _CRC64[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ _64


def _hsieh(data: bytes) -> int:
    """Paul Hsieh's SuperFastHash, which libmemcached and twemproxy begin at 0."""
    value, whole = 0, len(data) // 4
    halves = unpack_from(f"<{whole * 2}H", data)
    for low, high in zip(halves[::2], halves[1::2], strict=True):
        value = value + low & _32
        value = value << 16 & _32 ^ high << 11 ^ value
        value = value + (value >> 11) & _32
    rest = data[whole * 4 :]
    if len(rest) > 1:
        value = value + int.from_bytes(rest[:2], "little") & _32
        if len(rest) == 3:
            value ^= value << 16 & _32
            value ^= _signed(rest)[2] << 18 & _32
            value = value + (value >> 11) & _32
        else:
            value ^= value << 11 & _32
            value = value + (value >> 17) & _32
    elif rest:
        value = value + rest[0] & _32
        value ^= value << 10 & _32
        value = value + (value >> 1) & _32
    for left, right in ((3, 5), (4, 17), (25, 6)):
        value ^= value << left & _32
        value = value + (value >> right) & _32
    return value


def _jenkins(data: bytes) -> int:
    """Bob Jenkins' lookup3 of 2006 (hashlittle), begun at 13."""
    a: int
    b: int
    c: int
    a = b = c = 0xDEADBEEF + len(data) + 13 & _32
    if not data:
        return c
    while len(data) > 12:
        x, y, z = unpack_from("<3I", data)
        a, b, c = a + x & _32, b + y & _32, c + z & _32
        for turn in (4, 6, 8, 16, 19, 4):
            # Six steps that are one step with the names moved on.
            a = (a - c & _32) ^ _rotated(c, turn)
            a, b, c = b, c + b & _32, a
        data = data[12:]
    x, y, z = unpack("<3I", data.ljust(12, b"\0"))
    a, b, c = a + x & _32, b + y & _32, c + z & _32
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, turn) & _32
        a, b, c = b, c, a
    return b  # the last step made it c and moved the names on


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & _32


def _murmur(data: bytes) -> int:
    """MurmurHash2 of 32 bits, by Austin Appleby, seeded by the length."""
    m, whole = 0x5BD1E995, len(data) // 4
    value = 0xDEADBEEF * len(data) & _32 ^ len(data)
    for word in unpack_from(f"<{whole}I", data):
        mixed = word * m & _32
        value = value * m & _32 ^ (mixed ^ mixed >> 24) * m & _32
    rest = data[whole * 4 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * m & _32
    value = (value ^ value >> 13) * m & _32
    return value ^ value >> 15


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """Return MurmurHash3 (x86, 32 bits), by Austin Appleby, of ``data``."""
    value, whole = seed, len(data) // 4
    for word in unpack_from(f"<{whole}I", data):
        value = _rotated(value ^ _murmur3_mixed(word), 13) * 5 + 0xE6546B64 & _32
    rest = data[whole * 4 :]
    if rest:
        value ^= _murmur3_mixed(int.from_bytes(rest, "little"))
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & _32
    value = (value ^ value >> 13) * 0xC2B2AE35 & _32
    return value ^ value >> 16


def _murmur3_mixed(word: int) -> int:
    return _rotated(word * 0xCC9E2D51 & _32, 15) * 0x1B873593 & _32


def _murmur3(data: bytes) -> int:
    return murmur3_32(data, 0xDEADBEEF * len(data) & _32)


def _murmur2_64(data: bytes) -> int:
    """The std::hash of strings in libstdc++ on 64-bit machines, which Envoy hashes Redis keys with."""
    m, whole = 0xC6A4A7935BD1E995, len(data) // 8
    value = 0xC70F6907 ^ len(data) * m & _64
    for word in unpack_from(f"<{whole}Q", data):
        mixed = word * m & _64
        value = (value ^ (mixed ^ mixed >> 47) * m & _64) * m & _64
    rest = data[whole * 8 :]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * m & _64
    value = (value ^ value >> 47) * m & _64
    return value ^ value >> 47


_FNV32, _FNV64 = 0x811C9DC5, 0x84222325  # the latter is the lower half of FNV's start for 64 bits
HASHES = MappingProxyType(
    {
        name: Hash(name, bits, of)
        for name, bits, of in (
            # Of libmemcached and twemproxy. Their "64" is the lower half of FNV-1 of 64 bits.
            ("one_at_a_time", 32, _one_at_a_time),
            ("md5", 32, _md5),
            ("crc16", 32, _crc16),
            ("crc32", 15, _crc32),  # of CRC-32: on a ring, nearly one point only; libmemcached: crc
            ("crc32a", 32, crc32),
            ("fnv1_64", 32, _fnv1(_FNV64, 0x1B3)),
            ("fnv1a_64", 32, _fnv1a(_FNV64, 0x1B3)),
            ("fnv1_32", 32, _fnv1(_FNV32, 0x1000193)),
            ("fnv1a_32", 32, _fnv1a(_FNV32, 0x1000193)),
            ("hsieh", 32, _hsieh),
            ("murmur", 32, _murmur),
            ("jenkins", 32, _jenkins),
            ("murmur3", 32, _murmur3),
            # Of Go's hash/fnv and hash/crc64.
            ("fnv64", 64, _fnv64),
            ("fnv64a", 64, _fnv64a),
            ("crc64_ecma", 64, _crc64_ecma),
            # Of Envoy and go-redis.
            ("xxh64", 64, xxh64),
            ("murmur2_64", 64, _murmur2_64),
        )
    }
)


def hash_named(name: str) -> Hash:
    """Return the hash function of this name; ValueError, with the names there are, for any other."""
    try:
        return HASHES[name]
    except KeyError:
        raise ValueError(f"hash={name!r}; one of {', '.join(HASHES)} is allowed") from None
