"""Keep a pair of Redis servers, one the primary and the other its replica: the worked example of ``Roles``.

One agent runs beside each server, on the same machine::

    python -m coordkit.redis_pair --zk 10.0.0.1:2181 --identity a a=10.0.0.1:6379 b=10.0.0.2:6379

What is promised: a write that one replica has acknowledged (``WAIT 1``) is not lost by a fail-over, nor by the next
one, as long as one server or agent fails at a time. It rests on three things. Only a server that is in sync may become
the primary, and the set of those is changed by the primary alone, before it has a server begin anew. A server that was
restarted is not in sync, unless it keeps all that it acknowledges on disk (``appendfsync always``) and has the mark of
the term, a key that comes and goes with the data. And a server that is no longer the primary has no replica, so that
nothing written to it is acknowledged any more.

What is not: that an old primary takes no writes. It does, until its agent or the new one's reaches it; those are never
acknowledged, and they are gone when it follows. Writers that hold a token are refused by it (``Fence``).

A server that keeps nothing on disk must not come back as a primary by itself, because its replica would copy that it is
empty: start it with ``--replicaof 127.0.0.1 1``; the agent tells it what it is.

Run the agent from a supervisor that starts it again: it ends with an error when it cannot do its work.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from kazoo.client import KazooClient

from coordkit import Backup, CoordError, Fence, Leader, Primary, Roles

MARK = "coordkit:pair:term"
FENCE = "coordkit:pair"
_LOOK = 0.2  # seconds between two looks at the servers
_log = logging.getLogger("coordkit.redis_pair")

Address = tuple[str, int]


class DataLost(CoordError):
    """The agent's own server is not what it was when it was said to be in sync."""


class Agent:
    """What is done for one of the two servers."""

    def __init__(self, zk: Any, path: str, identity: str, servers: Mapping[str, Address], **options: Any) -> None:
        if identity not in servers or len(servers) != 2:
            raise ValueError(f"servers must be two, {identity!r} one of them; got {dict(servers)!r}")
        self.identity = identity
        self._addresses = dict(servers)
        self._clients = {name: redis.Redis(*at, socket_timeout=1, **options) for name, at in servers.items()}
        self._own = self._clients[identity]
        [self._other] = set(servers) - {identity}
        self._stopping = threading.Event()
        self.roles = Roles(
            zk, path, identity=identity, on_primary=self.lead, on_backup=self.follow, on_fence=self.fence
        )

    # -- the backup

    def follow(self, backup: Backup) -> None:
        """Have our server follow the primary's; it says itself when that is done."""
        host, port = self._addresses[backup.primary.identity]
        while not backup.ended:
            try:
                self._own.replicaof(host, str(port))
            except redis.RedisError as error:
                _log.warning("%s: own server: %s", self.identity, error)
                backup.ended.wait(_LOOK)
            else:
                return

    # -- the primary

    def fence(self, before: Leader, primary: Primary) -> None:
        """Have the old primary's server refuse its writers, if it can be reached; it acknowledges nothing anyway."""
        try:
            self._own.replicaof("NO", "ONE")  # from here on, nothing that is written there has a replica
            Fence(self._clients[before.identity], FENCE).claim(token=primary.token)
        except (redis.RedisError, CoordError) as error:
            _log.warning("%s: the server of %s could not be fenced: %s", self.identity, before.identity, error)

    def lead(self, primary: Primary) -> None:
        """Make our server the primary, and keep the other one in sync, for as long as we lead."""
        self._own.replicaof("NO", "ONE")
        begun = self._check_data(primary)
        self._own.set(MARK, int(primary.token))
        Fence(self._own, FENCE).claim(token=primary.token)
        said = {self.identity: f"{begun} {primary.token}"}
        primary.set_in_sync(said)  # before the other one begins anew, with us
        while not self._stopping.wait(_LOOK):
            primary.ensure()
            if self._own.info("server")["run_id"] != begun:  # a primary that has no server resigns
                raise DataLost(primary.name, f"the server of {self.identity} was restarted while it was the primary")
            other = self._other_in_sync()
            found = {self.identity: begun} | ({self._other: other} if other else {})
            found = {name: f"{run} {primary.token}" for name, run in found.items()}  # which run, with which mark
            if found != said:
                primary.set_in_sync(found)
                said = found
            if not other:
                self._point_other()

    def _check_data(self, primary: Primary) -> str:
        """Return by what our server is known. Raise ``DataLost`` if it is not as it was when it was in sync.

        It is if it was not restarted since, or if it keeps on disk all that it acknowledges, and the mark is there.
        """
        begun = str(self._own.info("server")["run_id"])
        said = primary.in_sync
        if said is None:
            return begun
        run, mark = said.notes[self.identity].split()
        settings: Any = self._own.config_get("append*")
        durable = settings.get("appendonly") == "yes" and settings.get("appendfsync") == "always"
        if int(self._own.get(MARK) or 0) >= int(mark) and (durable or run == begun):
            return begun
        others = {name: note for name, note in said.notes.items() if name != self.identity}
        if others:
            primary.set_in_sync(others)
        raise DataLost(primary.name, f"the server of {self.identity} was restarted without all that it had")

    def _other_in_sync(self) -> str | None:
        """Return by what the other server is known, if it follows ours and has all that ours had a moment ago."""
        target = int(self._own.info("replication")["master_repl_offset"])
        try:
            other: Any = self._clients[self._other].info()
        except redis.RedisError:
            return None
        follows = (
            other["role"] == "slave"
            and (other["master_host"], int(other["master_port"])) == self._addresses[self.identity]
            and other["master_link_status"] == "up"
            and not other["master_sync_in_progress"]
            and int(other["slave_repl_offset"]) >= target
        )
        return str(other["run_id"]) if follows else None

    def _point_other(self) -> None:
        """Have the other server follow ours, if it does not; the agent there does the same, if there is one."""
        host, port = self._addresses[self.identity]
        other = self._clients[self._other]
        try:
            facts: Any = other.info("replication")
            if (facts.get("master_host"), int(facts.get("master_port", 0))) != (host, port):
                other.replicaof(host, str(port))
        except redis.RedisError as error:
            _log.info("%s: the server of %s does not answer: %s", self.identity, self._other, error)

    def run(self) -> None:
        """Be what the election makes us until ``stop()``; raises what goes wrong with our own server."""
        self.roles.run()

    def stop(self) -> None:
        """End it: the primary resigns, so that the other one takes over at once."""
        self._stopping.set()
        self.roles.stop()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def _server(text: str) -> tuple[str, Address]:
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if not (name and host and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected NAME=HOST:PORT, got {text!r}")
    return name, (host, int(port))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m coordkit.redis_pair", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("servers", nargs=2, type=_server, metavar="NAME=HOST:PORT", help="the two Redis servers")
    parser.add_argument("--identity", required=True, metavar="NAME", help="which of them this agent is for")
    parser.add_argument("--zk", required=True, metavar="HOST:PORT,...", help="the ZooKeeper ensemble")
    parser.add_argument("--path", default="/coordkit/redis-pair", help="the election's znode (%(default)s)")
    parser.add_argument("--session-timeout", type=float, default=10.0, metavar="S", help="seconds (%(default)s)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    zk = KazooClient(given.zk, timeout=given.session_timeout)
    agent = Agent(zk, given.path, given.identity, dict(given.servers))
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    zk.start()
    try:
        agent.run()
    except (CoordError, redis.RedisError) as error:
        _log.error("%s ends: %s", given.identity, error)
        return 1
    finally:
        zk.stop()
        zk.close()
        agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
