"""Every section of `tests/data/ring_vectors.json`: what other routers answer is what their placements here answer."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from unit import test_routing_balance, test_routing_slots

from coordkit.routing import HASHES, envoy_ring, hrw, jump, jump_hash, ketama, maglev, modula
from coordkit.routing.placement.bounded_loads import _point
from coordkit.routing.placement.hashes import md5_words, murmur3_32
from coordkit.routing.placement.ketama import Dialect, _libketama, _libmemcached
from coordkit.routing.placement.maglev import filled_in_turn
from coordkit.routing.placement.ring import Ring
from coordkit.routing.placement.xxh64 import pure_xxh64, xxh64

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "ring_vectors.json").read_text())
WHOLE = dict(VECTORS)  # as the file says, whatever a test makes of the other


def weighed(pairs: list[tuple[str, int]]) -> tuple[list[str], dict[str, float]]:
    return [name for name, _ in pairs], {name: float(weight) for name, weight in pairs}


def row(ring: Ring, key: str) -> list[Any]:
    """Return the hash of a key, the point that takes it and the point's shard."""
    value = ring.hash.of(key.encode())
    at = bisect_left([point for point, _ in ring.points], value) % len(ring.points)
    assert ring.lookup(key) == ring.points[at][1] == ring.owner(value)
    return [value, *ring.points[at]]


def test_libketama() -> None:
    vectors = VECTORS["libketama"]
    ring = ketama(*weighed(vectors["servers_weights"]), dialect="libketama")
    assert len(ring.points) == vectors["points_total"]
    rows = vectors["sample_rows_key_hash_point_server"]
    assert [[key, *row(ring, key)] for key, *_ in rows] == rows

    python = vectors["python_ketama_tests"]
    two = ketama(*weighed(python["servers_weights"]), dialect="libketama")
    assert len(two.points) == python["points_total"]
    assert row(two, "test")[1:] == python['get_server("test")']
    assert row(two, "test")[0] == python['hashi("test")']


def test_points_are_counted_in_single_precision() -> None:
    """The numbers of equal shards at which rounding costs each a digest, as the same C expressions give them.

    (Over 20,000 random weights, compiled by gcc 12 for x86-64, they gave what is computed here.) In doubles it would
    be 7, 14, 28, 49, 56.
    """
    counts = range(1, 100)
    assert [n for n in counts if _libketama(1, n, n) != 40] == [61]
    assert [n for n in counts if _libmemcached(1, n, n) != 40] == [25, 47, 50, 55, 61, 71, 94]
    assert {_libketama(600, 4300, 8), _libmemcached(600, 4300, 8)} == {44}
    shards = [f"10.0.1.{i}:1" for i in range(25)]
    cases: list[tuple[Dialect, int]] = [
        ("libketama", 40),
        ("libmemcached", 39),
        ("spymemcached", 40),
        ("twemproxy", 39),
    ]
    for dialect, digests in cases:
        assert len(ketama(shards, dialect=dialect).points) == pytest.approx(25 * 4 * digests, abs=2)


@cache
def digest_of_a_million_lookups(ring: Ring) -> str:
    points = [point for point, _ in ring.points]
    tails = [f" {point} {name}\n" for point, name in [*ring.points, ring.points[0]]]
    of, digest = ring.hash.of, hashlib.md5(b"\n", usedforsecurity=False)
    for begin in range(0, 1_000_000, 10_000):
        values = [of(b"%d" % i) for i in range(begin, begin + 10_000)]
        digest.update("".join([f"{value}{tails[bisect_left(points, value)]}" for value in values]).encode())
    return digest.hexdigest()


def test_a_million_lookups_of_libketama() -> None:
    """The digest that its own regression test publishes: ``libketama/test.sh``."""
    vectors = VECTORS["libketama"]
    ring = ketama(*weighed(vectors["servers_weights"]), dialect="libketama")
    assert digest_of_a_million_lookups(ring) == vectors["regression_md5"]["value"]


