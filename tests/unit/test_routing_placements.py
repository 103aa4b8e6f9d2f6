"""What holds of every placement: order, history, process, keys, weights, `diff`, preference lists, swaps."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import combinations
from math import lcm, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordkit.errors import NoNodes
from coordkit.routing import (
    HASHES,
    SLOTS,
    Placement,
    SlotMap,
    bounded_loads,
    envoy_ring,
    hrw,
    jump,
    jump_hash,
    ketama,
    maglev,
    modula,
    rendezvous,
    slot_map,
)
from coordkit.routing.placement.hashes import Hash
from coordkit.routing.placement.ring import Ring
from coordkit.routing.placement.table import Table, kept

Maker = Callable[..., Placement]

SLOTTED: dict[str, Maker] = {"rendezvous": rendezvous, "slot_map": slot_map, "bounded_loads": bounded_loads}
WEIGHTED: dict[str, Maker] = {
    **SLOTTED,
    "libketama": lambda *args, **kwargs: ketama(*args, dialect="libketama", **kwargs),
    "libmemcached": lambda *args, **kwargs: ketama(*args, dialect="libmemcached", **kwargs),
    "libmemcached-spy": lambda *args, **kwargs: ketama(*args, dialect="libmemcached-spy", **kwargs),
    "twemproxy": lambda *args, **kwargs: ketama(*args, dialect="twemproxy", **kwargs),
    "envoy_ring": lambda *args, **kwargs: envoy_ring(*args, minimum_ring_size=4096, **kwargs),
    "maglev": lambda *args, **kwargs: maglev(*args, table_size=1009, **kwargs),
    "modula": modula,
}
KINDS: dict[str, Maker] = {
    **WEIGHTED,
    "spymemcached": lambda *args, **kwargs: ketama(*args, dialect="spymemcached", **kwargs),
    "go-redis": hrw,
    "pymemcache": lambda *args, **kwargs: hrw(*args, dialect="pymemcache", **kwargs),
    "jump": jump,
}
COUNTED = {"modula", "jump"}  # these count the shards off: the order of the list is theirs

KEYS = [f"user:{i}" for i in range(300)] + [f"{{tag {i}}}:é" for i in range(20)]
# Not numbered: twemproxy's own hash puts keys that differ at their end alone in clumps, a few thousand of them.
RANDOM = [hashlib.blake2b(b"%d" % i, digest_size=12).hexdigest() for i in range(5000)]
kinds = pytest.mark.parametrize("kind", KINDS)
names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=6, unique=True)
quick = settings(max_examples=10, deadline=None)  # a deadline would measure the machine


def seeded(kind: str) -> Iterator[list[str]]:
    """Yield lists of names, among them some that are repetitions and joints of each other."""
    source = random.Random(kind)
    yield ["1", "11", "111", "1:1", "1-1"]
    yield ["solo"]
    for count in (2, 6):
        yield [f"10.0.{source.randrange(256)}.{i}:{source.choice((6379, 11211))}" for i in range(count)]


@kinds
def test_the_order_of_the_names_does_not_matter(kind: str) -> None:
    for shards in seeded(kind):
        placement = KINDS[kind](shards)
        assert set(placement.shards) == set(shards)
        for order in (shards[::-1], shards[1:] + shards[:1], dict.fromkeys(shards)):
            other = KINDS[kind](order)
            if kind not in COUNTED:
                assert other == placement
                assert other.checksum() == placement.checksum()
                assert other.lookup_many(KEYS) == placement.lookup_many(KEYS)
        if kind in COUNTED and len(shards) > 1:
            assert KINDS[kind](shards[::-1]).checksum() != placement.checksum()


@pytest.mark.parametrize("kind", sorted(set(WEIGHTED) - COUNTED - {"envoy_ring"}))
def test_the_order_of_weights_does_not_matter(kind: str) -> None:
    for shards in seeded(kind):
        weights = {name: 1 + i % 3 for i, name in enumerate(shards)}
        backwards = dict(reversed(weights.items()))
        assert WEIGHTED[kind](shards[::-1], backwards) == WEIGHTED[kind](shards, weights)


@kinds
def test_history_does_not_matter(kind: str) -> None:
    """The same names make the same, whatever was made on the way: a shard that returns finds its keys."""
    for shards in seeded(kind):
        before = KINDS[kind](shards)
        joined = KINDS[kind]([*before.shards, "late"])
        again = KINDS[kind]([name for name in joined.shards if name != "late"])
        assert again == before
        assert again.checksum() == before.checksum()
        assert before.diff(again) == 0


@kinds
def test_str_and_bytes_are_one_key(kind: str) -> None:
    placement = KINDS[kind](["a", "b", "c"])
    encoded = [key.encode() for key in KEYS]
    owners = [placement.lookup(key) for key in KEYS]
    assert [placement.lookup(key) for key in encoded] == owners
    assert placement.lookup_many(iter(KEYS)) == placement.lookup_many(encoded) == owners
    assert [placement.owners(key, 3) for key in KEYS] == [placement.owners(key, 3) for key in encoded]
    assert placement.lookup_many([]) == []
    assert len(set(owners)) == 3


@kinds
@quick
@given(names, st.binary(max_size=70))
def test_any_key_has_one_owner(kind: str, shards: list[str], key: bytes) -> None:
    placement = KINDS[kind](shards)
    assert placement.lookup(key) == placement.owners(key)[0] == placement.lookup_many([key])[0]
    assert sorted(placement.owners(key, len(shards))) == sorted(shards)


@kinds
def test_owners_are_distinct_and_begin_with_the_owner(kind: str) -> None:
    shards = [f"redis-{i}" for i in range(6)]
    placement = KINDS[kind](shards)
    stand_ins: dict[str, Counter[str]] = {name: Counter() for name in shards}
    for key in RANDOM[:1200]:
        owners = placement.owners(key, 6)
        assert owners[0] == placement.lookup(key)
        assert sorted(owners) == shards
        for n in range(1, 6):
            assert placement.owners(key, n) == owners[:n]
        stand_ins[owners[0]][owners[1]] += 1
    if kind != "modula":  # whose next is the next of the list, as it is for clients that count on
        for name, counts in stand_ins.items():
            assert len(counts) == 5, f"the load of {name} would go to {counts}"
    for n in (0, 7, -1):
        with pytest.raises(ValueError, match=rf"n={n}; 1 to 6"):
            placement.owners("key", n)


def test_the_walk_for_stand_ins_meets_each_slot_once() -> None:
    placement = rendezvous(["a", "b", "c"], {"a": 5})
    for i in range(40):
        assert Counter(placement._preference(f"key:{i}")) == placement.counts()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"modula", "slot_map", "bounded_loads", "maglev", "jump"}))
def test_of_the_owners_that_stay_few_change_when_a_shard_comes(kind: str) -> None:
    shards = [f"redis-{i}" for i in range(9)]
    before, after = KINDS[kind](shards), KINDS[kind]([*shards, "new"])
    keys = RANDOM[:2000]
    changed = sum(before.owners(key, 2) != after.owners(key, 2) for key in keys)
    assert changed / len(keys) < 0.32  # 2/10 for the new shard's own part, and what the rings' imbalance adds


# --- shares and weights


@kinds
def test_shares_are_what_is_counted(kind: str) -> None:
    placement = KINDS[kind](["a", "b", "c", "d"])
    shares = placement.shares()
    assert list(shares) == list(placement.shards)
    assert sum(shares.values()) == pytest.approx(1)
    counted = Counter(placement.lookup_many(RANDOM))
    for name, share in shares.items():
        assert abs(counted[name] / len(RANDOM) - share) < 6 * sqrt(share * (1 - share) / len(RANDOM))


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_are_honoured(kind: str) -> None:
    shards = [f"10.0.0.{i}:6379" for i in range(6)]
    weights = dict(zip(shards, (1, 2, 3, 1, 2, 3), strict=True))
    shares = WEIGHTED[kind](shards, weights).shares()
    for name, weight in weights.items():
        exact = weight / 12
        if kind in {"rendezvous", "slot_map"}:
            assert abs(shares[name] - exact) <= 1 / SLOTS
        elif kind == "bounded_loads":
            assert exact * 0.5 < shares[name] <= exact * 1.25 + 1 / SLOTS
        elif kind == "maglev":
            assert abs(shares[name] - exact) <= 2 / 1009
        elif kind == "modula":
            assert shares[name] == pytest.approx(exact)
        else:  # a ring; of 160 points for the mean weight, or of 4096 in all
            assert exact * 0.6 < shares[name] < exact * 1.6


# --- diff


def tiny(bits: int) -> Hash:
    return Hash(f"tiny{bits}", bits, lambda key: int.from_bytes(key, "big"))


@quick
@given(st.data())
def test_the_difference_of_rings_is_what_brute_force_counts(data: st.DataObject) -> None:
    point = st.tuples(st.integers(0, 1023), st.sampled_from("abcde"))
    bits = data.draw(st.sampled_from([10, 10, 8]))  # with 8, of points up to 1023 some are never met
    one, other = (
        Ring(tuple("abcde"), tuple(data.draw(st.lists(point, min_size=1, max_size=30))), tiny(bits)) for _ in range(2)
    )
    values = range(1 << bits)
    moved = sum(one.owner(value) != other.owner(value) for value in values)
    assert one.diff(other) == other.diff(one) == moved / len(values)
    counted = Counter(one.owner(value) for value in values)
    assert one.shares() == {name: counted[name] / len(values) for name in "abcde"}
    for value in values:  # the definition: the first point at or after the value, round the ring
        at = min(one.points, key=lambda pair: ((pair[0] - value) % 1024, pair[1]))
        assert one.owner(value) == one.lookup(value.to_bytes(2, "big")) == at[1]


@quick
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=24), st.lists(st.sampled_from("abc"), min_size=1))
def test_the_difference_of_tables_is_what_brute_force_counts(one: list[str], other: list[str]) -> None:
    period = lcm(len(one), len(other))
    same = sum(one[value % len(one)] == other[value % len(other)] for value in range(period))
    assert kept(tuple(one), tuple(other)) == Fraction(same, period)
    left, right = (Table(tuple("abc"), tuple(table), HASHES["xxh64"]) for table in (one, other))
    assert left.diff(right) == right.diff(left) == float(1 - Fraction(same, period))


@pytest.mark.parametrize("kind", SLOTTED)
def test_the_difference_of_slot_maps_is_what_brute_force_counts(kind: str) -> None:
    for some, others in combinations([list("abc"), list("abcd"), list("bcx"), list("z")], 2):
        one, other = SLOTTED[kind](some), SLOTTED[kind](others)
        assert isinstance(one, SlotMap)
        assert isinstance(other, SlotMap)
        moved = sum(one.owner(slot) != other.owner(slot) for slot in range(SLOTS))
        assert one.diff(other) == other.diff(one) == moved / SLOTS
        assert one.diff(one) == 0
        assert sum(map(len, one.moves(other).values())) == moved


@kinds
def test_the_difference_is_what_keys_show(kind: str) -> None:
    """Over keys, to within chance: for jump and rendezvous there is no table whose places could be counted."""
    shards = [f"10.0.0.{i}:6379" for i in range(5)]
    keys = RANDOM[:3000]
    one = KINDS[kind](shards)
    for others in ([*shards, "new"], shards[:-1], shards[1:], ["x", *shards[1:3], "y"], ["x"], shards[::-1]):
        other = KINDS[kind](others)
        share = one.diff(other)
        moved = sum(a != b for a, b in zip(one.lookup_many(keys), other.lookup_many(keys), strict=True))
        assert abs(moved / len(keys) - share) <= 6 * sqrt(share * (1 - share) / len(keys))
        assert other.diff(one) == pytest.approx(share)


def test_placements_that_hash_keys_differently_are_not_compared() -> None:
    shards = ["a", "b", "c"]
    all_kinds = {kind: make(shards) for kind, make in KINDS.items()}
    for (kind, one), (other_kind, other) in combinations(all_kinds.items(), 2):
        alike = one._keyspace() == other._keyspace()
        assert alike == ({kind, other_kind} <= {*SLOTTED} or {kind, other_kind} <= {
            "libketama", "libmemcached", "libmemcached-spy", "spymemcached"
        })  # fmt: skip
        if not alike:
            with pytest.raises(ValueError, match=r"hashes keys by .* count with lookup_many over keys of your own"):
                one.diff(other)
    with pytest.raises(ValueError, match="hashes keys by"):
        hrw(shards).diff(hrw(shards, hash_tags=False))


# --- no needless move


@pytest.mark.parametrize("kind", ["go-redis", "pymemcache", "spymemcached", "jump", "libketama"])
def test_only_to_the_new_shard_does_a_key_move(kind: str) -> None:
    """Rings of equal weights, rendezvous hashing and jump at its end are minimal."""
    shards = [f"10.0.0.{i}:6379" for i in range(10)]
    keys = RANDOM[:3000]
    before, after = KINDS[kind](shards), KINDS[kind]([*shards, "10.0.0.99:6379"])
    moved = [pair for pair in zip(before.lookup_many(keys), after.lookup_many(keys), strict=True) if len({*pair}) > 1]
    assert {to for _, to in moved} == {"10.0.0.99:6379"}
    assert 0.04 < len(moved) / len(keys) < 0.15


def test_of_maglev_hardly_a_key_moves_needlessly() -> None:
    shards = [f"10.0.0.{i}:6379" for i in range(10)]
    before, after = maglev(shards), maglev([*shards, "new"])
    needless = sum(a != b != "new" for a, b in zip(before.table, after.table, strict=True)) / 65537
    assert needless < 0.01
    assert abs(before.diff(after) - 1 / 11) < 0.01


@pytest.mark.parametrize("bound", [1.0, 1.05, 1.25, 3.0])
def test_bounded_loads_are_bounded_and_move_the_less_the_looser(bound: float) -> None:
    shards = [f"redis-{i}" for i in range(10)]
    before, after = bounded_loads(shards, bound=bound), bounded_loads([*shards, "new"], bound=bound)
    assert max(before.counts().values()) <= bound * SLOTS / 10 + 1
    needless = sum(a != b != "new" for a, b in zip(before.table, after.table, strict=True)) / SLOTS
    assert needless < {1.0: 0.6, 1.05: 0.3, 1.25: 0.05, 3.0: 1e-9}[bound]


# --- the same everywhere

PROGRAM = """
from coordkit.routing import *
from coordkit.routing.placement.xxh64 import pure_xxh64
shards, weights = {"users-a", "users-b", "users-c", "\\u00e9"}, {"users-b": 3}
hashed = sorted(shards)
made = [
    rendezvous(shards, weights), slot_map(shards, weights), bounded_loads(shards, weights),
    slot_map(shards).rebalance(shards - {"users-a"} | {"x"}, {"x": 0.3}),
    *(ketama(shards, weights, dialect=d)
      for d in ("libketama", "libmemcached", "libmemcached-spy", "twemproxy")),
    ketama(shards, dialect="spymemcached"),
    envoy_ring(hashed, weights), maglev(shards, weights), hrw(shards), hrw(shards, dialect="pymemcache"),
    modula(hashed, weights), jump(hashed), rendezvous(shards, weights, bound=1.05),
]
for placement in made:
    keys = [f"{{user {i}}}:\\u00e9" for i in range(50)] + [bytes([i, 255 - i]) for i in range(50)]
    owners = "".join(str(hashed.index(name) if name in hashed else 9) for name in placement.lookup_many(keys))
    last = placement.owners("key", len(placement.shards))[-1]
    print(placement.checksum(), hex(pure_xxh64(owners.encode()))[-6:], ascii(last))
