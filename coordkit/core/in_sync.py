"""Who has all that was acknowledged, and so may become the primary: one znode beside the epoch record.

::

    <election>/in_sync      persistent; JSON: the identities with a note on each, and the token of who said so

While it is empty, everybody may.

Only the primary changes it, in a transaction that checks its own znode; taking over checks the version that was read.
It is not kept in the epoch record itself, whose zxid is the token and must not change within a term.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from coordkit._ports_zookeeper import GetData, NoNode
from coordkit.core import zk_checks
from coordkit.core.leadership import Leadership
from coordkit.core.session import Session, Stop, Stopped, Wake
from coordkit.errors import StoreUnavailable, TransactionFailed

_PAUSE = 0.05  # seconds before what got no answer is asked again


class InSyncSet(NamedTuple):
    """Who was in sync, as the primary with this token said last, and what it noted of each."""

    identities: frozenset[str]
    token: int
    notes: Mapping[str, str] = MappingProxyType({})


class InSync:
    """The set of one election; ``None`` stands for everybody."""

    def __init__(self, session: Callable[[], Session], election: str) -> None:
        self.path = f"{election}/in_sync"
        self._name = election
        self._session = session

    async def write(self, leadership: Leadership, identities: Iterable[str] | Mapping[str, str]) -> None:
        """Say who is in sync; what a leader says that leads no more is refused by the servers.

        So is what got no answer and is carried out late, after something else was said: it goes by the version.
        """
        data = pack(identities, leadership.token)
        leadership.ensure()
        version = await self._version()
        while True:
            transaction = leadership.transaction()
            transaction.set(self.path, data, version)
            try:
                return await transaction.commit()
            except TransactionFailed:
                before, version = version, await self._version()
                if version == before:
                    raise

    async def _version(self) -> int:
        answer = (await self._session().read(self._name, [GetData(self.path)]))[0]
        return -1 if isinstance(answer, NoNode) else int(answer[1].version)

    async def read(self) -> InSyncSet | None:
        answer = (await self._session().read(self._name, [GetData(self.path)]))[0]
        return None if isinstance(answer, NoNode) else unpack(answer[0])

    async def admitted(
        self, identity: str, stop: Stop | None = None, answered: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until ``identity`` is in the set; ``answered`` is called when the servers have said whether it is.

        Raises ``Stopped``, or what a client that cannot connect raises.
        """
        session = self._session()
        wake = Wake(session.runtime)
        look = GetData(self.path, wake.ring)
        session.subscribe(wake.ring)
        if stop is not None:
            stop.listen(wake.ring)
        try:
            while True:
                wake.reset()
                if stop is not None and stop.is_set():
                    raise Stopped
                try:
                    answer = (await session.read(self._name, [look], stop=stop))[0]
                except StoreUnavailable:
                    await session.connected(self._name, math.inf, stop)
                    await session.runtime.sleep(_PAUSE)
                    continue
                answered()
                if isinstance(answer, NoNode) or may(identity, unpack(answer[0])):
                    return
                await wake.wait(math.inf)
        finally:
            session.unsubscribe(wake.ring)
            session.ensemble.unwatch(look)
            if stop is not None:
                stop.unlisten(wake.ring)


def may(identity: str, members: InSyncSet | None) -> bool:
    """Return whether ``identity`` may become the primary."""
    return members is None or identity in members.identities


def pack(identities: Iterable[str] | Mapping[str, str], token: int) -> bytes:
    """Return the record; of a mapping, the values are the notes."""
    notes = dict(identities) if isinstance(identities, Mapping) else dict.fromkeys(identities, "")
    if not notes:
        raise ValueError("in_sync must name at least one identity: without any, nobody could ever be the primary")
    for identity, note in notes.items():
        zk_checks.check_identity(identity)
        if not isinstance(note, str):
            raise TypeError(f"a note on one who is in sync must be a str, got {note!r}")
    return json.dumps({"v": 1, "identities": dict(sorted(notes.items())), "token": token}).encode()


def unpack(data: bytes) -> InSyncSet | None:
    """Return the set, None for everybody; what is none of ours admits nobody: somebody meant something by it."""
    if not data:
        return None
    try:
        values = json.loads(data)
        notes = {str(identity): str(note) for identity, note in values["identities"].items()}
        return InSyncSet(frozenset(notes), int(values["token"]), MappingProxyType(notes))
    except (ValueError, KeyError, TypeError, AttributeError):
        return InSyncSet(frozenset(), 0)
