"""A shard that is dead for good is given up, in both flavours: what is lost, what is not, and who is refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from reshard_cluster import Client, Cluster

from coordkit._run import run
from coordkit.errors import CoordError, StaleToken, StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.ways.errors import Outdated

pytestmark = pytest.mark.empties_servers

NOBODY = "redis://127.0.0.1:1/0"  # where nothing listens
SERVERS = {3: "coordkit_redis_shards", 5: "coordkit_redis_quorum"}


class Killed(Exception):
    """The rebalancer ended here."""


class Losing(Cluster):
    """A cluster that can lose shard "c": to the rebalancer alone, or to its clients as well."""

    async def lose(self, *, to_clients: bool = True) -> None:
        """Have nothing answer for the shard at the address that the topology has; its server goes on elsewhere."""
        now = self.ledger.now
        self.ledger.now = replace(now, shards={**now.shards, "c": replace(now.shards["c"], primary=NOBODY)})
        if to_clients:
            self.urls["c"] = NOBODY
            if gone := self.plain["c"].keys("n*"):
                self.plain["c"].delete(*gone)
        for key in [key for key in self.expected if now.serving.lookup(key) == "c"]:
            del self.expected[key]

    async def counted(self, client: Client, keys: list[bytes]) -> None:
        for key in keys:
            await client.incr(key)

    def of(self, shard: str, count: int = 150) -> list[bytes]:
        return [key for key in self.keys(count) if self.ledger.now.owners.lookup(key) == shard]

    def check_without(self) -> None:
        """All counts are right at those that are left, whatever the lost one has."""
        lost = self.plain.pop("c")
        self.check()
        self.plain["c"] = lost


@pytest.fixture
def make(flavour: Any, request: Any, coordkit_namespace: str) -> Any:
    clusters: list[Losing] = []

    def made(shards: int = 3, **options: Any) -> Losing:
        servers = request.getfixturevalue(SERVERS[shards])
        names = "abcde"[:shards]
        clusters.append(
            Losing(flavour, [server.url for server in servers], coordkit_namespace, names, **{"cache": True, **options})
        )
        return clusters[-1]

    yield made
    for each in clusters:
        for client in each.plain.values():
            client.flushdb()
        each.close()


@pytest.mark.parametrize("shards", SERVERS)
async def test_the_others_serve_what_a_dead_shard_had_and_nothing_of_it(make: Any, shards: int, caplog: Any) -> None:
    cluster = make(shards)
    await cluster.reshard().initialise()
    client, late = Client(cluster), Client(cluster)
    await cluster.counted(client, cluster.keys(150))
    before = cluster.ledger.now
    mine, slots = cluster.of("c"), before.owners.counts()["c"]
    # What "a" and "b" still have of these slots, from when they had them, is no answer either.
    cluster.ledger.now = replace(before, shards={n: replace(s, fenced=1) for n, s in before.shards.items()})
    for shard in "ab":
        cluster.plain[shard].mset(dict.fromkeys(mine, 999))
    await cluster.lose()
    with pytest.raises(StoreUnavailable):
        await late.port("c", before).ask([(b"GET", mine[0])])

    progress = await cluster.reshard().abandon("c")

    assert (progress.phase, progress.slots_lost, progress.share) == ("done", slots, 1.0)
    assert f"{slots:,} SLOTS GIVEN UP" in progress.line()
    [said] = [record.getMessage() for record in caplog.records if "was given up" in record.getMessage()]
    assert f"{slots} of 16384 slots" in said
    after = cluster.ledger.now
    assert (sorted(after.shards), after.moves, after.plan()) == (sorted(set(before.shards) - {"c"}), (), [])
    moved = [slot for slot in range(16384) if before.owners.table[slot] != after.owners.table[slot]]
    assert {before.owners.table[slot] for slot in moved} == {"c"}
    assert len(moved) == slots
    for shard in "ab":  # where the slots are another's now
        cluster.plain[shard].delete(*(key for key in mine if after.owners.lookup(key) != shard))
    for each in (Client(cluster), client, late):  # new, and two that have not heard of it
        await cluster.counted(each, [key for key in cluster.keys(150) if key not in mine])
        await cluster.counted(each, mine)
    cluster.check_without()


async def test_what_is_no_cache_is_not_given_up_without_a_word(make: Any) -> None:
    cluster = make(cache=False)
    await cluster.reshard().initialise()
    await cluster.lose()
    before = cluster.ledger.now
    with pytest.raises(
        CoordError, match=r"c: topology .* was not declared a cache: 5461 slots of keys, locks"
    ) as caught:
        await cluster.reshard().abandon("c")
    for helps in ("Bring its server back", "reshard readdress c=ADDRESS", "--lose-keys-and-locks"):
        assert helps in str(caught.value)
    assert cluster.ledger.now is before


async def test_who_answers_is_not_given_up(make: Any) -> None:
    cluster = make()
    await cluster.reshard().initialise()
    before = cluster.ledger.now
    for lose in (False, True):
        with pytest.raises(CoordError, match=r"c: it answers \(1\), so nothing was changed.*reshard drain c"):
            await cluster.reshard().abandon("c", lose_keys_and_locks=lose)
    cluster.plain["c"].flushdb()
    with pytest.raises(CoordError, match=r"it answers \(it knows no epoch\)"):
        await cluster.reshard().abandon("c")
    with pytest.raises(ValueError, match=r"name='x'; one of the shards"):
        await cluster.reshard().abandon("x")
    assert cluster.ledger.now is before


async def test_a_replica_that_has_its_data_is_promoted_instead(make: Any) -> None:
    """Of a cache it need not be."""
    cluster = make(cache=False)
    await cluster.reshard().initialise()
    now = cluster.ledger.now
    shard = replace(now.shards["c"], primary=NOBODY, replicas=("redis://127.0.0.1:2/0", cluster.urls["c"]))
    cluster.ledger.now = before = replace(now, shards={**now.shards, "c": shard})
    with pytest.raises(CoordError, match=rf"its replica {cluster.urls['c']} answers and has its data.*promote it"):
        await cluster.reshard().abandon("c", lose_keys_and_locks=True)
    assert cluster.ledger.now is before
    cluster.ledger.now = replace(before, cache=True)
    assert (await cluster.reshard().abandon("c")).phase == "done"


async def test_another_dead_shard_ends_it_before_anything_is_announced(make: Any) -> None:
    cluster = make()
    await cluster.reshard().initialise()
    await cluster.lose()
    now = cluster.ledger.now
    both = replace(now, shards={**now.shards, "b": replace(now.shards["b"], primary=NOBODY)})
    cluster.ledger.now = both
    with pytest.raises(StoreUnavailable, match=r"^b: "):
        await cluster.reshard(patience=0.2).abandon("c")
    assert cluster.ledger.now is both
    await cluster.reshard().drain("b")  # so that nothing is given to it
    assert (await cluster.reshard().abandon("c")).slots_lost == 5461
    assert (await cluster.reshard().abandon("b")).slots_lost == 5461
    assert cluster.ledger.now.owners.counts() == {"a": 16384}


async def test_without_a_cache_nobody_takes_a_lock_that_may_still_be_held(make: Any) -> None:
    """It waits until each registered client has heard of it, and a lease longer, before anybody is let in."""
    cluster, steps = make(cache=False), []

    def at_step(step: str) -> None:
        steps.append(step)
        if step == "barrier" and steps.count("barrier") == 4:
            cluster.ledger.clients["slow"] = cluster.ledger.now.epoch

    cluster.ledger.clients["slow"] = 1
    await cluster.reshard().initialise()
    client = Client(cluster)
    await cluster.counted(client, cluster.keys(60))
    await cluster.lose()
    runtime = cluster.reshard()._runtime
    began = runtime.now()
    progress = await cluster.reshard(on_step=at_step, lease=0.3).abandon("c", lose_keys_and_locks=True)
    assert progress.slots_lost == 5461
    assert runtime.now() - began > 0.3
    assert steps.index("close") > max(at for at, step in enumerate(steps) if step == "barrier") >= 5
    await cluster.counted(Client(cluster), cluster.keys(60))
    cluster.check_without()

    cluster.ledger.clients["slow"] = 0
    cluster.urls["b"] = NOBODY
    now = cluster.ledger.now
    cluster.ledger.now = replace(now, shards={**now.shards, "b": replace(now.shards["b"], primary=NOBODY)})
    with pytest.raises(StoreUnavailable, match=r"slow \(1 in all\) have not adopted epoch .* hold a lock at 'b'"):
        await cluster.reshard(patience=0.2, lease=0.1).abandon("b", lose_keys_and_locks=True)
    assert cluster.ledger.now.leaving == {"b": 8192}
    cluster.ledger.clients.clear()
    assert (await cluster.reshard(lease=0.1).run()).slots_lost == 8192


STEPS = ["clear", "announce", "raise a", "drop a", "raise b", "drop b", "barrier", "close", "finish"]


@pytest.mark.parametrize("step", [*STEPS, "second close"])
async def test_wherever_it_ends_another_goes_on(make: Any, step: str) -> None:
    """What clients wrote where it had begun to be served is there in the end."""
    cluster, steps = make(cache=False), []

    def at_step(name: str) -> None:
        steps.append(name)
        if name == step or (step == "second close" and steps.count("close") == 2):
            raise Killed

    await cluster.reshard().initialise()
    early = Client(cluster)
    await cluster.counted(early, cluster.keys(90))
    mine = cluster.of("c", 90)
    await cluster.lose()
    with pytest.raises(Killed):
        await cluster.reshard(on_step=at_step, lease=0.1).abandon("c", lose_keys_and_locks=True)
    late = Client(cluster)
    for client in (early, late):
        await cluster.counted(client, [key for key in cluster.keys(90) if key not in mine])
    served = {"second close": 1, "finish": 2}.get(step, 0)
    targets = [move.target for move in cluster.ledger.now.moves][:served]
    await cluster.counted(late, [key for key in mine if cluster.ledger.now.serving.lookup(key) in targets])

    following = cluster.reshard(lease=0.1)
    if cluster.ledger.now.leaving:
        assert (await following.run()).phase == "done"
    else:
        assert step in {"clear", "announce"}
        assert (await following.abandon("c", lose_keys_and_locks=True)).phase == "done"
    assert following.progress.slots_lost == 5461
    for client in (early, late):
        await cluster.counted(client, [key for key in cluster.keys(90) if key not in mine])
        await cluster.counted(client, mine)
    cluster.check_without()
    assert (await cluster.reshard().run()).slots_lost == 0


@pytest.mark.parametrize("step", ["clear again", *STEPS])
async def test_a_rebalancer_that_was_paused_changes_nothing_more(make: Any, step: str) -> None:
    """While it is stopped in front of a step, another finishes all of it, and clients count on what was lost."""
    cluster = make(cache=False)
    await cluster.reshard().initialise()
    client = Client(cluster)
    await cluster.counted(client, cluster.keys(90))
    mine = cluster.of("c", 90)
    await cluster.lose()
    passed: list[str] = []

    def at_step(name: str) -> None:
        if name != step or passed:
            return
        passed.append(name)
        other = Cluster.reshard(cluster.blocking(), lease=0.1)
        run(other.abandon("c", lose_keys_and_locks=True))
        for key in mine:
            cluster.expected[key] = cluster.plain[cluster.ledger.now.owners.lookup(key)].incr(key)

    rebalancer = cluster.reshard(on_step=at_step, lease=0.1)
    if step == "clear again":  # another one announced it
        cluster.ledger.now = cluster.ledger.now.abandoning("c")
    with contextlib.suppress(CoordError, Outdated):  # it was told, or looked again and found nothing to do
        await rebalancer.abandon("c", lose_keys_and_locks=True)
    assert passed == [step]
    await cluster.counted(Client(cluster), cluster.keys(90))
    await cluster.counted(client, cluster.keys(90))
    cluster.check_without()


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("back", [False, True])
async def test_a_move_was_under_way_with_it(make: Any, which: str, back: bool, cache: bool) -> None:
    """What is known to be the newest is kept; of what is not, a cache keeps nothing, and others what there is."""
    cluster = make(cache=cache)
    await cluster.reshard().initialise()
    client = Client(cluster)
    await cluster.counted(client, cluster.keys(120))
    other = "b"
    source, target = ("c", other) if which == "source" else (other, "c")
    table = cluster.ledger.now.owners.table
    slots = [slot for slot in range(16384) if table[slot] == source][::2]
    moving = [key for key in cluster.keys(120) if slot_of(key) in set(slots)]
    before = cluster.ledger.now
    cluster.ledger.now = replace(before, shards={n: replace(s, fenced=1) for n, s in before.shards.items()})
    cluster.ledger.now = cluster.ledger.now.begin_move(slots, source, target)

    def at_step(step: str) -> None:
        if step == "pass 1":
            raise Killed  # open, and nothing was brought by the mover

    with pytest.raises(Killed):
        await cluster.reshard(on_step=at_step).run()
    some = Client(cluster)
    brought, still = moving[: len(moving) // 2], moving[len(moving) // 2 :]
    assert len(still) > 5
    await cluster.counted(some, brought)  # brings them to the target
    if back:
        with pytest.raises(Killed):
            await cluster.reshard(on_step=lambda step: step == "former" and at_step("pass 1")).roll_back()
    # What "b" has of slots that are not on their way, from when it had them, is no answer either.
    cluster.plain[other].mset(dict.fromkeys([key for key in cluster.of("c", 120) if key not in moving], 999))
    values = {key: int(cluster.plain[other].get(key) or 0) for key in moving}
    had = cluster.of(other, 120)
    await cluster.lose()
    for key in moving:
        cluster.expected.pop(key, None)

    progress = await cluster.reshard(lease=0.1).abandon("c", lose_keys_and_locks=True)

    assert progress.slots_lost == (5461 + len(slots) if source == other else 5461)
    assert {key: int(cluster.plain[other].get(key) or 0) for key in had if key not in moving} == {
        key: cluster.expected[key] for key in had if key not in moving
    }
    if which == "source" and not back:  # on its way from the dead one: what had come is the newest there is
        kept = set(brought)
    else:
        kept = set() if cache else {key for key in moving if values[key]}
    found = {key: int(cluster.plain[other].get(key) or 0) for key in moving}
    assert found == {key: values[key] if key in kept else 0 for key in moving}
    cluster.expected.update({key: values[key] for key in kept})
    owner = cluster.ledger.now.owners
    stale = [key for key in cluster.plain[other].keys("n*") if cluster.plain[other].get(key) == b"999"]
    assert [key for key in stale if owner.lookup(key) == other] == []
    cluster.plain[other].delete("nothing", *stale)
    await cluster.counted(Client(cluster), cluster.keys(120))
    await cluster.counted(client, cluster.keys(30))
    cluster.check_without()


async def test_a_move_of_others_is_finished_first(make: Any) -> None:
    cluster = make(5)
    await cluster.reshard().initialise()
    client = Client(cluster)
    await cluster.counted(client, cluster.keys(100))
    slots = [slot for slot in range(16384) if cluster.ledger.now.owners.table[slot] == "a"][:500]
    cluster.ledger.now = cluster.ledger.now.begin_move(slots, "a", "d")
    await cluster.lose()
    assert (await cluster.reshard().abandon("c")).slots_lost == 3277
    assert {cluster.ledger.now.owners.table[slot] for slot in slots} == {"d"}
    await cluster.counted(client, [key for key in cluster.keys(100) if key in cluster.expected])
    cluster.check_without()


async def test_what_is_given_up_cannot_be_taken_back(make: Any) -> None:
    cluster = make()
    await cluster.reshard().initialise()
    await cluster.lose()

    def at_step(step: str) -> None:
        if step == "close":
            reshard.stop()

    reshard = cluster.reshard(on_step=at_step)
    assert (await reshard.abandon("c")).phase == "stopped"
    for target_lost in (False, True):
        with pytest.raises(CoordError, match=r"c: it is given up, which cannot be taken back: .*resume"):
            await cluster.reshard().roll_back(target_lost=target_lost)
    with pytest.raises(ValueError, match="is given up, which is final"):
        await cluster.reshard().undrain("c")
    assert (await cluster.reshard().abandon("c")).slots_lost == 5461


async def test_a_dead_shard_that_is_there_after_all(make: Any) -> None:
    """Whom nobody tells reads old values there, until it speaks to any other shard; add takes it when it is empty."""
    cluster = make()
    await cluster.reshard().initialise()
    deaf = Client(cluster)
    keys = cluster.keys(60)
    await cluster.counted(deaf, keys)
    mine, topology = cluster.of("c", 60), cluster.ledger.now
    url = topology.shards["c"].primary
    await cluster.lose(to_clients=False)
    await cluster.reshard().abandon("c")
    await cluster.counted(Client(cluster), mine)

    async def asked(shard: str, key: bytes) -> Any:
        while True:
            with contextlib.suppress(StoreUnavailable):  # its connection was dropped
                return await deaf.port(shard, topology).ask([(b"GET", key)])

    assert await asked("c", mine[0]) == [b"1"], "that is the limit: it is cut off from all that could tell it"
    for shard in "ab":
        with pytest.raises(Outdated):
            await asked(shard, keys[0])

    with pytest.raises(
        CoordError, match=rf"c: it has {len(mine)} keys.*it knows epoch 1 of this topology, so it was a"
    ):
        await cluster.reshard().add("c", url)
    cluster.plain["c"].delete(*cluster.plain["c"].keys("n*"))
    await cluster.reshard().add("c", url)
    with pytest.raises(Outdated):
        await asked("c", mine[0])
    assert (await cluster.reshard().run()).phase == "done"
    await cluster.counted(deaf, keys[:1])
    cluster.expected.update({key: 0 for key in keys if key not in mine})
    for key in keys:
        cluster.expected[key] = int(cluster.plain[cluster.ledger.now.owners.lookup(key)].get(key) or 0)
    assert all(cluster.expected[key] == 1 for key in mine if key != keys[0])
    cluster.check()


async def test_tokens_of_a_lock_rise_by_the_clock_of_its_new_shard(
    make: Any, flavour: Any, maybe: Any, caplog: Any
) -> None:
    """Its counter is gone. If the dead server's clock was ahead, the resource refuses the new holder for a while."""
    cluster = make(cache=False)
    await cluster.reshard().initialise()

    def connect(_shard: str, address: str) -> Any:
        return flavour.redis(address, socket_timeout=10)

    async def client() -> Any:
        made = await maybe(flavour.ShardedRedis.from_topology(cluster.ledger.now, connect))
        flavour.on_exit(getattr(made, "aclose", None) or made.close)
        return made

    shards = await client()
    name, ahead = (
        next(name for name in (f"{start}{i}" for i in range(99)) if shards.shard_for(f"{{{name}}}") == "c")
        for start in ("job", "ahead")
    )
    resource = flavour.redis(cluster.urls["c"])  # it is not what is lost here
    fence = flavour.Fence(resource, f"{cluster.ledger.now.name}:ledger")
    lease = await maybe(flavour.Lock(shards, name, ttl=30, renew=False).acquire())
    [counter] = [key for key in cluster.plain["c"].keys("*token*") if name.encode() in key]
    cluster.plain["c"].set(counter.replace(name.encode(), ahead.encode()), lease.token + 3_600_000_000)
    far = await maybe(flavour.Lock(shards, ahead, ttl=30, renew=False).acquire())
    assert far.token > lease.token + 3_600_000_000
    await maybe(fence.claim(token=far.token))
    await cluster.lose()
    await cluster.reshard(lease=0.1).abandon("c", lose_keys_and_locks=True)

    shards = await client()
    following = await maybe(flavour.Lock(shards, name, ttl=30).acquire(timeout=5))
    assert following.token > lease.token
    behind = await maybe(flavour.Lock(shards, ahead, ttl=30).acquire(timeout=5))
    assert behind.token < far.token
    with pytest.raises(StaleToken):
        await maybe(fence.claim(token=behind.token))
    for each in (following, behind):
        await maybe(each.release())