"""
PRINTED = r"""
404c1d8358f3aaac 68f5dd 'users-a'
db8e18b1469099ca e7cff3 'users-b'
12394a6992182190 8dd96f '\xe9'
b9b5e012be3a362e f929ba 'x'
2dac08bac30e5b3b 193560 'users-a'
2dac08bac30e5b3b 193560 'users-a'
6adef2bdfa3ab90b b860b3 'users-a'
d67f4de1bc271e71 8c59cc '\xe9'
a477654f62b8cc19 3e9488 'users-a'
ea596147b20ebf4f 688978 'users-a'
504213561ac98f19 df52ce 'users-c'
0ae5775035b49a24 c285ea 'users-a'
77d623de64116231 560745 'users-c'
e03d761021bc97e4 60d98d 'users-b'
b4dc30812bcad8d4 132690 'users-c'
36adbcac3d85c433 68f5dd 'users-a'
""".strip()


@pytest.mark.parametrize("seed", ["0", "1", "4294967295"])
@pytest.mark.parametrize("extra", [True, False], ids=["xxhash if installed", "without xxhash"])
def test_all_placements_are_the_same_in_every_process_and_for_ever(seed: str, extra: bool, tmp_path: Any) -> None:
    """A later coordkit, another Python, another machine or hash seed must not move anybody's data."""
    path = list(sys.path)
    if not extra:
        (tmp_path / "xxhash.py").write_text("raise ImportError('as if it were not installed')\n")
        path.insert(0, str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert done.stdout.strip() == PRINTED


@kinds
def test_checksums_tell_placements_apart(kind: str) -> None:
    make = KINDS[kind]
    made = [make(["a", "b"]), make(["a", "c"]), make(["a", "b", "c"]), make(["ab"]), make(["a", "ab"])]
    if kind in WEIGHTED:
        made.append(make(["a", "b"], {"a": 2}))
    if kind not in SLOTTED:
        made.append(make(["a", "b"], hash_tags=not made[0].hash_tags))
    assert len({placement.checksum() for placement in made}) == len(made)
    assert re.fullmatch("[0-9a-f]{16}", made[0].checksum())


def test_all_kinds_have_different_checksums() -> None:
    shards = ["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211"]
    made = {kind: make(shards).checksum() for kind, make in KINDS.items()}
    assert made.pop("spymemcached") == made["libketama"]  # the same ring, as long as the weights are equal
    assert len(set(made.values())) == len(made)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {*SLOTTED}))
