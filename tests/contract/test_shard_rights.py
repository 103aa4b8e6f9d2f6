"""The rights that the README says users need on the shards of a topology: enough for all that moving keys takes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reshard_cluster import Client, Cluster

from coordkit.errors import StoreRefused
from coordkit.routing import Topology

pytestmark = pytest.mark.empties_servers

README = Path(__file__).resolve().parents[2] / "README.md"
NOBODY = "redis://127.0.0.1:1/0"  # where nothing listens
ROWS = {"app": "clients of a topology", "mover": "whoever reshards"}


def rights(row: str, name: str) -> list[str]:
    """Return what a row of the README's table names: commands and keys."""
    line = next(line for line in README.read_text().splitlines() if line.startswith(f"| {row} |"))
    found = [part for code in re.findall(r"`([^`]+)`", line) for part in code.replace(r"\|", "|").split()]
    assert len(found) > 10
    return [each.replace("{NAME}", f"{{{name}}}") for each in found if each != "+waitaof"]  # Redis 7.2


@pytest.fixture
def cluster(flavour: Any, coordkit_redis_shards: Any, coordkit_namespace: str) -> Iterator[Cluster]:
    """Give shards where who moves keys is one user, and clients are another; neither has more than is written."""
    made = Cluster(flavour, [server.url for server in coordkit_redis_shards], coordkit_namespace)
    for client in made.plain.values():
        client.script_flush()
        for user, row in ROWS.items():
            client.execute_command("ACL", "SETUSER", user, "reset", "on", "nopass", *rights(row, coordkit_namespace))
        client.execute_command("ACL", "SETUSER", "app", "~n*", "+incr")  # its own
    plain = list(made.plain.values())
    yield made
    for client in plain:
        client.acl_deluser(*ROWS)
        client.flushdb()
        client.close()


def by(user: str, url: str) -> str:
    return url.replace("redis://", f"redis://{user}@")


async def test_the_rights_in_the_readme_are_enough_for_a_move(cluster: Cluster, caplog: Any) -> None:
    """There and back, with clients on both sides of it, and to the end."""
    urls = {shard: by("mover", url) for shard, url in cluster.urls.items()}
    cluster.ledger.now = Topology.first(cluster.ledger.now.name, {shard: urls[shard] for shard in "ab"})
    cluster.urls = {shard: by("app", url) for shard, url in cluster.urls.items()}

    def at_step(step: str) -> None:
        if step == "pass 1":
            reshard.stop()

    reshard = cluster.reshard(on_step=at_step, batch=16384)
    await reshard.initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    await reshard.add("c", urls["c"])
    assert (await reshard.run()).phase == "stopped"
    for key in cluster.keys(30):
        await client.incr(key)
    back = cluster.reshard(on_step=lambda step: step == "former" and back.stop())
    assert (await back.roll_back()).phase == "stopped"
    for key in cluster.keys(40):
        await client.incr(key)
    assert (await cluster.reshard().roll_back()).phase == "done"
    assert (await cluster.reshard(batch=16384).run()).phase == "done"
    for key in cluster.keys(60):
        await client.incr(key)
    await cluster.reshard().repair("c")
    cluster.check()
    told = [record.message for record in caplog.records if "pauses" not in record.message]
    assert [message for message in told if "renewals failed" not in message] == []  # of leases of other tests


async def test_the_rights_in_the_readme_are_enough_to_give_up_a_dead_shard(cluster: Cluster, caplog: Any) -> None:
    """Which one who reshards does, and clients go on."""
    urls = {shard: by("mover", url) for shard, url in cluster.urls.items()}
    cluster.ledger.now = Topology.first(cluster.ledger.now.name, urls)
    cluster.urls = {shard: by("app", url) for shard, url in cluster.urls.items()}
    await cluster.reshard().initialise()
    client = Client(cluster)
    for key in cluster.keys(60):
        await client.incr(key)
    now = cluster.ledger.now
    lost = [key for key in cluster.keys(60) if now.serving.lookup(key) == "c"]
    cluster.ledger.now = replace(now, shards={**now.shards, "c": replace(now.shards["c"], primary=NOBODY)})
    cluster.urls["c"] = NOBODY
    cluster.plain["c"].delete(*lost)
    for key in lost:
        del cluster.expected[key]
    caplog.clear()
    progress = await cluster.reshard(lease=0.1).abandon("c", lose_keys_and_locks=True)
    assert (progress.phase, progress.slots_lost, progress.weaker) == ("done", now.owners.counts()["c"], False)
    for each in (client, Client(cluster)):
        for key in cluster.keys(60):
            await each.incr(key)
    cluster.plain.pop("c").close()
    cluster.check()
    told = [record.message for record in caplog.records if "renewals failed" not in record.message]
    assert ["was given up" in message for message in told] == [True]


async def test_one_right_less_is_told_by_name(cluster: Cluster) -> None:
    reshard = cluster.reshard(on_step=lambda step: step == "pass 1" and reshard.stop(), batch=16384)
    await reshard.initialise()
    await reshard.add("c", cluster.urls["c"])
    await reshard.run()
    other = copy.copy(cluster)
    other.urls = {shard: by("app", url) for shard, url in cluster.urls.items()}
    for each in cluster.plain.values():
        each.execute_command("ACL", "SETUSER", "app", "-sadd")
    client = Client(other)
    moving = next(key for key in cluster.keys(99) if cluster.ledger.now.serving.lookup(key) == "c")
    with pytest.raises(StoreRefused, match=r"README.*rights.*topology"):
        await client.touch.ensure(client.adopted, [moving])