async def test_a_cache_keeps_no_locks(make: Any, flavour: Any, maybe: Any) -> None:
    cluster = make()
    await cluster.reshard().initialise()
    made = await maybe(
        flavour.ShardedRedis.from_topology(cluster.ledger.now, lambda _, url: flavour.redis(url, socket_timeout=10))
    )
    flavour.on_exit(getattr(made, "aclose", None) or made.close)
    await maybe(made.set("n1", 1))
    for make_one in (
        lambda: flavour.Lock(made, "job", ttl=10),
        lambda: flavour.ReadWriteLock(made, "job", ttl=10),
        lambda: flavour.Semaphore(made, "job", permits=2, ttl=10),
        lambda: flavour.Fence(made, "job"),
    ):
        with pytest.raises(ValueError, match="was declared a cache: a shard of it may be given up with the locks"):
            make_one()


def test_a_topology_is_a_cache_or_not_for_good() -> None:
    first = Topology.first("users", {"a": "a:1", "b": "b:1"}, cache=True)
    for after in (first.draining("a"), first.with_shard("c", "c:1"), first.abandoning("b")):
        assert after.cache
        assert Topology.from_bytes(after.to_bytes()).cache


async def test_a_shard_that_gets_nothing_is_told_as_well(make: Any) -> None:
    """Whoever talks to it hears of the change there, and so keeps away from the dead one, should it be back."""
    cluster = make()
    await cluster.reshard().initialise()
    await cluster.reshard().reweight("b", 0.001)
    deaf = Client(cluster)
    await cluster.counted(deaf, cluster.keys(30))
    topology = cluster.ledger.now
    await cluster.lose()
    await cluster.reshard().abandon("c")
    assert cluster.ledger.now.owners.counts()["b"] == 5461
    for _ in range(2):
        with pytest.raises((Outdated, StoreUnavailable)) as caught:  # its connection was dropped
            await deaf.port("b", topology).ask([(b"PING",)])
    assert caught.type is Outdated