def test_hash_tags_keep_keys_together_if_they_are_asked_for(kind: str) -> None:
    shards = [f"redis-{i}" for i in range(8)]
    keys = [f"{{user 1}}:{end}" for end in RANDOM[:50]]
    tagged, whole = KINDS[kind](shards, hash_tags=True), KINDS[kind](shards, hash_tags=False)
    assert (tagged.hash_tags, whole.hash_tags) == (True, False)
    assert set(tagged.lookup_many(keys)) == {tagged.lookup("user 1")} == {tagged.owners(keys[7], 2)[0]}
    assert len(set(whole.lookup_many(keys))) > 3
    assert KINDS[kind](shards).hash_tags == (kind == "go-redis")
    assert whole.lookup("{}x") == tagged.lookup("{}x")


# --- immutable: any thread reads it while another swaps


def test_ten_thousand_lookups_during_a_thousand_swaps_belong_each_to_one_epoch() -> None:
    """The names carry the epoch: an answer that mixes two would show, and so would an error."""
    keys = [f"key:{i}" for i in range(40)]

    def epoch(number: int) -> Placement:
        shards = [f"{number}/{i}" for i in range(2 + number % 4)]
        kind = ("jump", "go-redis", "modula", "small ring")[number % 4]
        if kind == "small ring":
            points = ((number * 7919 + i * 104729, shards[i % len(shards)]) for i in range(40))
            return Ring(tuple(shards), tuple(points), HASHES["crc32a"])
        return KINDS[kind](shards)

    epochs = [epoch(number) for number in range(1000)]
    right = [placement.lookup_many(keys) for placement in epochs]
    current = [epochs[0]]
    at = [0]
    checked, wrong = Counter[str](), []
    ready = threading.Barrier(5)

    def read(thread: int) -> None:
        ready.wait(20)
        source = random.Random(thread)
        done = 0
        while done < 2500 or at[0] < 999:
            first = at[0]
            place = source.randrange(len(keys))
            answer = current[0].lookup(keys[place])
            batch = current[0].lookup_many(keys)
            last = at[0] + 1  # the swap comes before its number is told
            number = int(answer.partition("/")[0])
            if not (first <= number <= last and answer == right[number][place]):
                wrong.append((first, last, answer))
            if batch != right[int(batch[0].partition("/")[0])]:
                wrong.append((first, last, str(batch)))
            done += 1
        checked[f"thread {thread}"] = done

    def swap() -> None:
        ready.wait(20)
        for number in range(1, 1000):
            current[0] = epochs[number]
            at[0] = number

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read, args=(i,)) for i in range(4)] + [threading.Thread(target=swap)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    finally:
        sys.setswitchinterval(before)
    assert not wrong
    assert len(checked) == 4, "a thread ended with an error"
    assert sum(checked.values()) >= 10_000


@kinds
def test_a_placement_cannot_be_changed(kind: str) -> None:
    placement = KINDS[kind](["a", "b"])
    with pytest.raises(FrozenInstanceError):
        placement.shards = ("a",)
    assert hash(placement) == hash(KINDS[kind](["a", "b"]))
    assert len({placement, KINDS[kind](["a", "b"]), KINDS[kind](["a", "c"])}) == 2
    assert re.match(rf"<\w+ {placement.checksum()} ", repr(placement))
    assert len(repr(KINDS[kind]([f"redis-{i}" for i in range(60)]))) < 330


@kinds
def test_a_placement_is_the_same_in_the_process_that_it_is_sent_to(kind: str) -> None:
    placement = KINDS[kind](["a", "b", "c"])
    for sent in (pickle.loads(pickle.dumps(placement)), copy.deepcopy(placement), copy.copy(placement)):
        assert sent == placement
        assert sent.checksum() == placement.checksum()
        assert sent.lookup_many(KEYS) == placement.lookup_many(KEYS)
        assert sent.owners("key", 3) == placement.owners("key", 3)


# --- what is not allowed


@kinds
@pytest.mark.parametrize(
    ("shards", "error", "message"),
    [
        ([], NoNodes, "at least one shard"),
        (["a", "b", "a"], ValueError, r"\['a'\] more than once"),
        ([b"a"], TypeError, "shard name b'a' is bytes"),
        ([""], ValueError, "shard name ''"),
        ("abc", TypeError, "shards='abc'; an iterable of names"),
    ],
)
def test_bad_shards_are_refused_by_name(kind: str, shards: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KINDS[kind](shards)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_bad_weights_are_refused_by_name(kind: str) -> None:
    make = WEIGHTED[kind]
    with pytest.raises(ValueError, match=r"weights has \['x'\]; only the shards \['a'\]"):
        make(["a"], {"x": 1})
    with pytest.raises(ValueError, match=r"weights\['a'\]=0; a positive finite number"):
        make(["a"], {"a": 0})
    with pytest.raises(TypeError, match=r"weights\['a'\]='2'; a positive finite number"):
        make(["a"], {"a": "2"})
    if kind not in SLOTTED:
        with pytest.raises(ValueError, match=r"weights\['a'\]=1.5; here a positive whole number"):
            make(["a"], {"a": 1.5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ketama(["a"], dialect="ketama"), "dialect='ketama'; one of libketama, libmemcached"),  # type: ignore[arg-type]  # a mistake on purpose
        (lambda: ketama(["a"], dialect="libketama", hash="md6"), "hash='md6'; one of one_at_a_time, md5"),
        (lambda: ketama(["a"], {"a": 1}, dialect="spymemcached"), "spymemcached's shards have none"),
        (lambda: hrw(["a"], dialect="redis"), "dialect='redis'; one of go-redis, pymemcache"),  # type: ignore[arg-type]  # a mistake on purpose
        (lambda: jump(["a"], hash="crc"), "hash='crc'; one of"),
        (lambda: modula(["a"], hash="crc"), "hash='crc'; one of"),
        (lambda: jump_hash(5, 0), "buckets=0; a positive number"),
        (lambda: maglev(["a"], table_size=65536), "table_size=65536; a prime from 3 to 5000011"),
        (lambda: maglev(["a"], table_size=2), "table_size=2; a prime"),
        (lambda: envoy_ring(["a"], minimum_ring_size=0), "minimum_ring_size=0"),
        (lambda: envoy_ring(["a"], minimum_ring_size=9, maximum_ring_size=8), "1 <= minimum <= maximum"),
        (lambda: envoy_ring(["a"], hash_function="md5"), "hash_function='md5'; 'xxh64' or 'murmur2_64'"),
        (lambda: bounded_loads(["a"], bound=0.9), "bound=0.9; a finite number of at least 1"),
        (lambda: rendezvous(["a"], bound=0.9), "bound=0.9; a finite number of at least 1"),
        (lambda: bounded_loads(["a"], bound=float("inf")), "bound=inf; a finite number"),
        (lambda: Ring(("a",), ((5, "b"),), HASHES["md5"]), r"points names \['b'\]"),
        (lambda: Ring(("a",), (), HASHES["md5"]), "at least one"),
        (lambda: Ring(("a",), ((2**64, "a"),), HASHES["md5"]), r"point 18446744073709551616 of 'a'; 0 to 2\*\*64 - 1"),
    ],
)
def test_bad_options_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