def test_libmemcached() -> None:
    vectors = VECTORS["libmemcached_ketama"]
    servers = weighed(vectors["servers_weights"])
    plain, spy = ketama(*servers, dialect="libmemcached"), ketama(*servers, dialect="libmemcached-spy")
    for key, value, point, host in vectors["weighted_cases_key_hash_point_server"]:
        assert row(plain, key) == [value, point, f"{host}:11211"]
    for key, value, _, host in vectors["spy_cases_key_hash_unusedpoint_server"]:
        assert (spy.hash.of(key.encode()), spy.lookup(key)) == (value, f"{host}:11211")
    wrapped = vectors["wraparound_key"]
    assert row(plain, wrapped["key"]) == [wrapped["hash"], *plain.points[0]]
    assert wrapped["hash"] > plain.points[-1][0]


def test_spymemcached() -> None:
    vectors = VECTORS["spymemcached_ketama"]
    for count in (4, 5):
        names = [f"127.0.0.1:{10000 + i}" for i in range(count)]
        ring = ketama(names, dialect="spymemcached")
        cases = vectors[f"nodes{count}_127.0.0.1_ports_10000..{9999 + count}"]
        assert {key: names.index(ring.lookup(key)) for key in cases} == cases
    four = ketama([f"127.0.0.1:{10000 + i}" for i in range(4)], dialect="spymemcached")
    assert four.points[-1][0] == vectors["nodes4_max_point"]
    eight = ketama([f"10.0.1.{i}:11211" for i in range(1, 9)], dialect="spymemcached")
    rows = vectors["nodes8_10.0.1.1..8_11211_key_server"]
    assert len(rows) > 1600
    assert eight.lookup_many(key for key, _ in rows) == [server for _, server in rows]

    # Spymemcached's format for libmemcached hashes the host's name, which was localhost, not its address.
    like = vectors["weighted_libmemcached_format"]
    names, weights = weighed([(node.replace("127.0.0.1", "localhost"), weight) for node, weight in like["nodes"]])
    ring = ketama(names, weights, dialect="libmemcached")
    assert {key: ring.lookup(key).replace("localhost", "127.0.0.1") for key in like["cases"]} == like["cases"]


def test_hash_functions_of_libmemcached() -> None:
    vectors = VECTORS["libmemcached_hash_functions"]
    assert len(vectors["outputs_u32"]) == 11
    for name, outputs in vectors["outputs_u32"].items():
        of = HASHES["crc32" if name == "crc" else name].of  # twemproxy's name for it
        assert [of(word.encode()) for word in vectors["inputs"]] == outputs, name


def test_twemproxy() -> None:
    vectors = VECTORS["twemproxy"]
    for name, key, value in vectors["hash_function_key_value"]:
        assert HASHES[name].of(key.encode()) == value, name
    for label, alignment, value in vectors["ketama_hash_label_alignment_value"]:
        assert md5_words(label.encode())[alignment] == value
    # The labels are those of libmemcached, the hash of keys another: by the same one the two are the same ring.
    servers = weighed(VECTORS["libmemcached_ketama"]["servers_weights"])
    same = ketama(*servers, dialect="twemproxy", hash="md5")
    assert same == ketama(*servers, dialect="libmemcached")
    ring = ketama(*servers, dialect="twemproxy")
    assert ring.points == same.points
    assert row(ring, "apple")[0] == 1488911807
    assert modula(["a", "b", "c"], hash="fnv1a_64").lookup("apple") == "abc"[1488911807 % 3]


def test_jump() -> None:
    vectors = VECTORS["jump"]
    for value, buckets, bucket in vectors["key_buckets_bucket"]:
        assert jump_hash(value, buckets) == bucket
    for value, expected in vectors["key_to_buckets_for_n_from_1"]:
        assert [jump_hash(value, n) for n in range(1, len(expected) + 1)] == expected
    names = {"crc32": "crc32a", "fnv1_64": "fnv64", "fnv1a_64": "fnv64a"}  # Go's functions; twemproxy's are others
    for key, count, name, bucket in vectors["string_cases_key_n_hash_bucket"]:
        placement = jump([str(i) for i in range(count)], hash=names.get(name, name))
        assert placement.lookup(key) == str(bucket), key


