"""Resharding while clients work, in both flavours: nothing is lost, wherever the mover ends, and it can be resumed."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from reshard_cluster import STEPS, Client, Cluster

from coordkit._run import run
from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.routing import Topology, slot_of
from coordkit.routing.fence.fence import drop_connections, local_key, raise_epoch
from coordkit.routing.moving import mover
from coordkit.routing.moving.pace import Pace
from coordkit.routing.moving.source import Source
from coordkit.routing.moving.target import Target
from coordkit.routing.resharding import goals
from coordkit.routing.ways.errors import Outdated

pytestmark = pytest.mark.empties_servers


class Killed(Exception):
    """The mover ended here."""


@pytest.fixture
def cluster(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Any:
    made = Cluster(flavour, [server.url for server in coordkit_redis_shards], coordkit_namespace)
    yield made
    for client in made.plain.values():
        client.flushdb()
    made.close()


async def test_a_shard_is_added_reweighted_and_drained(cluster: Cluster) -> None:
    client, reshard = Client(cluster), cluster.reshard()
    await reshard.initialise()
    for key in cluster.keys(300):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    progress = await reshard.run()

    assert progress.phase == "done"
    assert progress.share == 1.0
    assert progress.seconds_left() == 0.0
    assert 50 < progress.keys < 150
    assert progress.size > 0
    counts = cluster.ledger.now.owners.counts()
    assert max(counts.values()) - min(counts.values()) <= 1
    for key in cluster.keys(300):
        await client.incr(key)
    cluster.check()

    await reshard.reweight("c", 3)
    assert (await reshard.run()).phase == "done"
    assert cluster.ledger.now.owners.counts()["c"] in {9830, 9831}
    for key in cluster.keys(300):
        await client.incr(key)
    cluster.check()

    await cluster.reshard().drain("a")
    assert (await cluster.reshard().run()).phase == "done"
    assert set(cluster.ledger.now.shards) == {"b", "c"}
    for key in cluster.keys(300):
        await client.incr(key)
    cluster.check()
    assert (await cluster.reshard().run()).keys == 0


async def test_clients_go_on_while_it_moves(cluster: Cluster, flavour: Any) -> None:
    """Some adopt late, some follow at once; each acknowledged count is there in the end."""
    reshard = cluster.reshard(batch=1500, pace=Pace(keys_per_second=2000))
    await reshard.initialise()
    clients = [Client(cluster) for _ in range(3)]
    ended: list[bool] = []

    async def work(client: Client, mine: list[bytes]) -> None:
        for turn in itertools.count():
            if ended and turn > 3:
                return
            for key in mine:
                await client.incr(key)

    working = [flavour.spawn(work, each, cluster.keys(60, f"w{at}-")) for at, each in enumerate(clients)]
    await reshard.add("c", cluster.urls["c"])
    try:
        assert (await reshard.run()).phase == "done"
    finally:
        ended.append(True)
    for each in working:
        await each.result()
    cluster.check()


async def test_these_are_the_steps(cluster: Cluster) -> None:
    steps: list[str] = []
    reshard = cluster.reshard(on_step=steps.append, batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    await reshard.run()
    assert list(dict.fromkeys(step.replace(" b", " a") for step in steps)) == STEPS


@pytest.mark.parametrize(
    ("step", "end"), [*itertools.product(STEPS, ["kill", "roll back"]), ("begin", "stop"), ("bring", "stop")]
)
async def test_wherever_it_ends_another_goes_on(cluster: Cluster, step: str, end: str) -> None:
    """Killed, asked to stop, or rolled back by the next: between any two steps, with clients on both sides of it."""
    early = Client(cluster)

    def at_step(name: str) -> None:
        if name == step:
            if end == "stop":
                reshard.stop()
            else:
                raise Killed

    reshard = cluster.reshard(on_step=at_step, batch=16384)
    await reshard.initialise()
    keys = cluster.keys(120)
    for key in keys[:100]:
        await early.incr(key)
    await reshard.add("c", cluster.urls["c"])
    if end == "stop":
        assert (await reshard.run()).phase == "stopped"
    else:
        with pytest.raises(Killed):
            await reshard.run()
    begun = step not in {"clear", "announce", "raise a", "raise c", "drop a", "drop c", "begin"}
    late = Client(cluster)
    for client in (early, late) if begun or step in {"clear", "announce"} else ():
        for key in keys[::3]:
            await client.incr(key)

    following = cluster.reshard(batch=16384)
    if end == "roll back" and step not in {"clear", "announce"}:
        assert (await following.roll_back()).phase == "done"
        assert cluster.ledger.now.owners.counts()["c"] == 0
    else:
        assert (await following.run()).phase == "done"
    for client in (early, late):
        for key in keys:
            await client.incr(key)
    cluster.check()


async def test_a_rollback_finds_what_was_left_at_the_source_of_keys_that_are_gone(cluster: Cluster) -> None:
    """A client took a key and ended before it removed it; it was deleted since: the copy must not come to life."""

    def at_step(name: str) -> None:
        if name == "close":
            raise Killed

    first = cluster.reshard(on_step=at_step, batch=16384)
    await first.initialise()
    client = Client(cluster)
    for key in cluster.keys(100):
        await client.incr(key)
    await first.add("c", cluster.urls["c"])
    with pytest.raises(Killed):
        await first.run()
    move = cluster.ledger.now.moves[0]
    gone = next(key for key in cluster.keys(100) if slot_of(key) in set(move.slots))
    assert cluster.plain[move.target].delete(gone)
    cluster.plain[move.source].set(gone, 1)
    del cluster.expected[gone]
    await cluster.reshard().roll_back()
    cluster.check()


@pytest.mark.parametrize("when", ["before", "announce", "drop c"])
async def test_what_a_shard_still_has_from_another_time_does_not_come_to_life(cluster: Cluster, when: str) -> None:
    """It had these slots, failed over to a replica without the last removals, and a key was deleted elsewhere since."""

    def at_step(step: str) -> None:
        if step == when and leave():
            raise Killed  # who goes on has cleared nothing

    def leave() -> bool:
        return bool(cluster.plain["c"].mset(dict.fromkeys(cluster.keys(50, "left"), 1)))

    reshard = cluster.reshard(on_step=at_step, batch=16384)
    await reshard.initialise()
    topology = await reshard.add("c", cluster.urls["c"])
    cluster.ledger.now = replace(
        topology, shards={**topology.shards, "c": replace(topology.shards["c"], fenced=1)}
    )  # as of one that has had slots: what others have is somebody's, and no leftover (test_admission.py)
    if when == "before":
        leave()
        assert (await reshard.run()).phase == "done"
    else:
        with pytest.raises(Killed):
            await reshard.run()
        assert (await cluster.reshard(batch=16384).run()).phase == "done"
    owned = [key for key in cluster.keys(50, "left") if cluster.ledger.now.owners.lookup(key) == "c"]
    assert len(owned) > 5
    assert cluster.plain["c"].exists(*owned) == 0


@pytest.mark.parametrize(("step", "lost"), [("pass 2", "moved:{}"), ("pass 2", "moves"), ("pass 1", "moved:{}")])
async def test_a_rollback_that_cannot_know_what_was_brought_removes_nothing(
    cluster: Cluster, step: str, lost: str
) -> None:
    """The marks were evicted, or removed by hand: all keys would be taken for never brought, and removed."""

    def at_step(name: str) -> None:
        if name == step:
            raise Killed

    first = cluster.reshard(on_step=at_step, batch=16384)
    await first.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await first.add("c", cluster.urls["c"])
    with pytest.raises(Killed):
        await first.run()
    topology = cluster.ledger.now
    cluster.plain["c"].delete(local_key(topology.name, lost.format(topology.moves[0].number)))
    before = {shard: cluster.plain[shard].dbsize() for shard in "abc"}
    with pytest.raises(StoreRefused, match="does not know any more what move"):
        await cluster.reshard().roll_back()
    mine = topology.moves[0].source
    assert cluster.plain["c"].dbsize() == before["c"]
    assert before[mine] <= cluster.plain[mine].dbsize() <= before[mine] + 2  # and what says which move is open


async def test_a_rollback_that_ended_between_its_two_closes_leaves_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed on its target, and what it rolls back was still open: whoever goes on closes that, too."""
    first = cluster.reshard(on_step=lambda step: step == "pass 2" and first.stop(), batch=16384)
    await first.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await first.add("c", cluster.urls["c"])
    await first.run()
    closes: list[Any] = []

    def killing(asked: Any) -> Any:
        async def killed(self: Any, call: Any) -> Any:
            closes.extend([call] * (call.script.name == "move_close"))
            if len(closes) == 2:
                raise Killed
            return await asked(self, call)

        return killed

    for kind in (Source, Target):
        monkeypatch.setattr(kind, "_asked", killing(kind._asked))
    with pytest.raises(Killed):
        await cluster.reshard().roll_back()
    monkeypatch.undo()
    assert [move.undoes > 0 for move in cluster.ledger.now.moves] == [True]
    assert (await cluster.reshard().roll_back()).phase == "done"
    cluster.check()
    assert b"open" not in cluster.plain["c"].hvals(local_key(cluster.ledger.now.name, "moves"))


