"""A rig for pairs of Redis servers: machines, each a server and its agent, writers that never stop, and what must hold.

One writer follows the election, one for each server never hears of it. What counts is a write that one replica has
acknowledged.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis

from coordkit import Election, Leader
from coordkit.core import in_sync
from coordkit.testing.proxy import FaultProxy
from coordkit.testing.servers import scaled

SESSION = 1.2  # seconds: a crash is noticed after this
KEY = "ledger"


class Machine:
    """A server and the agent beside it."""

    def __init__(self, name: str, server: Any, stack: ExitStack, hosts: str, path: str) -> None:
        self.name = name
        self.server = server
        host, _, port = hosts.rpartition(":")
        self.ensemble = stack.enter_context(FaultProxy(host, int(port)))
        self.path = path
        self.pair: dict[str, Machine] = {}
        self.agent: subprocess.Popen[bytes] | None = None
        stack.callback(self.kill_agent)

    @property
    def address(self) -> str:
        return f"{self.name}={self.server.host}:{self.server.port}"

    def start_agent(self) -> None:
        command = [sys.executable, "-m", "coordkit.redis_pair", "--identity", self.name, "--path", self.path]
        command += ["--zk", self.ensemble.address, "--session-timeout", str(SESSION)]
        command += [each.address for each in self.pair.values()]
        self.agent = subprocess.Popen(command, env=dict(os.environ))

    def kill_agent(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()

    def crash(self) -> None:
        self.kill_agent()
        self.server.kill()

    def pause(self) -> None:
        assert self.agent is not None
        self.agent.send_signal(signal.SIGSTOP)
        self.server.pause()

    def resume(self) -> None:
        assert self.agent is not None
        self.server.resume()
        self.agent.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, socket_timeout=0.5, single_connection_client=True)

    def replicates(self) -> bool:
        """Return whether a replica follows this server, and has all that it had a moment ago."""
        with redis.Redis.from_url(self.server.url, socket_timeout=0.5) as client:
            facts: Any = client.info("replication")
            return facts["role"] == "master" and facts.get("slave0", {}).get("state") == "online"


class Writer:
    """Adds numbered entries, one after the other, and keeps those that a replica acknowledged."""

    def __init__(self, name: str, where: Callable[[], Machine | None]) -> None:
        self.acknowledged: set[str] = set()
        self._name = name
        self._where = where
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(0.002):
            machine = self._where()
            if machine is None:
                continue
            try:
                with machine.client() as client:
                    while self._where() is machine and not self._stop.is_set():
                        number += 1
                        entry = f"{self._name}-{number}"
                        client.sadd(KEY, entry)
                        if client.wait(1, 200) >= 1:
                            self.acknowledged.add(entry)
            except redis.RedisError:
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


class Pair:
    """The two machines, the writers, and who the primary is."""

    def __init__(self, servers: tuple[Any, Any], hosts: str, zk: Any, path: str, stack: ExitStack) -> None:
        both = zip(("a", "b"), servers, strict=True)
        self.machines = {name: Machine(name, server, stack, hosts, path) for name, server in both}
        self.election = Election(zk, path, identity="onlooker")
        self.path = path
        self.zk = zk
        self.leader: Leader | None = None
        for machine in self.machines.values():
            machine.pair = self.machines
        views = stack.enter_context(self.election.observe())
        threading.Thread(target=self._follow, args=(views,), daemon=True).start()
        self.writers = [Writer("follower", self._primary)]
        self.writers += [Writer(f"fool-{name}", lambda each=each: each) for name, each in self.machines.items()]
        for writer in self.writers:
            stack.callback(writer.close)

    def _follow(self, views: Any) -> None:
        for view in views:
            self.leader = None if view.leader is None else Leader(view.leader, view.token)

    def _primary(self) -> Machine | None:
        leader = self.leader
        return None if leader is None else self.machines[leader.identity]

    def until(self, check: Callable[[], Any], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + scaled(timeout)
        while True:
            try:
                if check():
                    return
            except redis.RedisError:
                pass
            assert time.monotonic() < deadline, f"not so in time; in sync: {self.said()}, leads: {self.leader}"
            time.sleep(0.02)

    def leads(self, name: str) -> Callable[[], bool]:
        return lambda: self.leader is not None and self.leader.identity == name

    def said(self) -> in_sync.InSyncSet | None:
        """Return who is in sync, as the last primary that said so has said."""
        return in_sync.unpack(self.zk.get(f"{self.path}/in_sync")[0])

    def in_sync(self) -> str:
        """Return who is in sync, as the present primary has said; "" before it has."""
        leader, said = self.leader, self.said()
        if said is None or leader is None or said.token != leader.token:
            return ""
        return "".join(sorted(said.identities))

    def hold(self, name: str) -> Machine:
        """Stop the primary's agent while both are in sync; on a busy machine the other is behind now and then.

        Then it would be right that nobody takes over from the primary.
        """
        machine = self.machines[name]
        assert machine.agent is not None
        while True:
            self.until(lambda: self.leads(name)() and self.in_sync() == "ab")
            machine.agent.send_signal(signal.SIGSTOP)
            self.zk.sync(self.path)
            if self.in_sync() == "ab":
                return machine
            machine.agent.send_signal(signal.SIGCONT)

    def goes_well(self, name: str) -> None:
        """Wait until ``name`` leads, both are in sync, and writes have been acknowledged under it."""
        self.until(self.leads(name))
        self.until(lambda: self.in_sync() == "ab")
        follower = self.writers[0]
        had = len(follower.acknowledged)
        self.until(lambda: len(follower.acknowledged) >= had + 20)

    def start(self) -> None:
        self.machines["a"].start_agent()
        self.until(self.leads("a"))
        self.machines["b"].start_agent()
        self.goes_well("a")

    def check(self, name: str) -> None:
        """Stop writing; everything that was ever acknowledged must be on the primary."""
        for writer in self.writers:
            writer.close()
        acknowledged = set().union(*(writer.acknowledged for writer in self.writers))
        with redis.Redis.from_url(self.machines[name].server.url, decode_responses=True) as client:
            there: Any = client.smembers(KEY)
        assert len(acknowledged) >= 20  # as many as were waited for, at least
        assert acknowledged - there == set()
