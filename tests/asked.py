"""Ask the scripts of locks directly, as a client does that is given its answers by hand."""

from __future__ import annotations

from typing import Any

import redis

from coordkit._ports import Script

KEEP = 600_000  # ms that an idle counter is kept
TTL = 60_000
DAY = 86_400_000_000  # us


class Asked:
    """The keys of one name, and those who wait for it: each listens on a channel of its own, or is dead."""

    def __init__(self, client: redis.Redis, name: str, parts: tuple[str, ...]) -> None:
        self.client, self.name = client, name
        self.keys = tuple(f"coordkit:1:{{{name}}}:{part}" for part in parts)
        self.counter, self.queue = self.keys[parts.index("token")], self.keys[parts.index("queue")]
        self._ears: dict[str, Any] = {}
        self.places = 0

    def run(self, script: Script, *args: Any, keys: tuple[str, ...] | None = None) -> Any:
        keys = self.keys if keys is None else keys
        return self.client.eval(script.source, len(keys), *keys, *args)

    def entry(self, holder: str, mode: str = "x", verb: str = "PUBLISH", claim: int = 1000) -> str:
        return f"{mode} {claim} {verb} {holder} {self.name}:{holder}"

    def wait(self, holder: str, mode: str = "x", *, heard: bool = True, verb: str = "PUBLISH") -> str:
        """Queue a waiter up behind the others; return its entry."""
        if heard:
            self.listen(holder)
        entry = self.entry(holder, mode, verb)
        self.places += 1
        self.client.zadd(self.queue, {entry: self.places})
        return entry

    def listen(self, holder: str) -> None:
        ear = self._ears[holder] = self.client.pubsub(ignore_subscribe_messages=True)
        ear.subscribe(f"{self.name}:{holder}")
        while not ear.subscribed or self.client.pubsub_numsub(f"{self.name}:{holder}")[0][1] == 0:
            ear.get_message(timeout=1)

    def told(self, holder: str) -> list[list[str]]:
        """Return what a waiter was told so far, without its name."""
        ear, said = self._ears[holder], []
        self.client.publish(f"{self.name}:{holder}", "that is all")
        while True:
            message = ear.get_message(timeout=10)
            if message is None:
                continue
            if message["data"] == b"that is all":
                return said
            words = message["data"].decode().split(" ")
            assert words[0] == holder
            said.append(words[1:])

    def waiting(self) -> list[str]:
        return [entry.decode() for entry in self.client.zrange(self.queue, 0, -1)]

    def last(self) -> int:
        return int(self.client.get(self.counter) or 0)

    def now(self) -> int:
        seconds, more = self.client.time()
        return int(seconds) * 1_000_000 + int(more)

    def is_kept(self, key: str, ms: int) -> bool:
        """Return whether a key has been given a time to live of so many ms, just now."""
        return ms - 30_000 < self.client.pttl(key) <= ms

    def close(self) -> None:
        for ear in self._ears.values():
            ear.close()
