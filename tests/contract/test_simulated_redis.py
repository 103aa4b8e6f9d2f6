"""The simulated Redis answers as the real one does: every script of ours, the same random calls, the same replies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sim.redis import ASKS, ReplyError, SimRedis
from sim.world import World

from coordkit import scripts
from coordkit._ports import Call, Script

SCRIPTS = {
    "lock_acquire": scripts.load("lock_acquire_free", "token", "queue", "lock_queue", "lock_acquire"),
    "lock_renew": scripts.load("lock_renew"),
    "lock_release": scripts.load("lock_release_free", "token", "queue", "lock_queue", "lock_release"),
    "lock_inspect": scripts.load("lock_inspect"),
    "lock_break": scripts.load("token", "queue", "lock_queue", "lock_break"),
    "lock_handover": scripts.load("lock_handover"),
    "lock_adopt": scripts.load("token", "lock_adopt"),
    "rw_read": scripts.load("token", "queue", "rw_queue", "rw_read"),
    "rw_write": scripts.load("token", "queue", "rw_queue", "rw_write"),
    "rw_renew": scripts.load("token", "queue", "rw_queue", "rw_renew"),
    "rw_release": scripts.load("token", "queue", "rw_queue", "rw_release"),
    "semaphore_acquire": scripts.load("token", "queue", "semaphore_queue", "semaphore_acquire"),
    "semaphore_renew": scripts.load("token", "queue", "semaphore_queue", "semaphore_renew"),
    "semaphore_release": scripts.load("token", "queue", "semaphore_queue", "semaphore_release"),
    "inbox_check": scripts.load("inbox_check"),
    "fence_claim": scripts.load("fence_guard", "fence_claim"),
    "fence_get": scripts.load("fence_guard", "fence_get"),
    "fence_set": scripts.load("fence_guard", "fence_set"),
    "fence_delete": scripts.load("fence_guard", "fence_delete"),
    "fence_run": scripts.around(
        scripts.load("fence_guard", "fence_run"),
        "if ARGV[1] == '' then return redis.call('DEL', KEYS[1]) end\n"
        "return {redis.call('GET', KEYS[1]), ARGV[1], #KEYS, #ARGV} -- the user's",
    ),
}


PARTS = {  # put in front of the others
    *("fence_guard", "token", "queue", "lock_queue", "rw_queue", "semaphore_queue"),
    *("lock_acquire_free", "lock_release_free"),
}


class Ear:
    """An inbox that keeps nothing."""

    def send(self, data: bytes) -> None: ...


class Pair:
    """The real server and the simulated one, asked the same; on both somebody listens to the first channel."""

    def __init__(self, real: redis.Redis, namespace: str) -> None:
        self.real = real
        self.simulated = SimRedis(World(0))
        self.namespace = namespace.encode()
        self.channels = [f"{namespace}:heard", f"{namespace}:deaf"]
        self.listener = real.pubsub()
        self.listener.subscribe(self.channels[0])
        assert self.listener.get_message(timeout=10)
        ear: Any = Ear()
        self.simulated.inboxes[self.channels[0].encode()] = ear

    def ask(self, script: Script, keys: list[bytes], args: list[Any]) -> tuple[Any, Any]:
        keys = [self.namespace + key for key in keys]
        self.simulated.world.time += 0.001
        try:
            real: Any = self.real.eval(script.source, len(keys), *keys, *args)
        except redis.ResponseError:
            real = "error"
        try:
            simulated: Any = self.simulated.run(Call(script, keys, args))
        except ReplyError:
            simulated = "error"
        return real, simulated

    def kept(self, keys: list[bytes]) -> tuple[Any, Any]:
        """Return what is kept on both: who is in, who waits in which order; not the tokens, nor the times."""
        real, simulated = {}, {}
        for key in keys:
            full = self.namespace + key
            kind = self.real.type(full)
            if kind == b"zset":
                real[key] = self.real.zrange(full, 0, -1)
            elif kind == b"hash":
                real[key] = {field: value.split()[0] for field, value in self.real.hgetall(full).items()}
            elif kind == b"string":
                real[key] = self.real.get(full)
            value: Any = self.simulated._get(full)
            if isinstance(value, dict) and all(isinstance(score, float) for score in value.values()):
                value = self.simulated._sorted(full)
            elif isinstance(value, dict):
                value = {field: note.split()[0] for field, note in value.items()}
            if value is not None:
                simulated[key] = value
        for state in (real, simulated):
            for key in [key for key in keys if key in state]:
                if key.endswith(b"token"):
                    state[key] = "token"
                elif not key.endswith(b"queue") and isinstance(state[key], list):
                    state[key] = sorted(state[key])  # by time, and the simulated one stands still
        return real, simulated

    def end(self, key: bytes, member: str) -> None:
        """Let a reader's lease, or a slot's, have ended long ago."""
        if self.real.zscore(self.namespace + key, member) is not None:
            self.real.zadd(self.namespace + key, {member: 1})
            self.simulated.data[self.namespace + key][0][member.encode()] = 1.0


@pytest.fixture
def pair(coordkit_redis: redis.Redis, coordkit_namespace: str) -> Iterator[Pair]:
    pair = Pair(coordkit_redis, coordkit_namespace)
    yield pair
    pair.listener.close()


def comparable(name: str, reply: Any) -> Any:
    """Leave out what two clocks cannot agree on: the token itself, and the milliseconds of a ttl."""
    if name in ASKS and isinstance(reply, list) and reply[0] >= 0:
        # Of a place only that there is one; how many are ahead, and whether somebody listens, is the same.
        granted = [1, "token", *(note.split(b":")[0] for note in reply[2:])] if reply[0] == 1 else None
        return granted or [*reply[:2], reply[2] > 0, *reply[5:]]
    if name == "lock_inspect" and isinstance(reply, list):
        return [reply[0] > 0, reply[1], reply[2] == b"0", reply[3][::2]]
    if name == "lock_break" and isinstance(reply, list):
        return [reply[0], "token" if reply[0] == 1 else reply[1], *reply[2:]]
    if name == "lock_adopt" and isinstance(reply, list):
        return reply[0]
    if name == "lock_handover":
        return reply if reply == "error" or reply <= 0 else "time"
    return reply


@pytest.mark.parametrize("seed", range(5))
def test_the_same_calls_get_the_same_replies(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    lock, token, queue = b":{a}:lock", b":{a}:token", b":{a}:queue"
    fence, value = b":{a}:fence", b":{a}:value"
    for _ in range(300):
        name = chance.choice(sorted(name for name in SCRIPTS if not name.startswith(("rw_", "semaphore_"))))
        holder = chance.choice([b"me", b"you"])
        entry = chance.choice(["", f"x 9000 PUBLISH {holder.decode()} {chance.choice(pair.channels)}"])
        if name == "lock_acquire":
            keys, args = [lock, token, queue], [holder, 10_000, 60_000, entry, ""]
        elif name == "lock_renew":
            keys, args = [lock, token], [holder, 10_000, 60_000]
        elif name == "lock_release":
            keys, args = [lock, token, queue], [holder, 60_000, entry]
        elif name == "lock_inspect":
            keys, args = [lock, token, queue], []
        elif name == "lock_break":
            keys, args = [lock, token, queue, b":{a}:broken:%d" % chance.randint(1, 20)], [60_000]
            args.append(chance.choice(["", holder]))
        elif name == "lock_handover":
            keys, args = [lock, token], [holder, 10_000, 60_000]
        elif name == "lock_adopt":
            keys, args = [lock, token], [holder, chance.choice([b"me", b"you"]), 10_000, 60_000]
        elif name == "inbox_check":
            keys, args = [lock], ["PUBLISH", chance.choice(pair.channels)]
        else:
            keys = [fence] if name == "fence_claim" else [fence, value]
            args = [f"{chance.randint(1, 30):020d}", chance.choice(["", "me", "you"])]
            args += [str(chance.random()), ""] if name == "fence_set" else []
            args += [chance.choice(["", "7"])] if name == "fence_run" else []

        real, simulated = pair.ask(SCRIPTS[name], keys, args)
        assert comparable(name, simulated) == comparable(name, real), name


KINDS = {
    "lock": [b"lock", b"token", b"queue"],
    "rw": [b"writer", b"readers", b"token", b"queue"],
    "semaphore": [b"permits", b"holders", b"token", b"queue"],
}
"""The keys of each kind, as its scripts expect them."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_is_left_behind(pair: Pair, kind: str, seed: int) -> None:
    """By everything that can be held: who is in, who waits in which order, who was handed what."""
    chance = random.Random(seed)
    keys = [b":{a}:" + part for part in KINDS[kind]]
    names = sorted(
        name for name in SCRIPTS if name.startswith(kind) and (name in ASKS or name.endswith(("renew", "release")))
    )
    for _ in range(250):
        name, number = chance.choice(names), chance.randint(1, 6)
        holder, mode = f"h{number}", "w" if name == "rw_write" else "r"
        entry = chance.choice(["", f"{mode} 9000 PUBLISH {holder} {pair.channels[number % 3 == 0]}"])
        args: list[Any] = [holder, 60_000, entry] if name.endswith("release") else [holder, 10_000, 60_000]
        if name in ASKS:
            args += [entry, ""] + ([chance.choice([2, 2, 2, 3])] if kind == "semaphore" else [])

        real, simulated = pair.ask(SCRIPTS[name], keys[:2] if name == "lock_renew" else keys, args)
        assert comparable(name, simulated) == comparable(name, real), (name, args)
        real, simulated = pair.kept(keys)
        assert simulated == real, (name, args)
        if kind != "lock" and chance.random() < 0.1:
            pair.end(keys[kind == "rw"], holder if kind == "rw" else "0")


def test_an_unusable_counter_is_an_error_on_both(pair: Pair) -> None:
    keys, args = [b":{b}:lock", b":{b}:token", b":{b}:queue"], [b"me", 10_000, 60_000, "", ""]
    pair.real.set(pair.namespace + keys[1], "many")
    pair.simulated.data[pair.namespace + keys[1]] = (b"many", None)

    assert pair.ask(SCRIPTS["lock_acquire"], keys, args) == ("error", "error")


def test_every_script_is_compared() -> None:
    """A new script is simulated, and held against the real server, or this says so."""
    from importlib.resources import files

    shipped = {
        path.name.removesuffix(".lua") for path in files("coordkit.scripts").iterdir() if path.name.endswith("lua")
    }
    quorum = {name for name in shipped if name.startswith("quorum_")}  # see test_simulated_quorum.py
    # These move keys of any type (DUMP, RESTORE) between two servers, and are tried on real ones only.
    sharding = {name for name in shipped if name.startswith(("move_", "epoch_", "shard_"))}
    assert len(sharding) == 8
    assert shipped - quorum - sharding == {*SCRIPTS, *PARTS}
