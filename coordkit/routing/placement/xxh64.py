"""XXH64, the 64-bit hash of xxHash: what go-redis and Envoy hash with.

With the extra ``coordkit[xxhash]`` the C library does it, forty times faster; without, this file does, with the same
results. Source: the xxHash specification, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, by Y. Collet.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from struct import unpack_from

_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = 0xFFFFFFFFFFFFFFFF


def pure_xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 hash of ``data``, computed in Python."""
    length = len(data)
    offset = 0
    if length >= 32:
        lanes = [(seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed, (seed - _P1) & _MASK]
        while offset <= length - 32:
            words = unpack_from("<4Q", data, offset)
            lanes = [_round(lane, word) for lane, word in zip(lanes, words, strict=True)]
            offset += 32
        a, b, c, d = lanes
        value = (_rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        value = (seed + _P5) & _MASK
    value = (value + length) & _MASK
    while offset <= length - 8:
        (word,) = unpack_from("<Q", data, offset)
        value = (_rotated(value ^ _round(0, word), 27) * _P1 + _P4) & _MASK
        offset += 8
    if offset <= length - 4:
        (half,) = unpack_from("<I", data, offset)
        value = (_rotated(value ^ (half * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        offset += 4
    for byte in data[offset:]:
        value = _rotated(value ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 64 - by) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def _fastest() -> Callable[[bytes, int], int]:
    try:
        # By its name and not by a statement: type checkers would ask for the extra to be installed.
        compiled: Callable[[bytes, int], int] = import_module("xxhash").xxh64_intdigest
    except ImportError:
        return pure_xxh64
    return compiled


_xxh64 = _fastest()


def xxh64(data: bytes, seed: int = 0) -> int:
    """Return the XXH64 hash of ``data`` (0 to 2**64 - 1) for a seed of the same range."""
    return _xxh64(data, seed)
