"""What ``coordkit reshard status`` prints: who owns how many slots, what moves, what is planned, and who follows."""

from __future__ import annotations

import json
from typing import Any

from coordkit.routing import Topology


def show(topology: Topology, clients: dict[str, int], *, as_json: bool) -> None:
    """Print what a topology says, and the epoch of each of its clients: lines for a person, or one JSON object."""
    if as_json:
        print(json.dumps(_said_of(topology, clients)))
        return
    print(f"{topology.name}: {'a cache, ' * topology.cache}epoch {topology.epoch}, checksum {topology.checksum()}")
    for name, owned in topology.owners.counts().items():
        shard = topology.shards[name]
        state = "" if shard.state == "up" else f", {shard.state}"
        replicas = "".join(f", {replica}" for replica in shard.replicas)
        print(f"  {name}: {owned} slots, weight {shard.weight:g}, {shard.primary}{replicas}{state}")
    for move in topology.moves:
        print(f"  {move.state}: {len(move.slots)} slots from {move.source} to {move.target} (move {move.number})")
    for (source, target), slots in topology.serving.moves(topology.goal()).items():
        print(f"  planned: {len(slots)} slots from {source} to {target}")
    behind = sorted(name for name, epoch in clients.items() if epoch < topology.epoch)
    print(f"  clients: {len(clients)}, of which {len(behind)} have not adopted it yet {' '.join(behind)}".rstrip())


def _said_of(topology: Topology, clients: dict[str, int]) -> dict[str, Any]:
    planned = topology.serving.moves(topology.goal())
    return {
        "name": topology.name,
        "epoch": topology.epoch,
        "cache": topology.cache,
        "checksum": topology.checksum(),
        "shards": {
            name: {
                "slots": slots,
                **{part: getattr(topology.shards[name], part) for part in ("weight", "state", "primary", "replicas")},
            }
            for name, slots in topology.owners.counts().items()
        },
        "moves": [
            {"number": m.number, "slots": len(m.slots), "source": m.source, "target": m.target, "state": m.state}
            for m in topology.moves
        ],
        "planned": [{"slots": len(slots), "source": a, "target": b} for (a, b), slots in planned.items()],
        "clients": clients,
    }
