"""Pass a lease to another process: one text, which one of those that read it can adopt.

The text says which holder has the lock. Adopting puts the adopter's own id in its place, by compare and set, so that of
two adopters one is told that it is too late; and it gives the adopter a token of its own, so that a fence refuses what
the giver sent before and what arrives after (the simulator lost an update to that while both had the same).
"""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

from coordkit._ports import Runtime
from coordkit.core.answer import answered
from coordkit.core.contend import Contender
from coordkit.core.held import Held
from coordkit.core.lease import Lease
from coordkit.core.lock import Mutex
from coordkit.core.token import Token
from coordkit.core.waiting import HandedOn
from coordkit.errors import CoordError, LeaseLost, StoreRefused

_MARK = "coordkit-lease-1."


class Handover(NamedTuple):
    """What the text says."""

    name: str
    holder: str  # whose id the lock has now
    token: int  # the giver's
    deadline: float  # seconds since the epoch, by the server's clock: adopt it before


async def hand_over(runtime: Runtime, held: Held) -> str:
    """Renew ``held``, end it here, and return the text by which it can be adopted."""
    if not isinstance(held, Lease) or not isinstance(held.grantor, Mutex):
        raise CoordError(
            held.name, "only a lease of a Lock that is not reentrant can be handed over; nothing was changed"
        )
    lease, mutex = held, held.grantor
    lease.ensure()
    at = await answered(runtime, lambda: mutex.prepare_handover(lease.holder, lease.ttl), lease.expires)
    if at is None:
        lease.lose("the server no longer has it: it expired early, or was taken away")
    lease.ensure()
    if not lease.hand_over():
        raise lease.loss()  # just now
    said = Handover(lease.name, lease.holder, int(lease.token), (at or 0) / 1e6 + lease.ttl)
    return _MARK + base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


def read(value: object, name: str) -> Handover:
    """Return what a text says; raise ``ValueError`` if it is none, or about another lock than ``name``."""
    if not isinstance(value, str):
        raise TypeError(f"text must be the str that handover() returned, got {value!r}")
    said = _unpacked(value)
    if said is None:
        raise ValueError(f"text must be what handover() returned, got {value!r}")
    if said.name != name:
        raise ValueError(f"text must be a handover of this lock, {name!r}, got one of {said.name!r}")
    return said


def _unpacked(value: str) -> Handover | None:
    packed = value.removeprefix(_MARK)
    try:
        said = Handover(*json.loads(base64.b64decode(packed + "=" * (-len(packed) % 4), b"-_", validate=True)))
        Token(said.token)
    except (ValueError, TypeError):  # of base64, of JSON, of what is in it
        return None
    whole = value.startswith(_MARK) and [type(each) for each in said] == [str, str, int, float]
    return said if whole else None


async def adopt(contender: Contender, mutex: Mutex, value: object) -> Lease:
    """Take over what was handed over; raise ``LeaseLost`` if it is gone, or was adopted by another."""
    said, runtime = read(value, contender.name), contender.runtime
    holder, asked, asks = contender.new_holder(), runtime.now(), 0

    async def ask() -> int | None:
        nonlocal asked, asks
        asked, asks = runtime.now(), asks + 1
        return await mutex.adopt(said.holder, holder, contender.ttl)

    try:
        token = await answered(runtime, ask, runtime.now())
    except BaseException as error:
        if isinstance(error, StoreRefused) and asks == 1 and mutex.confirm is None:
            raise  # else an earlier ask got no answer, or it is the waiting for copies that was refused
        # Nobody knows whether it is ours now; if it is, nobody will use it.
        mutex.keeper.give_back(mutex, holder, until=runtime.now() + contender.ttl)
        raise
    if token is None:
        raise LeaseLost(
            said.name, "what was handed over is gone: it expired, was given back, or adopted before", token=said.token
        )
    lease = contender.lease(holder, HandedOn(token, None, asked, contender.ttl))
    if lease.remaining() <= 0:
        await contender.give_back_late(lease)
    return lease