@pytest.mark.parametrize("value", [-1, 0, 1, 2, 2**63 - 1, -(2**63)])
def test_jump_goes_to_the_new_bucket_or_stays(value: int) -> None:
    """Guava's invariant; Guava tries every number to 100000, here they are fewer above a thousand."""
    last = 0
    for n in [*range(1, 1000), *range(1000, 100_001, 997)]:
        bucket = jump_hash(value, n)
        assert bucket == jump_hash(value, n - 1) or bucket == n - 1 if n > 1 else bucket == 0
        assert bucket >= last
        last = bucket


def siphash24(data: bytes, k0: int, k1: int) -> int:
    """SipHash-2-4 (Aumasson and Bernstein 2012), which go-maglev permutes by; no placement needs it."""
    mask = 2**64 - 1
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotated(value: int, by: int) -> int:
        return (value << by | value >> 64 - by) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0], v[2] = v[0] + v[1] & mask, v[2] + v[3] & mask
            v[1], v[3] = rotated(v[1], 13) ^ v[0], rotated(v[3], 16) ^ v[2]
            v[0] = rotated(v[0], 32)
            v[2], v[0] = v[2] + v[1] & mask, v[0] + v[3] & mask
            v[1], v[3] = rotated(v[1], 17) ^ v[2], rotated(v[3], 21) ^ v[0]
            v[2] = rotated(v[2], 32)

    padded = data + b"\0" * (-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_maglev() -> None:
    for hosts, size, weights, table in VECTORS["maglev"]["envoy"]["cases_hosts_M_weights_table"]:
        placement = maglev(hosts[::-1], dict(zip(hosts, weights, strict=True)) if weights else None, table_size=size)
        assert [hosts.index(name) for name in placement.table] == table

    paper = VECTORS["maglev"]["paper_table1"]
    steps = [(3, 4), (0, 2), (3, 1)]
    assert [[(offset + skip * j) % 7 for j in range(7)] for offset, skip in steps] == paper["permutations"]
    assert filled_in_turn(steps, 7, [1, 1, 1]) == paper["lookup_before"]
    without = [(0, 2)[i] for i in filled_in_turn([steps[0], steps[2]], 7, [1, 1])]
    assert without == paper["lookup_after_B1_removed"]

    go = VECTORS["maglev"]["dgryski"]
    size = go["M"]
    hashed = [siphash24(name.encode(), 0xDEADBEEFCAFEBABE, 0) for name in go["names"]]
    steps = [((value >> 32) % size, (value & 0xFFFFFFFF) % (size - 1) + 1) for value in hashed]
    assert [[(offset + skip * j) % size for j in range(size)] for offset, skip in steps] == go["permutations"]
    assert filled_in_turn(steps, size, [1, 1, 1]) == go["lookup"]
    assert [(0, 2)[i] for i in filled_in_turn([steps[0], steps[2]], size, [1, 1])] == go["lookup_with_dead_[1]"]


def test_envoy_ring() -> None:
    vectors = VECTORS["envoy_ring_hash"]
    ring = envoy_ring([f"127.0.0.1:{port}" for port in range(90, 96)], minimum_ring_size=12)
    assert [[name, point] for point, name in ring.points] == vectors["ring_ip_port_position"]
    assert [[value, ring.owner(value)] for value, _ in vectors["lookups_hash_host"]] == vectors["lookups_hash_host"]
    by_name = envoy_ring([str(port) for port in range(90, 96)], minimum_ring_size=12)
    assert [[name, point] for point, name in by_name.points] == vectors["ring_hostname_position"]
    murmur = envoy_ring(
        [f"127.0.0.1:{port}" for port in range(80, 86)], minimum_ring_size=12, hash_function="murmur2_64"
    )
    assert [[name, point] for point, name in murmur.points] == vectors["murmur2_ring_ip_position"]
    # The hash of keys is the same murmur2: no vector of Envoy has one, but the points above are its results.
    assert ring.hash is murmur.hash is HASHES["murmur2_64"]


@pytest.mark.parametrize("of", [xxh64, pure_xxh64], ids=["the one in use", "in Python"])
def test_xxh64(of: Any) -> None:
    for text, seed, value in VECTORS["xxh64"]["input_seed_hash"]:
        assert of(text.encode(), seed) == value


def test_pymemcache() -> None:
    vectors = VECTORS["rendezvous_murmur3"]
    for text, seed, value in vectors["murmur3_32"]:
        assert murmur3_32(text.encode(), seed) == value
    for nodes, winners in vectors["nodes_key_winner"]:
        placement = hrw(nodes, dialect="pymemcache")
        assert {key: placement.lookup(key) for key in winners} == winners

    # Clandestined takes one node from each of two zones, beginning at a zone by the sum of the key's characters.
    zoned = vectors["clandestined_zones_2_replicas"]
    zones = [hrw(nodes, dialect="pymemcache") for _, nodes in sorted(zoned["node_zone"].items())]
    for key, nodes in zoned["key_nodes"].items():
        begin = sum(map(ord, key)) % len(zones)
        assert sorted(zones[(begin + i) % len(zones)].lookup(key) for i in range(2)) == sorted(nodes), key


def test_go_redis() -> None:
    vectors = VECTORS["go_redis_ring_rendezvous"]
    placement = hrw(vectors["shards"])
    assert Counter(placement.lookup(f"key{i}") for i in range(100)) == vectors["counts_for_key0..key99"]
    assert (
        Counter(placement.lookup(f"key{i}{{tag}}") for i in range(100)) == vectors["counts_for_key0{tag}..key99{tag}"]
    )
    rows = vectors["derived_first_20"]
    assert [[key, placement.lookup(key)] for key, _ in rows] == rows


def test_uhashring() -> None:
    """Its default ring is of its own kind; its ketama is libketama's, but for keys that equal a point."""
    vectors = VECTORS["uhashring"]
    digest = hashlib.md5(b"test", usedforsecurity=False)
    assert int(digest.hexdigest(), 16) == vectors['md5_int("test")']
    assert md5_words(b"test")[0] == vectors['ketama_hashi("test")']
    # With three replicas it takes three of a digest's four words.
    points = [(point, name) for name in "1234" for k in range(40) for point in md5_words(f"{name}-{k}".encode())[:3]]
    ring = Ring(tuple("1234"), tuple(points), HASHES["md5"])
    assert ring.lookup("foo") == str(vectors['ketama_nodes_1_2_3_4_replicas_3_get_node("foo")'])


def test_a_key_at_a_point_belongs_to_it() -> None:
    """uhashring gives such a key to the next point."""
    names = [f"10.0.1.{i}:11211" for i in range(1, 9)]
    ring = ketama(names, dialect="libketama")
    for name in names:
        assert ring.lookup(f"{name}-0") == name
        assert ring.owner(md5_words(f"{name}-7".encode())[3]) == name


def test_points_that_collide() -> None:
    """The owner of a point that two shards have is the same whatever the order, and returns when the other goes."""
    (point, labels), *none = VECTORS["ketama_real_collision"]["points"].items()
    assert not none
    for name, k, word in labels:
        assert md5_words(f"{name}-{k}".encode())[word] == int(point)
    names = VECTORS["uhashring"]["ketama_colliding_node_names"]
    first, second = sorted(name for name, _, _ in labels)
    for order in (names, names[::-1], names[1:] + names[:1]):
        ring = ketama(order, dialect="libketama")
        assert ring == ketama(names, dialect="libketama")
        assert ring.owner(int(point)) == first
        assert len(ring.points) == 3 * 160 - 1
    left = ketama([name for name in names if name != first], dialect="libketama")
    assert left.owner(int(point)) == second


def test_labels_of_points_have_a_separator() -> None:
    (one, i), (other, j) = VECTORS["ringpop_concat_collision"]["labels"]
    assert one + i == other + j
    assert _point(f"{i}:{one}") != _point(f"{j}:{other}")
    ring = ketama(["s1:1", "s1:11"], dialect="libketama")
    assert len(ring.points) == 320


# Where each section is checked, for the test below: a section that is added to the file must be added here.
CHECKED: dict[str, list[Callable[[], None]]] = {
    "libketama": [test_libketama, test_a_million_lookups_of_libketama],
    "libmemcached_ketama": [test_libmemcached],
    "libmemcached_hash_functions": [test_hash_functions_of_libmemcached],
    "twemproxy": [test_twemproxy],
    "spymemcached_ketama": [test_spymemcached],
    "jump": [test_jump],
    "maglev": [test_maglev],
    "envoy_ring_hash": [test_envoy_ring],
    "redis_cluster_slots": [
        test_routing_slots.test_the_checksum_is_crc16_xmodem,
        test_routing_slots.test_slots_of_the_cluster_specification_and_of_the_client_libraries,
        test_routing_slots.test_slots_of_binary_keys,
        test_routing_slots.test_keys_of_one_tag_share_a_slot,
        test_routing_slots.test_slots_that_a_live_server_gave_to_odd_and_broken_tags,
    ],
    "xxh64": [partial(test_xxh64, xxh64), partial(test_xxh64, pure_xxh64)],
    "smooth_wrr": [test_routing_balance.test_smooth_weighted_round_robin_is_nginx_s],
    "rendezvous_murmur3": [test_pymemcache],
    "uhashring": [test_uhashring, test_points_that_collide],
    "ketama_real_collision": [test_points_that_collide],
    "ringpop_concat_collision": [test_labels_of_points_have_a_separator],
    "go_redis_ring_rendezvous": [test_go_redis],
}

ELSEWHERE = {"redis_cluster_slots": test_routing_slots, "smooth_wrr": test_routing_balance}  # they read it themselves

# What is said in words, about the values beside it.
PROSE = re.compile(r"[._](sources?|notes?|rule|score|invariant|goes_to|of|published_in)$|^maglev\.\w+\.hash$")


def places(value: Any, name: str) -> Iterator[list[Any]]:
    """Yield the way to each value of a section that some test should miss: of a list, to the last of its items."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not PROSE.search(f"{name}.{key}"):
                yield from ([key, *way] for way in places(part, f"{name}.{key}"))
    elif isinstance(value, list) and value:
        yield from ([len(value) - 1, *way] for way in list(places(value[-1], name))[-1:])
    else:
        yield []


def damaged(value: Any, way: list[Any]) -> Any:
    """Return a copy of a section whose value at the end of ``way`` is another."""
    if not way:
        return f"{value}~" if isinstance(value, str) else value * 3 + 1
    value = copy.copy(value)
    value[way[0]] = damaged(value[way[0]], way[1:])
    return value


def notices(monkeypatch: pytest.MonkeyPatch, section: str, value: Any) -> bool:
    """Return whether a check of a section fails when the section is this."""
    for check in CHECKED[section]:
        with monkeypatch.context() as patch:
            patch.setitem(VECTORS, section, value)
            if section in ELSEWHERE:
                patch.setattr(ELSEWHERE[section], "VECTORS", value)
            try:
                check()
            except (AssertionError, LookupError, ValueError):
                return True
    return False


@pytest.mark.parametrize("section", WHOLE)
def test_every_section_is_checked(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its values, one at a time, is made wrong, and one of its checks must fail for it."""
    assert not notices(monkeypatch, section, WHOLE[section])
    ways = list(places(WHOLE[section], section))
    assert ways
    unseen = [way for way in ways if not notices(monkeypatch, section, damaged(WHOLE[section], way))]
    assert unseen == []
