"""Who stands, in order of succession."""

from __future__ import annotations

from typing import NamedTuple

from coordkit._ports_zookeeper import GetChildren, GetData, NoNode
from coordkit.core import records, znodes
from coordkit.core.session import Session


class Contender(NamedTuple):
    """One who stands: the path of its znode, and what that says."""

    node: str
    data: bytes

    @property
    def identity(self) -> str:
        return records.candidate_identity(self.data)


async def succession(session: Session, election: str) -> list[Contender]:
    """Return who stands, the leader first, by two round trips."""
    parent = f"{election}/candidates"
    names, epoch = await session.read(election, [GetChildren(parent), GetData(f"{election}/epoch")])
    if isinstance(names, NoNode):
        return []
    line = znodes.line(names, None if isinstance(epoch, NoNode) else records.unpack_record(epoch[0]))
    nodes = [f"{parent}/{name}" for name in line]
    answers = await session.read(election, [GetData(node) for node in nodes]) if nodes else []
    return [
        Contender(node, answer[0])
        for node, answer in zip(nodes, answers, strict=True)
        if not isinstance(answer, NoNode)
    ]
