"""One case of W5: something to hold whose client speaks over a line of its own, and others who may be ahead of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from regime.flavours import Flavour, maybe
from regime.line import Line
from regime.subjects import Kept, Subject, tokens

import coordkit
from coordkit import StoreUnavailable

TTL = 4.0
OTHERS_TTL = 1.0  # a waiter that was not told asks again after so long, and after a claim that was not heard of
PATIENCE = 0.25  # seconds until a client takes a request for lost


@dataclass
class Stage:
    """Where one case is played; ``urls`` are those of the servers themselves, the first of which is behind the line."""

    flavour: Flavour
    line: Line
    urls: list[str]
    subject: Subject
    name: str = field(default_factory=lambda: f"w5-{uuid4().hex}")

    def __post_init__(self) -> None:
        self.servers = [redis.Redis.from_url(url) for url in self.urls]
        self.direct = self.servers[0]
        # Nobody listens at a port that is bound only.
        self._nowhere = [socket.socket() for _ in range(self.subject.away)]
        for each in self._nowhere:
            each.bind(("127.0.0.1", 0))
        there = self.urls[1 : len(self.urls) - self.subject.away]
        away = [f"redis://127.0.0.1:{each.getsockname()[1]}/0" for each in self._nowhere]
        self.clients = [self.flavour.connect(url, PATIENCE) for url in (self.line.url, *there, *away)]
        self.client = self.clients[0]
        self.lock = self.subject.make(self.flavour.api, self.clients, self.name, TTL)
        self.lease: Any = None  # ours
        self.others: list[Any] = []  # those of others, who are ahead of us
        self.seen: list[list[int]] = []  # tokens, as they were given out
        self.facts: dict[str, Any] = {}  # what an operation keeps for its own check
        self.waiter: Future[Any] | None = None  # somebody else who waits

    @staticmethod
    async def calmly(ask: Callable[[], Any]) -> Any:
        """Ask where no fault is meant: on a busy machine a request may take longer than its patience."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await maybe(ask())

    async def _acquire(self) -> Any:
        return await self.calmly(lambda: self.lock.acquire(timeout=5))

    async def warm(self) -> None:
        lease = await self._acquire()
        self.seen.append(tokens(lease))
        with contextlib.suppress(StoreUnavailable):  # it is then given back in the background
            await maybe(lease.release())

    async def hold(self) -> None:
        self.lease = await self._acquire()

    async def another_holds(self) -> None:
        await self.warm()
        while not self.others:
            with contextlib.suppress(StoreUnavailable):
                self.others = self.subject.rivals(self.servers, self.name, OTHERS_TTL)
        if len(tokens(self.others[0]) if hasattr(self.others[0], "token") else ()) == len(self.seen[0]):
            self.seen += [tokens(other) for other in self.others]

    def kept(self) -> list[Kept]:
        return self.subject.kept(self.servers, self.name)

    def remains(self) -> list[Kept]:
        """Return what keeps others out: of a quorum the votes of a minority may stand until their ttl."""
        return [each for each in self.kept() if self.keeps(each.holder) is not None]

    def queued(self) -> list[str]:
        """Return who the servers think still waits."""
        if not self.subject.queue:
            return []
        return [f"{entry!r} waiting" for entry in self.direct.zrange(self.subject.queue % self.name, 0, -1)]

    def keeps(self, holder: str) -> float | None:
        """Return the milliseconds for which the servers keep ``holder`` in as many places as it takes; None if not."""
        lefts = sorted((each.left for each in self.kept() if each.holder == holder), reverse=True)
        return lefts[self.subject.needs - 1] if len(lefts) >= self.subject.needs else None

    def stored(self) -> list[tuple[redis.Redis, bytes]]:
        """Return every key that has to do with this case, and where it is."""
        patterns = (f"coordkit:1:{{{self.name}*", self.name)
        return [(server, key) for server in self.servers for pattern in patterns for key in server.keys(pattern)]

    def fresh(self) -> Any:
        """Return one more of the same thing, for somebody who speaks to the servers themselves."""
        return self.subject.make(coordkit, self.servers, self.name, OTHERS_TTL)

    async def close(self) -> None:
        for client in self.clients:
            await self.flavour.close(client)

    def end(self) -> None:
        for each in (*self.servers, *self._nowhere):
            each.close()

    @property
    def address(self) -> tuple[str, int]:
        server = urlsplit(self.urls[0])
        return str(server.hostname), int(server.port or 6379)


@dataclass(frozen=True)
class Operation:
    """What is done, what must be so before it, and what the caller may be told."""

    act: Callable[[Stage], Awaitable[str]]  # gives what the caller was told
    prepare: Callable[[Stage], Awaitable[None]] | None = None
    told: tuple[str, ...] = ("ours", "unknown")
    waits: bool = False  # for others, by asking any number of times
    held: bool = False  # the only fault is that it takes long, and it is cancelled meanwhile
    like: str = ""  # the operation whose requests and answers are counted in the first pass, where it is another's
    check: Callable[[Stage, str, str], Awaitable[list[str]]] | None = None  # what else must be so, by told and fault