async def test_a_disk_that_says_nothing_is_asked_once_for_each_move(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs all the patience, where the file is never forced to the disk."""
    asked: list[tuple[str, bool]] = []

    async def noted(port: Any, *args: Any, disk: bool, **options: Any) -> Any:
        asked.append((port.shard, disk))
        return await raise_epoch(port, *args, disk=disk, **options)

    monkeypatch.setattr(mover, "raise_epoch", noted)
    reshard = cluster.reshard(batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"])
    await reshard.run()
    assert [shard for shard, disk in asked if disk] == ["a", "c", "b", "c"]
    assert [shard for shard, disk in asked if not disk] == ["c"] * 4  # before keys are removed, and at each end


@pytest.mark.parametrize("step", STEPS)
async def test_a_rebalancer_that_was_paused_changes_nothing_more(cluster: Cluster, step: str) -> None:
    """While it is stopped in front of a step, another finishes the move, and takes the slots back."""
    client = Client(cluster)
    first = cluster.reshard()
    await first.initialise()
    keys = cluster.keys(100)
    for key in keys:
        await client.incr(key)
    await first.add("c", cluster.urls["c"])

    def at_step(name: str) -> None:
        if name != step or step in passed:
            return
        passed.append(name)
        # Blocking, also under asyncio: the one that is paused does nothing meanwhile.
        other = Cluster.reshard(cluster.blocking(), batch=16384)
        run(other.run())
        run(other.drain("c"))
        run(other.run())
        assert "c" not in cluster.ledger.now.shards
        for key in keys:
            owner = cluster.ledger.now.owners.lookup(key)
            cluster.expected[key] = cluster.plain[owner].incr(key)

    passed: list[str] = []
    with contextlib.suppress(CoordError):  # it was told, or looked again and found nothing to do
        assert (await cluster.reshard(on_step=at_step, batch=16384).run()).phase == "done"
    assert passed == [step]
    for key in keys:
        await client.incr(key)
    cluster.check()


async def test_a_new_shard_must_be_empty(cluster: Cluster) -> None:
    reshard = cluster.reshard()
    await reshard.initialise()
    cluster.plain["c"].set("here", "already")
    with pytest.raises(CoordError, match="has 1 keys"):
        await reshard.add("c", cluster.urls["c"])
    cluster.plain["c"].delete("here")
    await reshard.add("c", cluster.urls["c"])
    with pytest.raises(CoordError, match="no move is under way"):
        await cluster.reshard().roll_back()


async def test_what_comes_to_a_new_shard_while_it_is_added_is_seen(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one who used it before, and has not heard that it is none any more, until its connection is dropped."""
    reshard = cluster.reshard()
    await reshard.initialise()
    before = cluster.ledger.now

    async def dropping(port: Any, **options: Any) -> Any:
        cluster.plain["c"].set("late", 1)
        return await drop_connections(port, **options)

    monkeypatch.setattr(goals, "drop_connections", dropping)
    with pytest.raises(CoordError, match="has 1 keys"):
        await reshard.add("c", cluster.urls["c"])
    assert cluster.ledger.now is before


async def test_who_writes_at_the_source_without_the_topology_is_reported(cluster: Cluster) -> None:
    reshard = cluster.reshard(on_step=lambda step: step.startswith("pass") and _litter(cluster), batch=16384)
    await reshard.initialise()
    await reshard.add("c", cluster.urls["c"])
    with pytest.raises(CoordError, match="who does not know the topology"):
        await reshard.run()


def _litter(cluster: Cluster) -> None:
    move = cluster.ledger.now.moves[0]
    key = next(key for i in itertools.count() if slot_of(key := f"stray{i}") in set(move.slots))
    cluster.plain[move.source].set(key, 1)


async def test_big_keys_are_reported_before_they_are_moved(cluster: Cluster, caplog: Any) -> None:
    reshard = cluster.reshard(big=100_000, batch=16384)
    await reshard.initialise()
    topology = cluster.ledger.now.with_shard("c", "c:1")
    step = topology.plan(16384)[0]
    key = next(key for i in itertools.count() if slot_of(key := f"big{i}") in set(step.slots))
    cluster.plain[step.source].set(key, "x" * 200_000)
    await reshard.add("c", cluster.urls["c"])
    progress = await reshard.run()
    assert progress.big_keys == 1
    assert progress.largest_key == key.encode()
    assert any(key in record.getMessage() for record in caplog.records)


async def test_without_client_kill_it_waits_for_the_clients(flavour: Any, cluster: Cluster, caplog: Any) -> None:
    """The weaker barrier: until all that are registered have adopted, and a lease longer; and it says so."""
    for shard in ("a", "c"):
        cluster.plain[shard].acl_setuser(
            "mover", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-client|kill"]
        )
    urls = dict(cluster.urls)
    cluster.urls.update({s: cluster.urls[s].replace("redis://", "redis://mover:any@") for s in ("a", "c")})
    waited: list[str] = []

    def at_step(step: str) -> None:
        waited.append(step)
        if step == "barrier" and waited.count("barrier") > 3:
            cluster.ledger.clients["slow"] = cluster.ledger.now.epoch

    first = Topology.first(cluster.ledger.now.name, {"a": cluster.urls["a"].replace(":any", ""), "b": urls["b"]})
    cluster.ledger.now = first
    cluster.ledger.clients["slow"] = 1
    reshard = cluster.reshard(on_step=at_step, lease=0.2, batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(50):
        await client.incr(key)
    await reshard.add("c", cluster.urls["c"].replace(":any", ""))
    try:
        progress = await reshard.run()
    finally:
        for shard in ("a", "c"):
            cluster.plain[shard].acl_deluser("mover")
    assert progress.weaker
    assert waited.index("begin") > waited.index("barrier")
    assert any("weaker barrier" in record.getMessage() for record in caplog.records)


async def test_a_drain_is_taken_back(cluster: Cluster) -> None:
    def at_step(step: str) -> None:
        if step == "pass 1":
            first.stop()

    first = cluster.reshard(on_step=at_step, batch=2000)
    await first.initialise()
    client = Client(cluster)
    for key in cluster.keys(80):
        await client.incr(key)
    await first.drain("a")
    assert (await first.run()).phase == "stopped"
    second = cluster.reshard()
    await second.roll_back()
    with pytest.raises(CoordError, match=r"no move is under way: .* undrain the one that was drained"):
        await second.roll_back()
    await second.undrain("a")
    assert (await second.run()).phase == "done"
    assert cluster.ledger.now.owners.counts() == {"a": 8192, "b": 8192}
    cluster.check()
    with pytest.raises(ValueError, match="name='z'"):
        await second.undrain("z")


async def test_a_shard_that_is_elsewhere_now(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Who has not heard of it gets no further at the old server; a server that is none of it is refused."""
    reshard, late = cluster.reshard(), Client(cluster)
    await reshard.initialise()
    for key in cluster.keys(60):
        await late.incr(key)
    before = cluster.ledger.now
    with pytest.raises(CoordError, match="at the new address it knows no epoch of topology"):
        await reshard.readdress("b", cluster.urls["c"])
    with pytest.raises(CoordError, match="it is the same database as shard"):
        await reshard.readdress("b", cluster.urls["a"].replace("127.0.0.1", "localhost"))
    assert cluster.ledger.now is before
    for key in cluster.plain["b"].scan_iter():
        cluster.plain["c"].restore(key, 0, cluster.plain["b"].dump(key))
    held = cluster.plain["b"].dbsize()

    after = await reshard.readdress("b", cluster.urls["c"], ["redis://elsewhere:1"])
    assert (after.shards["b"].primary, after.shards["b"].replicas) == (cluster.urls["c"], ("redis://elsewhere:1",))
    with pytest.raises(Outdated):
        try:
            await late.port("b", before).ask([(b"PING",)])
        except StoreUnavailable:  # its connection was dropped, and it had not heard of that yet
            await late.port("b", before).ask([(b"PING",)])
    cluster.urls["b"], cluster.plain["b"] = cluster.urls["c"], cluster.plain.pop("c")
    for key in cluster.keys(60):
        await late.incr(key)
    cluster.check()
    assert cluster.plain["b"].dbsize() == held
    assert not caplog.records
    # Another name of the same server is no other server: it goes on as it is.
    await reshard.readdress("b", cluster.urls["b"].replace("127.0.0.1", "localhost"))
    assert int(cluster.plain["b"].get(local_key(before.name, "epoch"))) == 1


async def test_a_rebalancer_that_comes_late_takes_nothing_away(cluster: Cluster) -> None:
    """It was paused in front of keys that it had seen; the move is over by then. What is there now is another's."""
    client = Client(cluster)
    first = cluster.reshard()
    await first.initialise()
    keys = cluster.keys(100)
    for key in keys:
        await client.incr(key)
    await first.add("c", cluster.urls["c"])
    stray: list[tuple[Any, bytes]] = []

    def at_step(name: str) -> None:
        if name == "bring" and not stray:
            [move] = cluster.ledger.now.moves
            mine = [key for key in keys if slot_of(key) in set(move.slots)]
            run(Cluster.reshard(cluster.blocking())._finish_moves())
            stray.append((cluster.plain[move.source], mine[0]))
            for key in mine:  # by one who does not know the topology
                cluster.plain[move.source].set(key, "stray")

    with pytest.raises(CoordError, match=r"move \d+ was closed by another rebalancer; read it again"):
        await cluster.reshard(on_step=at_step, batch=16384).run()
    [(source, key)] = stray
    assert source.get(key) == b"stray"


class LosesAnswers:
    """A store that loses the answer to each first try to write, and some others: it had been done, or had not."""

    def __init__(self, ledger: Any, *, done: bool) -> None:
        self._ledger, self._done = ledger, done
        self.lost: Counter[str] = Counter()
        self._chance = random.Random(5)
        self._written: set[int] = set()

    async def read(self) -> Topology:
        return cast("Topology", await self._asked("read"))

    async def write(self, after: Topology, before: Topology) -> None:
        await self._asked("write", after, before)

    async def behind(self, epoch: int) -> list[str]:
        return cast("list[str]", await self._asked("behind", epoch))

    async def _asked(self, what: str, *arguments: Any) -> Any:
        first = arguments[0].epoch not in self._written if what == "write" else self._chance.random() < 0.4
        if first:
            self._written |= {arguments[0].epoch} if what == "write" else set()
            self.lost[what] += 1
            if self._done:
                await getattr(self._ledger, what)(*arguments)
            raise StoreUnavailable("topology", "no answer")
        return await getattr(self._ledger, what)(*arguments)


@pytest.mark.parametrize("done", [True, False])
async def test_answers_of_the_store_are_lost(cluster: Cluster, done: bool) -> None:
    """At each point at which the topology is read or written, there and back: it is seen, or done again."""
    client, keys = Client(cluster), cluster.keys(90)
    first = cluster.reshard()
    await first.initialise()
    for key in keys:
        await client.incr(key)
    await first.add("c", cluster.urls["c"])

    def losing(**options: Any) -> tuple[Any, LosesAnswers]:
        made = cluster.reshard(batch=16384, **options)
        made._ledger = store = LosesAnswers(cluster.ledger, done=done)
        return made, store

    stopping, _ = losing(on_step=lambda step: step == "pass 2" and stopping.stop())
    assert (await stopping.run()).phase == "stopped"
    back, store = losing()
    while back.progress.phase != "done":
        with contextlib.suppress(StoreUnavailable):  # before it has begun it is told, and asked again
            await back.roll_back()
    assert store.lost["write"]
    assert cluster.ledger.now.owners.counts()["c"] == 0
    there, store = losing()
    progress = await there.run()
    assert (progress.phase, progress.share, progress.slots_left, progress.seconds_left()) == ("done", 1.0, 0, 0.0)
    assert store.lost["write"] == 4
    for each in (client, Client(cluster)):
        for key in keys:
            await each.incr(key)
    cluster.check()


@pytest.mark.parametrize("limit", ["keys", "bytes"])
async def test_it_moves_no_faster_than_it_is_told(cluster: Cluster, limit: str) -> None:
    reshard = cluster.reshard()
    await reshard.initialise()
    for shard in "ab":
        mine = [key for key in cluster.keys(300) if cluster.ledger.now.owners.lookup(key) == shard]
        cluster.plain[shard].mset(dict.fromkeys(mine, 1))
    cluster.expected.update(cluster.keys(300))
    await reshard.add("c", cluster.urls["c"])
    one = len(cluster.plain["a"].dump(next(cluster.plain["a"].scan_iter("n*"))))
    pace = Pace(keys_per_second=100) if limit == "keys" else Pace(bytes_per_second=100 * one)
    slow = cluster.reshard(pace=pace, batch=16384)
    now = slow._runtime.now
    began = now()
    progress = await slow.run()
    assert progress.keys > 70
    assert now() - began > progress.keys / 100 * 0.8
    cluster.check()


@pytest.mark.parametrize("which", ["source", "target"])
async def test_it_stops_when_it_is_told_also_while_a_shard_does_not_answer(
    cluster: Cluster, flavour: Any, which: str
) -> None:
    reshard = cluster.reshard(patience=600.0, batch=16384)
    await reshard.initialise()
    topology = await reshard.add("c", cluster.urls["c"])
    moving = topology.begin_move(*topology.plan(16384)[0])
    gone = moving.moves[0].source if which == "source" else "c"
    nobody = replace(moving.shards[gone], primary="redis://127.0.0.1:1/0")
    cluster.ledger.now = replace(moving, shards={**moving.shards, gone: nobody})
    running = flavour.spawn(reshard.run)
    await flavour.sleep(0.5)
    assert not running.done()
    reshard.stop()
    assert (await running.result()).phase == "stopped"


@pytest.mark.parametrize("shard", ["a", "c"])
async def test_a_rebalancer_behind_another_one_brings_nothing(cluster: Cluster, shard: str) -> None:
    """The other has raised the epoch, and is about to drop the connections of this one."""
    epoch = local_key(cluster.ledger.now.name, "epoch")
    reshard = cluster.reshard(
        on_step=lambda step: step == f"raise {shard}" and cluster.plain[shard].set(epoch, 99), batch=16384
    )
    await reshard.initialise()
    await reshard.add("c", cluster.urls["c"])
    with pytest.raises(CoordError, match=rf"^{shard}: it knows epoch 99, .*another rebalancer has gone on; read"):
        await reshard.run()
    assert not cluster.plain["c"].exists(local_key(cluster.ledger.now.name, "moves"))
    assert cluster.plain[shard].get(epoch) == b"99"
