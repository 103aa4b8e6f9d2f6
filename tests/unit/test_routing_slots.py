"""Slots: exactly those of Redis Cluster, for every reference vector."""

from __future__ import annotations

import json
from binascii import crc_hqx
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordkit.routing import SLOTS, slot_of
from coordkit.routing.placement.slots import tagged

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "ring_vectors.json").read_text())[
    "redis_cluster_slots"
]


def test_the_checksum_is_crc16_xmodem() -> None:
    for text, crc in VECTORS["crc16_xmodem"].items():
        assert crc_hqx(text.encode(), 0) == crc
        assert slot_of(text) == crc % SLOTS  # none of these has a tag


def test_slots_of_the_cluster_specification_and_of_the_client_libraries() -> None:
    assert {key: slot_of(key) for key in VECTORS["slot"]} == VECTORS["slot"]


def test_slots_of_binary_keys() -> None:
    for text, crc, slot in VECTORS["binary_hex_crc16_slot"]:
        key = bytes.fromhex(text)
        assert (crc_hqx(key, 0), slot_of(key)) == (crc, slot)


def test_keys_of_one_tag_share_a_slot() -> None:
    for one, other in VECTORS["same_slot_pairs"]:
        assert slot_of(one) == slot_of(other)


def test_slots_that_a_live_server_gave_to_odd_and_broken_tags() -> None:
    live = VECTORS["live_redis_7.0.15_CLUSTER_KEYSLOT_keyhex_slot"]
    assert len(live) > 100
    assert [slot_of(bytes.fromhex(key)) for key, _ in live] == [slot for _, slot in live]


@given(st.text())
def test_str_and_bytes_are_one_key(key: str) -> None:
    key = key.encode(errors="ignore").decode()
    assert slot_of(key) == slot_of(key.encode())
    assert 0 <= slot_of(key) < SLOTS


@given(st.binary(min_size=1).filter(lambda tag: b"}" not in tag), st.binary(), st.binary())
def test_only_the_first_tag_counts(tag: bytes, before: bytes, after: bytes) -> None:
    before = before.replace(b"{", b"")
    assert tagged(before + b"{" + tag + b"}" + after) == tag
