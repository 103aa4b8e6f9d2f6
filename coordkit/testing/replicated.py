"""A Redis primary with replicas and nobody who watches them: the test decides when a replica is promoted.

with start_replicated(replicas=2) as servers:
    redis.Redis.from_url(servers.primary.url)
    servers.promote(servers.replicas[0])
"""

from __future__ import annotations

from collections.abc import Sequence

from coordkit.testing.deployments import Deployment, LocalSite, Member, Silent, Site, launched, tell
from coordkit.testing.servers import RedisServer, ServerFailed

__all__ = ["ReplicatedRedis", "data_words", "follows", "start_replicated"]


class ReplicatedRedis(Deployment):
    """A primary and its replicas; the first of ``nodes`` is the primary at the start."""

    def __init__(self, nodes: Sequence[Member], site: Site) -> None:
        super().__init__(nodes, site)
        self._primary = self.nodes[0]

    @property
    def primary(self) -> Member:
        """The server that was made the primary last, whether it runs or not."""
        return self._primary

    @property
    def replicas(self) -> tuple[Member, ...]:
        """The others."""
        return tuple(node for node in self.nodes if node is not self._primary)

    def promote(self, replica: RedisServer) -> None:
        """Make ``replica`` the primary and point the others, as far as they answer, at it.

        Writes that had not reached it are gone. A server that is down or paused is pointed at it by ``wait_ready``.
        """
        self._primary = self.at(replica.port)
        try:
            tell(self._primary, "REPLICAOF", "NO", "ONE")
        except Silent as error:
            raise ServerFailed(f"{self}: cannot promote: {error}") from error
        self._point_all()

    def wait_in_sync(self, timeout: float = 30.0) -> None:
        """Wait until every replica has what the primary has now, at most ``timeout`` seconds; raise ServerFailed."""
        try:
            target = int(tell(self._primary, "ROLE")[1])
        except Silent as error:
            raise ServerFailed(f"{self}: {error}") from error

        def behind() -> str:
            for replica in self.replicas:
                if trouble := follows(replica, self._primary):
                    return trouble
                if (reached := int(tell(replica, "ROLE")[4])) < target:
                    return f"{replica.host}:{replica.port} has {reached} of {target} bytes"
            return ""

        self.until(behind, timeout)

    def trouble(self) -> str:
        if tell(self._primary, "ROLE")[0] != "master":
            tell(self._primary, "REPLICAOF", "NO", "ONE")
        self._point_all()
        return next(filter(None, (follows(replica, self._primary) for replica in self.replicas)), "")

    def _point_all(self) -> None:
        for replica in self.replicas:
            try:
                role = tell(replica, "ROLE", timeout=0.5)
                if role[0] != "slave" or int(role[2]) != self._primary.port:
                    tell(replica, "REPLICAOF", self._primary.host, self._primary.port)
            except Silent:
                continue  # it is down: `wait_ready` comes back to it


def start_replicated(replicas: int = 2, *, site: Site | None = None, args: Sequence[str] = ()) -> ReplicatedRedis:
    """Start a primary with replicas and wait until they are in step.

    ``args`` are further command line arguments of each, such as ``["--appendonly", "yes"]``. Raise ServerFailed.
    """
    if replicas < 1:
        raise ValueError(f"replicas: {replicas!r} is not 1 or more")
    site = site or LocalSite()
    words = [*data_words(site), *args]
    nodes = [site.member(port, words) for port in site.open(1 + replicas)]
    return launched(ReplicatedRedis(nodes, site), lambda _: None)


def data_words(site: Site) -> list[str]:
    """Return the command line of a server that keeps data, and nothing of it on disk."""
    words = ["--save", "", "--appendonly", "no"]
    # A replica that attaches in a test should not wait the 5 seconds that let more replicas share one transfer.
    words += ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
    return [*words, "--replica-announce-ip", site.host]


def follows(replica: Member, primary: Member) -> str:
    """Return what keeps a server from being a replica of ``primary`` that is connected; empty when nothing does."""
    role = tell(replica, "ROLE")
    if role[0] == "slave" and int(role[2]) == primary.port and role[3] == "connected":
        return ""
    return f"{replica.host}:{replica.port} should follow {primary.host}:{primary.port} and is {role}"
