"""XXH64 in Python and in C give the same results, and hash functions are chosen by their names."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit.routing import HASHES
from coordkit.routing.placement import xxh64 as module
from coordkit.routing.placement.xxh64 import pure_xxh64, xxh64

xxhash: Any = importlib.import_module("xxhash")  # of the dev group, so that this is never skipped


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_xxh64_in_python_is_that_of_the_library(data: bytes, seed: int) -> None:
    assert pure_xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed) == xxh64(data, seed)


def test_xxh64_in_python_is_that_of_the_library_for_every_length() -> None:
    for length in range(200):
        data = bytes(i * 151 % 256 for i in range(length))
        assert pure_xxh64(data, length) == xxhash.xxh64_intdigest(data, length)


def test_the_library_is_used_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._fastest() is xxhash.xxh64_intdigest
    fake = ModuleType("xxhash")
    monkeypatch.setattr(fake, "xxh64_intdigest", lambda *_: 7, raising=False)
    monkeypatch.setitem(sys.modules, "xxhash", fake)
    assert module._fastest()(b"", 0) == 7
    monkeypatch.setitem(sys.modules, "xxhash", None)  # which import takes for not installed
    assert module._fastest() is pure_xxh64


@given(st.binary(max_size=80))
def test_results_are_in_range(data: bytes) -> None:
    for name, hashed in HASHES.items():
        assert hashed.name == name
        assert 0 <= hashed.of(data) < 1 << hashed.bits


def test_bytes_above_ascii_count_as_negative_where_c_has_a_signed_char() -> None:
    """As on x86: by hand, for a key of the one byte 0x80."""
    assert HASHES["fnv1a_32"].of(b"\x80") == (0x811C9DC5 ^ 0xFFFFFF80) * 0x01000193 % 2**32
    assert HASHES["fnv1_64"].of(b"\x80") == (0x84222325 * 0x1B3 % 2**32) ^ 0xFFFFFF80
    assert HASHES["fnv64a"].of(b"\x80") == (0xCBF29CE484222325 ^ 0x80) * 0x100000001B3 % 2**64  # Go's byte is unsigned
