"""``coordkit reshard``: make, change and watch over a live topology of Redis shards, from a terminal."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis  # noqa: TID251  this is a program, which has to make a client

    from coordkit import Progress, Reshard, Topology, TopologyStore
    from coordkit.routing import Shard

UNAVAILABLE, ANOTHER, LOST = 3, 75, 76  # exit statuses; 75 is sysexits.h's "try again later"

_SHARD = "NAME=ADDRESS[,REPLICA...]"

_ABOUT = """\
Move keys between Redis shards while clients use them. What is to be where is
kept in ZooKeeper; this program leads an election there, so that one at a time
moves. It may be stopped with Ctrl-C, or killed, at any point: resume goes on,
here or elsewhere. The user of --username needs CLIENT KILL on the shards. Where
that is forbidden, a warning says so, and each batch waits until all clients
have adopted it and --lease longer, which is weaker. The password is read from
COORDKIT_REDIS_PASSWORD.
"""
_STATUS = """\
exit status: 0 done; 130 (Ctrl-C) or 143 (SIGTERM) stopped, to be resumed; 75 if
another rebalancer leads, 76 if the leadership was lost, 3 if a server did not
answer or said no, 2 if the command line is wrong.
"""


def add(commands: Any) -> None:
    """Add ``reshard`` and what belongs to it to a command line."""
    reshard = commands.add_parser(
        "reshard",
        help="add, drain or reweight Redis shards while they are in use",
        description=_ABOUT,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = reshard.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="say who owns how many slots, what moves, and what is planned")
    init = actions.add_parser(
        "init", help="make a topology of shards without keys, of one shard, or (--static) of a static ShardedRedis"
    )
    init.add_argument("shards", nargs="+", metavar=_SHARD, help="as a=redis://10.0.0.1:6379/0,redis://10.0.0.2:6379/0")
    init.add_argument("--name", required=True, help="the topology's name, a part of its keys on the shards")
    init.add_argument(
        "--static",
        action="store_true",
        help="the shards have the keys of a ShardedRedis of these names, without weights or a placement: each slot "
        "stays where that put it. No client of that kind may be left when slots move",
    )
    init.add_argument(
        "--cache",
        action="store_true",
        help="declare, for good, that what these shards have may be lost: a dead one may be abandoned, and no locks "
        "are kept there",
    )
    added = actions.add_parser("add", help="add an empty shard, and move its share of the slots to it")
    added.add_argument("shard", metavar=_SHARD)
    added.add_argument("--weight", type=float, default=1.0, help="its share of the slots; default: %(default)s")
    drain = actions.add_parser("drain", help="move all slots of a shard to the others, and forget it")
    undrain = actions.add_parser("undrain", help="take a drain back: give a shard its share of the slots again")
    reweight = actions.add_parser("reweight", help="give a shard another share of the slots")
    readdress = actions.add_parser("readdress", help="say where a shard is now, with its data; no slot moves")
    readdress.add_argument("shard", metavar=_SHARD)
    repair = actions.add_parser("repair", help="have a shard that lost its epoch serve again with what it has")
    abandon = actions.add_parser(
        "abandon",
        help="of a cache: take out a shard that is dead for good, with its data",
        description="Take out a shard that is dead for good. Its slots begin empty at the others. It is final, and "
        "refused if the shard answers (drain it). Do not let its server come back with its data.",
    )
    abandon.add_argument(
        "--lose-keys-and-locks",
        action="store_true",
        help="also where the topology is no cache: all keys of the shard are lost, and its locks, which others may "
        "then take, with the counters of their tokens. Waits until all registered clients have adopted it, and "
        "--lease longer: give your longest ttl",
    )
    for parser in (drain, undrain, reweight, repair, abandon):
        parser.add_argument("shard", metavar="NAME")
    reweight.add_argument("weight", type=float)
    resume = actions.add_parser("resume", help="go on with what was begun")
    rollback = actions.add_parser("rollback", help="turn round the batch that is under way")
    rollback.add_argument(
        "--target-lost",
        action="store_true",
        help="the shard to which keys were moving is gone for good: serve what the other one still has; what was "
        "written there since, and what had been removed at the other, is lost. Promote a replica if there is one",
    )
    for parser in (status, init, added, drain, undrain, reweight, readdress, repair, resume, rollback, abandon):
        parser.add_argument("--zookeeper", required=True, metavar="HOSTS", help="host:port,host:port/chroot")
        parser.add_argument("--path", required=True, metavar="ZNODE", help="where the topology is, as /services/users")
        parser.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    for parser in (init, added, drain, undrain, reweight, readdress, repair, resume, rollback, abandon):
        parser.add_argument("--username", metavar="NAME", help="of the Redis user; default: none")
    for parser in (added, drain, undrain, reweight, resume, rollback, abandon):
        parser.add_argument("--keys-per-second", type=float, metavar="N", help="0 for no limit; default: 5000")
        parser.add_argument("--bytes-per-second", type=float, metavar="N", help="0 for no limit; default: 32 MiB")
        parser.add_argument("--batch", type=int, metavar="SLOTS", help="slots that move at once; default: 1024")
        parser.add_argument(
            "--lease", type=float, metavar="SECONDS", help="for how long a client may be paused; default: 30. See above"
        )


def main(chosen: argparse.Namespace) -> int:
    """Do what was chosen; return the exit status."""
    from coordkit import CoordError, LeadershipLost, NotAcquired, TopologyStore, reshard_status

    try:
        with _zookeeper(chosen.zookeeper) as zk:
            store = TopologyStore(zk, chosen.path)
            if chosen.action == "status":
                reshard_status.show(store.read(), store.clients(), as_json=chosen.json)
                return 0
            return _change(store, chosen)
    except (ValueError, TypeError) as error:
        return _said(error, 2)
    except CoordError as error:
        known = {NotAcquired: ANOTHER, LeadershipLost: LOST}
        return _said(error, next((known[kind] for kind in known if isinstance(error, kind)), UNAVAILABLE))


@contextmanager
def _zookeeper(hosts: str) -> Iterator[Any]:
    from kazoo.client import KazooClient  # noqa: TID251  this is a program, which has to make a client
    from kazoo.handlers.threading import KazooTimeoutError  # noqa: TID251  as above

    from coordkit import StoreUnavailable

    zk = KazooClient(hosts)
    try:
        zk.start(15)
    except KazooTimeoutError as error:
        raise StoreUnavailable(hosts, "no connection to ZooKeeper within 15 s: check --zookeeper") from error
    try:
        yield zk
    finally:
        zk.stop()
        zk.close()


def _change(store: TopologyStore, chosen: argparse.Namespace) -> int:
    from coordkit import Reshard
    from coordkit.reshard_display import display

    first = _first(chosen) if chosen.action == "init" else None
    limits: dict[str, Any] = {
        name: value or None
        for name in ("keys_per_second", "bytes_per_second")
        if (value := getattr(chosen, name, None)) is not None
    }
    for name in ("batch", "lease"):
        if getattr(chosen, name, None) is not None:
            limits[name] = getattr(chosen, name)
    with (
        closing(display(as_json=chosen.json)) as shown,
        store.rebalancer(f"coordkit reshard on {socket.gethostname()} ({os.getpid()})").lead(timeout=5) as leadership,
        Reshard(store, leadership, _connect(chosen), on_progress=shown.show, **limits) as reshard,
        _stopped_by_signals(reshard) as stopping,
    ):
        if first is not None:
            _make(store, reshard, first)
            return 0
        progress = _act(reshard, chosen)
        if progress is None:
            return 0
        if progress.phase == "stopped":
            print("stopped; everything is served as it is, and `coordkit reshard resume` goes on", file=sys.stderr)
            return 128 + stopping[0]
        if progress.slots_lost:
            print(_lost(store.read(), chosen, progress.slots_lost), file=sys.stderr)
    return 0


def _first(chosen: argparse.Namespace) -> Topology:
    from coordkit import Topology
    from coordkit.routing import rendezvous

    shards = dict(map(_named, chosen.shards))
    if len(shards) < len(chosen.shards):
        raise ValueError(f"shards={chosen.shards!r}; each name once is allowed")
    placement = rendezvous(shards) if chosen.static else None
    return Topology.first(chosen.name, shards, placement=placement, cache=chosen.cache)


def _make(store: TopologyStore, reshard: Reshard, first: Topology) -> None:
    from coordkit import BadTopology

    try:
        there = store.read()
    except BadTopology:  # none, or one that create will not replace
        reshard.check(first)  # before anybody can follow it
        there = store.create(first)
    if {name: shard.primary for name, shard in there.shards.items()} != {
        name: shard.primary for name, shard in first.shards.items()
    }:
        raise ValueError(
            f"path={store.path!r} has a topology of {list(there.shards)!r} already: use add, or another path"
        )
    if there.cache != first.cache:
        raise ValueError(
            f"path={store.path!r} has a topology that was {'' if there.cache else 'not '}declared a cache, which "
            "cannot be changed: make another one, at another path"
        )
    reshard.initialise()


def _lost(topology: Topology, chosen: argparse.Namespace, slots: int) -> str:
    what = "keys" if topology.cache else "keys, locks and token counters"
    of = f"shard {chosen.shard!r}" if chosen.action == "abandon" else "a shard"
    return (
        f"GIVEN UP: {slots} of {len(topology.owners.table)} slots, with all {what} that {of} had. They begin empty at "
        f"{', '.join(map(repr, topology.shards))}. Do not let its server come back with its data: empty it, then add it"
    )


def _act(reshard: Reshard, chosen: argparse.Namespace) -> Progress | None:
    if chosen.action == "readdress":
        name, shard = _named(chosen.shard)
        reshard.readdress(name, shard.primary, shard.replicas)
        return None
    if chosen.action == "repair":
        reshard.repair(chosen.shard)
        return None
    if chosen.action == "rollback":
        return reshard.roll_back(target_lost=chosen.target_lost)
    if chosen.action == "abandon":
        return reshard.abandon(chosen.shard, lose_keys_and_locks=chosen.lose_keys_and_locks)
    if chosen.action == "add":
        name, shard = _named(chosen.shard)
        reshard.add(name, replace(shard, weight=chosen.weight))
    elif chosen.action == "drain":
        reshard.drain(chosen.shard)
    elif chosen.action == "undrain":
        reshard.undrain(chosen.shard)
    elif chosen.action == "reweight":
        reshard.reweight(chosen.shard, chosen.weight)
    return reshard.run()


@contextmanager
def _stopped_by_signals(reshard: Reshard) -> Iterator[list[int]]:
    """Have Ctrl-C and SIGTERM stop it at its next step; the second one ends it at once, which is as safe."""
    caught: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        reshard.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(chosen: argparse.Namespace) -> Callable[[str, str], Redis]:
    from redis import Redis  # noqa: TID251  this is a program, which has to make a client

    password = os.environ.get("COORDKIT_REDIS_PASSWORD")

    def connect(_name: str, address: str) -> Redis:
        url = address if "://" in address else f"redis://{address}"
        return Redis.from_url(url, username=chosen.username, password=password, socket_timeout=30)

    return connect


def _named(text: str) -> tuple[str, Shard]:
    from coordkit.routing import Shard

    name, _, addresses = text.partition("=")
    primary, *replicas = addresses.split(",")
    if not name or not primary:
        raise ValueError(f"shard={text!r}; {_SHARD}, as a=redis://10.0.0.1:6379/0, is allowed")
    return name, Shard(primary, tuple(replicas))


def _said(what: object, status: int) -> int:
    print(f"coordkit: {what}", file=sys.stderr)
    return status
