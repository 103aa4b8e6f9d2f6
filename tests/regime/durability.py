"""W9: what a server's death does to the tokens. Each mode kills a server while many contend, and the tokens of the
grants before and after must not repeat or fall.

The README's table of deployments rests on these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import redis
from regime.checkers.token_regressions import token_regressions
from regime.history import Op, Recorder, now, read
from regime.kinds import KINDS

import coordkit
from coordkit.testing import FaultProxy
from coordkit.testing.processes import start_redis

Mode = Literal["no", "everysec", "always", "replica"]
MODES: tuple[Mode, ...] = ("no", "everysec", "always", "replica")
TTL = 0.3
CONTENDERS = 3
ENOUGH = 15  # grants before a server dies, and after


class Contenders:
    """Threads that acquire and give back without end, each over a client that ``connect`` gives anew when asked."""

    def __init__(self, log: Path, kind: str = "lock") -> None:
        self._kind = KINDS[kind]
        self._recorder = Recorder(log)
        self._log = log
        self._stop = threading.Event()
        self.url = ""
        self.grants = 0
        self._threads: list[threading.Thread] = []

    def contend(self, url: str, seconds: float = 20.0) -> None:
        """Let all contend at ``url`` until there were enough grants; fail if there are not."""
        self._stop.clear()
        begun = self.grants
        for i in range(CONTENDERS):
            self._threads.append(threading.Thread(target=self._work, args=(url, f"t{i}"), daemon=True))
            self._threads[-1].start()
        ends = now() + seconds
        while self.grants < begun + ENOUGH and now() < ends:
            self._stop.wait(0.01)
        if self.grants < begun + ENOUGH:
            raise AssertionError(f"{self.grants - begun} grants in {seconds} s at {url}")

    def stop(self) -> None:
        self._stop.set()
        while self._threads:  # also those of an earlier call, which may contend for a server that is gone
            self._threads.pop().join(20)

    def history(self) -> list[Op]:
        self._recorder.close()
        return read([self._log])

    def _work(self, url: str, actor: str) -> None:
        client = redis.Redis.from_url(url, socket_timeout=0.5)
        lock = self._kind.make(coordkit, [client], "job", ttl=TTL)
        while not self._stop.is_set():
            number = self._recorder.call(actor, "acquire")
            try:
                lease = lock.acquire(timeout=1)
                self._recorder.back(number, token=int(lease.token), shared=lease.token.holder != lease.holder)
                self.grants += 1
                self._stop.wait(0.002)
                lease.release()
            except coordkit.CoordError as error:
                self._recorder.note(actor, "trouble", why=repr(error))
                self._stop.wait(0.02)
        client.close()


def tokens_over_a_death(mode: Mode, rounds: int, directory: Path, kind: str = "lock") -> tuple[list[str], int]:
    """Kill a server of that mode ``rounds`` times while it grants; return what the tokens did wrong, and the grants."""
    contenders = Contenders(directory / f"{mode}.log", kind)
    with ExitStack() as stack:
        stack.callback(contenders.stop)
        life = _replicated if mode == "replica" else _restarted(mode)
        for _ in range(rounds):
            life(contenders, stack)
        contenders.stop()
        ops = contenders.history()
    # A replica that is behind may remember readers who had left: whoever joins them is given their token. That is no
    # exclusive grant, and a fence that a later writer has claimed refuses it.
    exclusive = [op for op in ops if not (op.shared and mode == "replica")]
    return token_regressions(exclusive), sum(op.what == "acquire" and bool(op.token) for op in ops)


def _restarted(mode: Any) -> Callable[[Contenders, ExitStack], None]:
    servers: list[Any] = []

    def life(contenders: Contenders, stack: ExitStack) -> None:
        if not servers:
            servers.append(stack.enter_context(start_redis(appendonly=mode)))
        contenders.contend(servers[0].url)
        servers[0].kill()
        contenders.stop()
        servers[0].start()
        servers[0].wait_ready()
        contenders.contend(servers[0].url)
        contenders.stop()

    return life


def _replicated(contenders: Contenders, stack: ExitStack) -> None:
    """A replica that has missed the last grants is promoted."""
    primary = stack.enter_context(start_redis())
    line = stack.enter_context(FaultProxy(primary.host, primary.port, server_url=primary.url))
    replica = stack.enter_context(start_redis(replica_of=line))  # type: ignore[arg-type]  # it reads host and port only
    contenders.contend(primary.url)
    line.drop_replies = True  # what the primary sends from now on never arrives
    contenders.contend(primary.url)
    primary.kill()
    contenders.stop()
    with _client(replica.url) as direct:
        direct.replicaof("NO", "ONE")
    contenders.contend(replica.url)
    contenders.stop()


@contextmanager
def _client(url: str) -> Any:
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()
