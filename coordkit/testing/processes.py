"""Real Redis and ZooKeeper servers as local processes: the quickest way to have them.

Each server listens on a free port of 127.0.0.1 and keeps its data in a temporary directory that ``stop`` removes.
What is started here ends with this process (see ``_process`` for the limit on macOS). Used by the pytest plugin and by
``coordkit demo``, so it imports neither pytest nor testcontainers.

    with start_redis() as server, start_zookeeper(nodes=3) as ensemble:
        redis.Redis.from_url(server.url), KazooClient(hosts=ensemble.hosts)
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from coordkit.testing._process import LocalProcess, free_ports, start_all
from coordkit.testing.servers import RedisServer, ZooKeeperEnsemble, ask, scaled, serves_redis, serves_zookeeper

__all__ = [
    "RedisProcess",
    "ZooKeeperProcess",
    "missing",
    "redis_binary",
    "start_redis",
    "start_redis_servers",
    "start_zookeeper",
    "takes_debug_option",
    "version",
    "zookeeper_classpath",
]

Kind = Literal["redis", "zookeeper"]

_DEBIAN_JARS = Path("/usr/share/java")
_UNPACKED = ("/opt/zookeeper", "/usr/share/zookeeper", "/opt/homebrew/opt/zookeeper/libexec")


class RedisProcess(LocalProcess):
    """A local redis-server (or valkey-server); made by ``start_redis``."""

    def __init__(
        self,
        port: int,
        *,
        appendonly: Literal["no", "everysec", "always"] = "no",
        save: str = "",
        replica_of: RedisServer | None = None,
        password: str | None = None,
        args: Sequence[str] = (),
    ) -> None:
        if appendonly not in ("no", "everysec", "always"):
            raise ValueError(f"appendonly: {appendonly!r} is not one of 'no', 'everysec', 'always'")
        super().__init__("redis-server", port)
        self.password = password
        self._is_replica = replica_of is not None
        command = [redis_binary(), "--port", str(port), "--bind", self.host, "--dir", str(self.directory)]
        command += ["--save", save, "--appendonly", "no" if appendonly == "no" else "yes"]
        if appendonly != "no":
            command += ["--appendfsync", appendonly]
        if takes_debug_option(command[0]):
            command += ["--enable-debug-command", "yes"]
        # A replica that attaches in a test should not wait the 5 seconds that let more replicas share one transfer.
        command += ["--repl-diskless-sync-delay", "0"]
        if replica_of is not None:
            command += ["--replicaof", replica_of.host, str(replica_of.port)]
        if password is not None:
            command += ["--requirepass", password, "--masterauth", password]
        self.command = [*command, *args]

    @property
    def url(self) -> str:
        user = "" if self.password is None else f":{self.password}@"
        return f"redis://{user}{self.host}:{self.port}/0"

    def ready(self) -> bool:
        if not serves_redis(self.host, self.port):
            return False
        if not self._is_replica:
            return True
        login = "" if self.password is None else f"AUTH {self.password}\r\n"
        question = f"{login}INFO replication\r\n".encode()
        return b"master_link_status:up" in ask(self.host, self.port, question, until=b"master_repl_offset")


class ZooKeeperProcess(LocalProcess):
    """One local ZooKeeper node; made by ``start_zookeeper``."""

    def __init__(
        self,
        my_id: int,
        ports: Sequence[Sequence[int]],
        *,
        tick_time: int,
        settings: Sequence[str],
        java: Sequence[str] = (),
    ) -> None:
        super().__init__(f"ZooKeeper node {my_id}", ports[my_id - 1][0])
        directory = self.directory
        lines = [
            f"tickTime={tick_time}",
            "initLimit=50",
            "syncLimit=25",
            f"dataDir={directory}",
            f"clientPort={self.port}",
            f"clientPortAddress={self.host}",
            "maxClientCnxns=0",
            "maxSessionTimeout=60000",
            "forceSync=no",
            "4lw.commands.whitelist=*",
            "admin.enableServer=false",  # else each node wants port 8080
            *settings,
        ]
        if len(ports) > 1:
            lines += [f"server.{n}={self.host}:{peer}:{vote}" for n, (_, peer, vote) in enumerate(ports, 1)]
            (directory / "myid").write_text(f"{my_id}\n")
        (directory / "zoo.cfg").write_text("\n".join(lines) + "\n")
        # A small heap, one simple collector and no optimising compiler: a node starts in a quarter of a second.
        flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx128m"]
        flags += ["-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self.command = [_java(), *flags, *java, "-cp", zookeeper_classpath(), main, str(directory / "zoo.cfg")]

    def ready(self) -> bool:
        return serves_zookeeper(self.host, self.port)


def start_redis(
    *,
    appendonly: Literal["no", "everysec", "always"] = "no",
    save: str = "",
    replica_of: RedisServer | None = None,
    password: str | None = None,
    args: Sequence[str] = (),
) -> RedisProcess:
    """Start one Redis server and wait until it answers (a replica: until it is in step with its primary).

    Nothing is kept on disk unless ``appendonly`` (the fsync policy) or ``save`` (as in redis.conf) says so.
    ``args`` are further command line arguments. Raise ServerFailed when it does not come up within 30 seconds.
    """
    [port] = free_ports(1)
    server = RedisProcess(port, appendonly=appendonly, save=save, replica_of=replica_of, password=password, args=args)
    start_all([server], 30.0)
    return server


def start_redis_servers(count: int, *, args: Sequence[str] = ()) -> list[RedisProcess]:
    """Start that many independent Redis servers side by side; raise ServerFailed, leaving none behind."""
    servers = [RedisProcess(port, args=args) for port in free_ports(count)]
    start_all(servers, 30.0)
    return servers


def start_zookeeper(
    nodes: int = 1, *, tick_time: int = 200, settings: Sequence[str] = (), java: Sequence[str] = ()
) -> ZooKeeperEnsemble:
    """Start a standalone ZooKeeper (``nodes=1``) or an ensemble, and wait until all nodes serve and one leads.

    ``tick_time`` is in milliseconds; the smallest session timeout is twice that. ``settings`` are further lines of
    zoo.cfg, ``java`` further options of the virtual machine. Raise ServerFailed when it does not come up within 60
    seconds.
    """
    if nodes < 1:
        raise ValueError(f"nodes: {nodes!r} is not 1 or more")
    flat = free_ports(3 * nodes)
    ports = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    members = [
        ZooKeeperProcess(n, ports, tick_time=tick_time, settings=settings, java=java) for n in range(1, nodes + 1)
    ]
    start_all(members, 60.0)
    ensemble = ZooKeeperEnsemble(members)
    try:
        ensemble.wait_ready(scaled(60.0))
    except BaseException:
        ensemble.stop()
        raise
    return ensemble


def redis_binary() -> str:
    """Return the path of redis-server or valkey-server; raise FileNotFoundError that says how to get one.

    COORDKIT_REDIS_SERVER, a path or a name on PATH, goes before both.
    """
    path = _find_redis()
    if path is None:
        raise FileNotFoundError(missing("redis"))
    return path


def zookeeper_classpath() -> str:
    """Return the Java class path of ZooKeeper; raise FileNotFoundError that says how to get it.

    Looked for, in this order: COORDKIT_ZOOKEEPER_CLASSPATH (taken as it is), ZOOKEEPER_HOME (an unpacked release),
    Debian's libzookeeper-java, and the usual places of an unpacked release.
    """
    path = _find_classpath()
    if path is None:
        raise FileNotFoundError(missing("zookeeper"))
    return path


def missing(kind: Kind) -> str | None:
    """Return None when local processes can serve ``kind``; else what is missing, with the commands that fix it."""
    if kind == "redis":
        if _find_redis() is not None:
            return None
        if named := os.environ.get("COORDKIT_REDIS_SERVER"):
            return f"COORDKIT_REDIS_SERVER={named} is not a program that can be run"
        return "no redis-server or valkey-server on PATH (apt-get install redis-server | brew install redis)"
    lacks = []
    if _find_java() is None:
        lacks.append("no java (apt-get install openjdk-17-jre-headless | brew install openjdk)")
    if _find_classpath() is None:
        lacks.append(
            "no zookeeper.jar (apt-get install libzookeeper-java | brew install zookeeper | "
            "unpack a release and set ZOOKEEPER_HOME)"
        )
    return "; ".join(lacks) or None


def version(kind: Kind) -> str:
    """Return the version of the local ``kind``, for a report; empty when it is not easily known."""
    if kind == "redis":
        return _redis_version(redis_binary())
    # A jar is named zookeeper-3.8.0.jar, or a link of such a name stands beside it.
    places = {Path(part).parent for part in zookeeper_classpath().split(os.pathsep)}
    names = [jar.name for place in places for jar in place.glob("zookeeper-[0-9]*.jar")]
    return max((name.removeprefix("zookeeper-").removesuffix(".jar") for name in names), default="")


@functools.cache
def _redis_version(binary: str) -> str:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    match = re.search(r"v=(\d[\w.-]*)", output)
    return match.group(1) if match else ""


def takes_debug_option(binary: str) -> bool:
    """Return whether this server must be told to allow DEBUG; before 7 it knows no such option, and allows it."""
    return int(_redis_version(binary).partition(".")[0] or 0) >= 7


def _find_redis() -> str | None:
    if named := os.environ.get("COORDKIT_REDIS_SERVER"):
        return shutil.which(named)  # what was asked for by name is never replaced by something else
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _find_java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java")


def _java() -> str:
    java = _find_java()
    if java is None:
        raise FileNotFoundError(missing("zookeeper"))
    return java


def _find_classpath() -> str | None:
    if given := os.environ.get("COORDKIT_ZOOKEEPER_CLASSPATH"):
        return given
    home = os.environ.get("ZOOKEEPER_HOME")
    if home is None and (_DEBIAN_JARS / "zookeeper.jar").exists():
        # The jar's own manifest names the rest, apart from a logger (this one writes to stderr) and two parts of netty.
        jars = ("zookeeper.jar", "slf4j-simple.jar", "netty-codec.jar", "netty-resolver.jar")
        return os.pathsep.join(str(_DEBIAN_JARS / jar) for jar in jars)
    for place in (home,) if home else _UNPACKED:
        if list(Path(place).glob("lib/zookeeper-*.jar")) or list(Path(place).glob("zookeeper-*.jar")):
            return os.pathsep.join(f"{place}/{part}" for part in ("conf", "*", "lib/*"))
    return None
