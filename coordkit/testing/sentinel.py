"""A Redis primary with replicas behind Sentinels, which promote one when the primary is gone.

with start_sentinel() as servers:
    primary = redis.Sentinel(servers.sentinels).master_for(servers.service_name)
    servers.primary().kill()
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from coordkit.testing.deployments import Deployment, LocalSite, Member, Silent, Site, launched, tell
from coordkit.testing.replicated import data_words, follows
from coordkit.testing.servers import RedisServer, ServerFailed, scaled

__all__ = ["SentinelRedis", "start_sentinel"]

_SERVICE = "coordkit"
_TRIES = 3  # of a failover that is asked for
# Sentinels look at servers and tell each other what they saw once in one to ten seconds. These make a test's failover
# quick (milliseconds; Redis 7 and later), and keep a busy machine from being taken for a broken clock for 30 seconds.
# Not less for PING-PERIOD: news of a replica, which come each second, may be five of them old if it is to be promoted.
_HASTE = "INFO-PERIOD 200 PING-PERIOD 400 ASK-PERIOD 100 PUBLISH-PERIOD 200 TILT-TRIGGER 5000 TILT-PERIOD 1000"


class SentinelRedis(Deployment):
    """Data servers and the Sentinels that watch them; ``nodes`` are both, the data servers first."""

    service_name = _SERVICE

    def __init__(self, servers: Sequence[Member], watchers: Sequence[Member], site: Site) -> None:
        super().__init__([*servers, *watchers], site)
        self.servers = tuple(servers)
        self.watchers = tuple(watchers)

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """What ``redis.Sentinel(...)`` takes first."""
        return [(watcher.host, watcher.port) for watcher in self.watchers]

    def primary(self, timeout: float = 30.0) -> Member:
        """Return the server that most Sentinels call the primary; wait at most ``timeout`` seconds for it."""
        found: list[Member] = []

        def look() -> str:
            names = self._names()
            found[:] = [server for server in self.servers if names.count(server.port) * 2 > len(self.watchers)]
            return "" if found else f"the Sentinels name as primary the ports {names}"

        self.until(look, timeout)
        return found[0]

    def replicas(self) -> tuple[Member, ...]:
        """Return the data servers that are not the primary."""
        primary = self.primary()
        return tuple(server for server in self.servers if server is not primary)

    def failover(self, timeout: float = 30.0) -> Member:
        """Let a Sentinel promote a replica although nothing is broken; return the new primary once it serves as one."""
        old = self.primary()

        def refused() -> str:
            if self.primary() is old:
                tell(self.watchers[0], "SENTINEL", "FAILOVER", _SERVICE)
            return ""

        for _ in range(_TRIES - 1):
            self.until(refused, timeout)
            # A Sentinel that finds no replica fit for it gives up, and tells only its log.
            with contextlib.suppress(ServerFailed):
                return self.wait_promoted(old, timeout / _TRIES)
        self.until(refused, timeout)
        return self.wait_promoted(old, timeout / _TRIES)

    def wait_promoted(self, old: RedisServer, timeout: float = 30.0) -> Member:
        """Wait until all Sentinels that answer name another primary than ``old``, and it serves as one; return it."""
        found: list[Member] = []

        def look() -> str:
            names = self._names()
            if len(names) * 2 <= len(self.watchers) or len(set(names)) > 1 or names[0] == old.port:
                return f"the Sentinels name as primary the ports {names}"
            found[:] = [self.at(names[0])]
            return "" if tell(found[0], "ROLE")[0] == "master" else f"{found[0]} is no primary yet"

        self.until(look, scaled(timeout))
        return found[0]

    def trouble(self) -> str:
        ports = set()
        for watcher in self.watchers:
            with contextlib.suppress(Silent):  # Redis 6 has no such command, and takes its time
                tell(watcher, "SENTINEL", "DEBUG", *_HASTE.split())
            if what := self._unseen(watcher):
                return f"Sentinel {watcher.host}:{watcher.port} {what}"
            ports.add(int(_pairs(tell(watcher, "SENTINEL", "MASTER", _SERVICE))["port"]))
        if len(ports) > 1:
            return f"the Sentinels name primaries on ports {sorted(ports)}"
        primary = self.at(ports.pop())
        if tell(primary, "ROLE")[0] != "master":
            return f"{primary} should be the primary, and is not"
        return next(filter(None, (follows(s, primary) for s in self.servers if s is not primary)), "")

    def _unseen(self, watcher: Member) -> str:
        """Return what a Sentinel does not see as it should."""
        primary = _pairs(tell(watcher, "SENTINEL", "MASTER", _SERVICE))
        if primary["flags"] != "master" or int(primary["num-other-sentinels"]) != len(self.watchers) - 1:
            return f"sees the primary as {primary['flags']} and {primary['num-other-sentinels']} other Sentinels"
        replicas = [_pairs(each) for each in tell(watcher, "SENTINEL", "SLAVES", _SERVICE)]
        seen = [(each["flags"], each["master-link-status"]) for each in replicas]
        return "" if seen == [("slave", "ok")] * (len(self.servers) - 1) else f"sees its replicas as {seen}"

    def _names(self) -> list[int]:
        """Return the port of the primary that each Sentinel names, as far as they answer."""
        names = []
        for watcher in self.watchers:
            with contextlib.suppress(Silent):
                # Not GET-MASTER-ADDR-BY-NAME, which names the new one earlier than this, which redis-py asks.
                names.append(int(_pairs(tell(watcher, "SENTINEL", "MASTER", _SERVICE, timeout=0.5))["port"]))
        return names


def start_sentinel(
    replicas: int = 2,
    sentinels: int = 3,
    *,
    site: Site | None = None,
    down_after: float = 1.0,
    failover_timeout: float = 2.0,
    args: Sequence[str] = (),
) -> SentinelRedis:
    """Start a primary, replicas and Sentinels; wait until all Sentinels see all of them.

    A primary that is silent for ``down_after`` seconds is replaced; a failover that got stuck is tried again after
    twice ``failover_timeout`` seconds. ``args`` are further command line arguments of the data servers. Raise
    ServerFailed.
    """
    if replicas < 1 or sentinels < 1:
        raise ValueError(f"replicas, sentinels: {replicas!r}, {sentinels!r} are not 1 or more")
    site = site or LocalSite()
    ports = site.open(1 + replicas + sentinels)
    of_data, of_sentinels = ports[: 1 + replicas], ports[1 + replicas :]
    settings = [
        f"sentinel announce-ip {site.host}",
        f"sentinel monitor {_SERVICE} {site.host} {of_data[0]} {sentinels // 2 + 1}",
        f"sentinel down-after-milliseconds {_SERVICE} {round(down_after * 1000)}",
        f"sentinel failover-timeout {_SERVICE} {round(failover_timeout * 1000)}",
        f"sentinel parallel-syncs {_SERVICE} {replicas}",
    ]
    servers = [site.member(port, [*data_words(site), *args]) for port in of_data]
    watchers = [site.member(port, ["--sentinel"], settings) for port in of_sentinels]

    def follow(_: SentinelRedis) -> None:
        for server in servers[1:]:
            tell(server, "REPLICAOF", site.host, of_data[0])
            tell(server, "CONFIG", "REWRITE")

    return launched(SentinelRedis(servers, watchers, site), follow)


def _pairs(flat: Sequence[Any]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
