"""The epoch fence on the data path: nobody who routes by an old topology can reach a shard that changed hands.

ZooKeeper cannot give that: a client may be paused between reading the topology and sending, for as long as you like.
So the shard itself knows the epoch, in one key, and *connections* carry it:

1. Every connection asks for the epoch before anything else is sent on it (`Greeting`): one command for each
   connection, none for each command. What was routed by epoch ``m`` is sent only on a connection that saw at most
   ``m``; both are compared before the first byte is sent, and nothing is ever sent again on another connection.
2. Whoever changes owners raises the epoch on the shards concerned (`raise_epoch`: it never falls, it is written before
   anything else happens, and every replica has it), and *then* drops every connection there is (`drop_connections`).

After that no client of an earlier epoch can have a command executed there: Redis executes one command at a time, so
each connection was either made before the drop, and is gone, or after it, and saw the new epoch. In particular:

- A client that was stopped wakes up to a dead connection; a new one sees the new epoch, which its decision is below.
- Bytes that were on the way, in the kernel or in the server's input buffer, go with the connection. A command that had
  been executed stays so; its reply may be lost: the caller learns that the outcome is unknown.
- A blocked client (BLPOP), or one that waits for CLIENT PAUSE to end, is dropped before it is served.
- A connection made between raising and dropping saw the new epoch, and is dropped for nothing. One made before the
  raising and greeted before it is dropped; greeted after it, it saw the new epoch.
- A client that was killed in flight is a client whose connection is gone.
- A transaction that is open loses its connection, and with it what was queued. A script that runs ends first.

The epoch survives what the server's data survives: a restart with an append-only file, a failover to a replica that has
it. A file that is written out each second (``everysec``) lacks the last second or two if the machine dies, and the
epoch with it: the server would come back with the one before, and let in who has not heard of the move. So before
anything is brought elsewhere the epoch is waited for on the source's disk: by WAITAOF where the server has it (Redis
7.2, Valkey), else by `flushed`. With ``appendfsync no``, or without a file, nothing can be waited for: what a server
forgets in a crash is its owner's choice. Without a file it forgets all, and is refused. Those that are connected when
it is raised have it, and as many as the topology names (``replicas`` of `Shard`) must be connected: the fence waits for
them. **A replica that is away just then, and that the topology does not name, must not be promoted later**: it knows an
older epoch, and a client that has not heard of the change would write there, to keys that have moved away. So name the
replicas of each shard in the topology. A shard whose epoch is missing was wiped, or is none of this topology: it is
refused. One whose epoch is lower than the last completed move says (``floor``) has lost it, and is refused by all who
know that.

Needed: the right to CLIENT KILL, for whoever reshards. It drops the connections of *all* clients of these servers,
once for each batch of slots; they connect anew. An eviction policy must not be able to evict the epoch: ``noeviction``
or one of ``volatile-*``. Where CLIENT KILL is forbidden, as some managed services do, `drop_connections` says so and
`Reshard` falls back to waiting, which is weaker: see `barrier`.

Not promised: anything about who does not greet: other programs' clients. Connections to replicas are neither greeted
nor dropped; `replicas.fence` says what a read from them may say.
Source: notes/routing.md 7.3; the idea of a fenced connection is that of a lease epoch in Chubby (Burrows, 2006).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from coordkit.errors import CoordError, StoreRefused, StoreUnavailable
from coordkit.routing.fence.port import Command, ShardPort
from coordkit.scripts import load

_RAISE = load("epoch_raise")

# What a server says that does not let us, or that has no such command; redis-py takes NOPERM off.
_FORBIDDEN = re.compile(r"NOPERM|no permission|nknown (sub)?command|not allowed|syntax error", re.IGNORECASE)
_FORCED = re.compile("everysec|always")
_NO_FILE = re.compile(r"nknown command|appendonly is disabled|NOPERM|no permission", re.IGNORECASE)


PATIENCE = 5.0
"""Seconds to wait for all replicas."""


def local_key(topology: str, part: str) -> bytes:
    """Return a key that each shard has for itself: it never moves, whatever its slot."""
    return f"coordkit:1:{{{topology}}}:topology:{part}".encode()


def is_local(topology: str, key: bytes) -> bool:
    """Return whether ``key`` is one of those."""
    return key.startswith(local_key(topology, ""))


class Greeting:
    """What a fresh connection to a shard asks, and what the answer means.

    ``floor`` says, each time, the least epoch that this shard must know: that of the last move which its servers were
    fenced for and which is complete; 0 if there was none.
    """

    __slots__ = ("_floor", "_topology", "command", "shard")

    def __init__(self, topology: str, shard: str, floor: Callable[[], int] = int) -> None:
        self.shard = shard
        self.command: Command = ("GET", local_key(topology, "epoch"))
        self._topology = topology
        self._floor = floor

    def heard(self, reply: Any) -> int:
        """Return the epoch that the connection has seen; StoreRefused if this shard must not be used."""
        if isinstance(reply, CoordError):
            raise reply
        if reply is None:
            raise _not_of_it(self.shard, self._topology)
        try:
            epoch = int(reply)
        except (TypeError, ValueError):
            raise StoreRefused(self.shard, f"its epoch is no number: {reply!r}; somebody wrote it by hand") from None
        floor = self._floor()
        if epoch < floor:
            raise StoreRefused(
                self.shard,
                f"it knows epoch {epoch} of topology {self._topology!r}, and was told {floor}: it was restored from an "
                "older copy, or failed over to a replica that lacked it, and may lack acknowledged writes; to accept "
                f"that, run `coordkit reshard repair {self.shard}`, which tells it again",
            )
        return epoch


def _not_of_it(shard: str, topology: str) -> StoreRefused:
    return StoreRefused(
        shard,
        f"it knows no epoch of topology {topology!r}: it was wiped (FLUSHALL, a restart without a file, an eviction), "
        f"or is no shard of it; if it shall serve with what it has, run `coordkit reshard repair {shard}`",
    )


class Raised(NamedTuple):
    """How an epoch was written: what stands there now, how many replicas have it, and whether it is on disk."""

    epoch: int
    replicas: int
    on_disk: bool


async def raise_epoch(
    port: ShardPort,
    topology: str,
    epoch: int,
    *,
    create: bool = False,
    replicas: int = 0,
    disk: bool = True,
    patience: float | None = None,
) -> Raised:
    """Raise the shard's epoch, and wait until each connected replica has it; the disk as well, if ``disk``.

    That needs WAITAOF (Redis 7.2, Valkey) and an append-only file that is forced to the disk; where it cannot be had
    ``on_disk`` is False. It is written before it is waited for, and may be asked again. Raise StoreRefused if the shard
    has no epoch, unless ``create``. Raise StoreUnavailable if not all replicas, or not the disk, had it within
    ``patience`` seconds (`PATIENCE`, or what the client itself allows), or fewer than ``replicas`` are connected: then
    ask again, because a replica that lacks it could be promoted.
    """
    patience = min(patience or PATIENCE, 0.4 * port.patience)  # there are two waits in one answer
    milliseconds = max(1, round(patience * 1000))
    key = local_key(topology, "epoch")
    command: Command = (b"EVAL", _RAISE.source, 1, key, epoch, "1" if create else "")
    stands, info = await port.ask([command, (b"INFO", b"replication")])
    _raise_if_refused(stands, info)
    if stands == -1:
        raise _not_of_it(port.shard, topology)
    if stands == -2:
        raise StoreRefused(port.shard, f"its epoch at {key!r} is no number; somebody wrote it by hand")
    expected = max(replicas, connected := _replicas(info))
    if connected < expected:
        raise StoreUnavailable(
            port.shard,
            f"{connected} of its {expected} replicas are connected; one that is away lacks epoch {epoch} and could be "
            "promoted: bring it back and try again; if it is gone for good, take it out of the topology and resume",
        )
    # The same connection need not be had again: what it wrote before is written again, and waited for.
    commands: list[Command] = [command, (b"WAIT", expected, milliseconds), (b"WAITAOF", 1, 0, milliseconds)]
    stands, copies, *disks = await port.ask(commands if disk else commands[:2])
    _raise_if_refused(stands, copies)
    if copies < expected:
        raise StoreUnavailable(
            port.shard,
            f"{copies} of its {expected} replicas had epoch {epoch} within {patience} s; one without it could be "
            "promoted: look at INFO replication, and try again",
        )
    on_disk = bool(disks) and await _is_on_disk(port, disks[0], epoch, patience)
    return Raised(int(stands), int(copies), on_disk)


async def _is_on_disk(port: ShardPort, disks: Any, epoch: int, patience: float) -> bool:
    """Return whether WAITAOF said so; raise StoreUnavailable if the server should have been able to say it."""
    if isinstance(disks, Exception):
        if not _NO_FILE.search(str(disks)):
            raise disks
        return False
    if disks[0] >= 1:
        return True
    [policy] = await port.ask([(b"CONFIG", b"GET", b"appendfsync")])
    if _FORCED.search(str(policy)):  # "no" is its owner's choice, and who may not ask does not know
        raise StoreUnavailable(
            port.shard,
            f"epoch {epoch} was not on its disk within {patience:g} s; it would be lost in a crash, and who routes by "
            "an older topology be let in: look at the disk and at INFO persistence, and try again",
        )
    return False


async def settle(port: ShardPort, topology: str, number: int, *, replicas: int = 0) -> None:
    """Note on a shard that move ``number`` is over, behind all that it did there, for `replicas.fence`.

    So many ``replicas`` are waited for, but not insisted on: one that has not heard of it is not read from.
    """
    key = local_key(topology, "settled")
    commands: list[Command] = [(b"EVAL", _RAISE.source, 1, key, number, "1")]
    if replicas:
        commands.append((b"WAIT", replicas, max(1, round(min(PATIENCE, 0.4 * port.patience) * 1000))))
    stands, *_ = await port.ask(commands)
    _raise_if_refused(stands)
    if stands == -2:
        raise StoreRefused(port.shard, f"what stands at {key!r} is no number; somebody wrote it by hand")


async def replicas_of(port: ShardPort) -> int:
    """Return how many replicas are connected to a shard's primary."""
    [info] = await port.ask([(b"INFO", b"replication")])
    _raise_if_refused(info)
    return _replicas(info)


async def drop_connections(port: ShardPort, *, subscribers: bool = False) -> int | None:
    """Drop every connection of clients to this server but our own; return how many, None if that is forbidden.

    With ``subscribers`` those that only listen as well: so that who waits on a channel of a slot that moves looks for
    its new owner.
    """
    commands: list[Command] = [(b"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")]
    if subscribers:
        commands.append((b"CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"))
    dropped = await port.ask(commands)
    for reply in dropped:
        if isinstance(reply, Exception):
            if _FORBIDDEN.search(str(reply)):
                return None
            raise reply
    return sum(map(int, dropped))


def _raise_if_refused(*replies: Any) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _replicas(info: Any) -> int:
    """Return how many replicas are connected."""
    text = info.decode() if isinstance(info, bytes) else str(info)
    found = re.search(r"^connected_slaves:(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0
