"""What W5 does beyond holding: looking, breaking, handing over and adopting; and what a fence guards.

These need checks of their own, and somebody who comes next at once, so that what arrives late finds it there.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from regime.flavours import maybe
from regime.stage import OTHERS_TTL, Operation, Stage

import coordkit
from coordkit import StaleToken, StoreUnavailable
from coordkit.core.token import Token

# -- looking


async def _somebody_waits(stage: Stage) -> None:
    await stage.another_holds()
    pool = ThreadPoolExecutor(1)
    stage.waiter = pool.submit(lambda: stage.fresh().acquire(timeout=20).release())
    pool.shutdown(wait=False)  # what was submitted goes on
    while not stage.direct.zcard(stage.subject.queue % stage.name):
        if stage.waiter.done():
            raise StoreUnavailable(stage.name, "on a busy machine whoever held it lost it, and nobody waits for it now")
        await stage.flavour.sleep(0.005)


async def _holder(stage: Stage) -> str:
    seen = await maybe(stage.lock.holder())
    return "seen" if seen is not None and seen.id == stage.others[0].holder else f"{seen}"


async def _waiters(stage: Stage) -> str:
    seen = await maybe(stage.lock.waiters())
    return "seen" if len(seen) == 1 else f"{seen}"


async def _remaining(stage: Stage) -> str:
    seen = await maybe(stage.lock.remaining())
    return "seen" if seen is not None and 0 < seen <= OTHERS_TTL else f"{seen}"


# -- breaking


async def _break(stage: Stage) -> str:
    """The next acquires at once; what comes late must not take it from that one."""
    token = await maybe(stage.lock.break_lease())
    stage.facts["next"] = stage.fresh().acquire(timeout=1)
    stage.seen += [[int(token)], [int(stage.facts["next"].token)]]
    return "broken"


async def _broken_once(stage: Stage, told: str, _fault: str) -> list[str]:
    if told != "broken":
        return []
    following = stage.facts["next"]
    taken = stage.keeps(following.holder) is None
    following.release()
    return ["it was broken again, and taken from the next"] if taken else []


# -- passing on


async def _hand_over(stage: Stage) -> str:
    try:
        stage.facts["text"] = await maybe(stage.lease.handover())
    except StoreUnavailable:
        stage.lease.ensure()  # it is still held then
        return "ours"
    stage.lease = None
    return "handed over"


async def _adopted(stage: Stage, told: str, _fault: str) -> list[str]:
    if told == "handed over":
        lease = stage.fresh().adopt(stage.facts["text"])
        stage.seen.append([int(lease.token)])
        lease.release()
    return []


async def _given(stage: Stage) -> None:
    await stage.warm()
    giver = coordkit.Lock(stage.direct, stage.name, ttl=OTHERS_TTL).acquire()
    stage.seen.append([int(giver.token)])
    stage.facts["text"] = giver.handover()


async def _adopt(stage: Stage) -> str:
    stage.lease = await maybe(stage.lock.adopt(stage.facts["text"]))
    return "ours"


PASSING = {
    "holder": Operation(_holder, _somebody_waits, told=("seen", "unknown")),
    "waiters": Operation(_waiters, _somebody_waits, told=("seen", "unknown")),
    "remaining": Operation(_remaining, Stage.another_holds, told=("seen", "unknown")),
    "break": Operation(_break, Stage.another_holds, told=("broken", "unknown"), check=_broken_once),
    "handover": Operation(_hand_over, Stage.hold, told=("handed over", "ours"), check=_adopted),
    "adopt": Operation(_adopt, _given),
}

# -- a fence

BEFORE, OURS, NEXT = Token(5, "before"), Token(7, "us"), Token(9, "next")
COUNT = "return redis.call('INCR', KEYS[1])"


def _key(stage: Stage) -> str:
    return f"{{{stage.name}}}:value"


async def _fenced(stage: Stage) -> None:
    coordkit.Fence(stage.direct, stage.name).set(_key(stage), "1", token=BEFORE, ttl=60)
    await stage.calmly(lambda: stage.lock.claim(token=BEFORE))


def _through(access: Callable[[Any, str], Any], done: str | None) -> Operation:
    """Make an operation of one access, after which the value is ``done``; somebody with a later token comes next."""

    async def act(stage: Stage) -> str:
        key, told = _key(stage), "done"
        try:
            await maybe(access(stage.lock, key))
        except StoreUnavailable:
            told = "unknown"
        except StaleToken:
            told = "stale"
        fence = (stage.direct.get(f"coordkit:1:{{{stage.name}}}:fence") or b"").decode()
        stage.facts["between"] = int(fence.partition(" ")[0]), (stage.direct.get(key) or b"").decode() or None
        coordkit.Fence(stage.direct, stage.name).set(key, "next", token=NEXT, ttl=60)
        return told

    async def check(stage: Stage, told: str, fault: str) -> list[str]:
        wrong = []
        allowed = [(int(OURS), done)] + [(int(BEFORE), "1")] * (told == "unknown")
        # The network carried a user's script out twice, which no client can keep it from.
        allowed += [(int(OURS), "3")] * (done == "2" and fault in ("twice", "late"))
        if stage.facts["between"] not in allowed:
            wrong.append(f"told {told!r}, and the fence and the value were {stage.facts['between']}")
        if (value := stage.direct.get(_key(stage))) != b"next":
            wrong.append(f"a late one was let through: {value!r}")
        return wrong

    return Operation(act, _fenced, told=("done", "unknown"), check=check)


FENCED = {
    "claim": _through(lambda fence, _: fence.claim(token=OURS), "1"),
    "get": _through(lambda fence, key: fence.get(key, token=OURS), "1"),
    "set": _through(lambda fence, key: fence.set(key, "ours", token=OURS, ttl=60), "ours"),
    "delete": _through(lambda fence, key: fence.delete(key, token=OURS), None),
    "run": _through(lambda fence, key: fence.run(COUNT, keys=[key], token=OURS), "2"),
}
