"""What a leader writes into ZooKeeper, so that it is written only while it leads.

One ``multi``, whose first step checks the leader's own znode: the servers carry it out in their one order of writes, so
it is refused once the session has ended or the znode is gone, however late it comes. No token is needed there (etcd
compares the leader's key in the same way; Curator's users ask for it as CURATOR-542).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordkit._ports_zookeeper import (
    BadVersion,
    Check,
    Create,
    Delete,
    Kind,
    Multi,
    NodeError,
    NodeExists,
    NotEmpty,
    SetData,
    Stat,
)
from coordkit.core import zk_checks
from coordkit.core.session import GRACE
from coordkit.errors import CoordError, TransactionFailed

if TYPE_CHECKING:
    from coordkit.core.leadership import Leadership

_REASONS: dict[type[NodeError], str] = {
    BadVersion: "it has another version",
    NodeExists: "it exists already",
    NotEmpty: "it has children",
}


class Transaction:
    """Steps that are carried out all or none, and only while the leadership lasts."""

    def __init__(self, leadership: Leadership) -> None:
        self.leadership = leadership
        self.results: list[str | int | None] = []
        self._steps: list[tuple[str, Create | Delete | SetData | Check]] = []
        self._sent = False

    def create(self, path: str, data: bytes, *, ephemeral: bool) -> None:
        kind = Kind.EPHEMERAL if ephemeral else Kind.PERSISTENT
        self._add("create", Create(zk_checks.check_path(path), zk_checks.check_data(data), kind))

    def set(self, path: str, data: bytes, version: int) -> None:
        self._add(
            "set", SetData(zk_checks.check_path(path), zk_checks.check_data(data), zk_checks.check_version(version))
        )

    def delete(self, path: str, version: int) -> None:
        self._add("delete", Delete(zk_checks.check_path(path), zk_checks.check_version(version)))

    def check(self, path: str, version: int) -> None:
        self._add("check", Check(zk_checks.check_path(path), zk_checks.check_version(version)))

    def _add(self, verb: str, step: Create | Delete | SetData | Check) -> None:
        if self._sent:
            raise CoordError(self.leadership.name, "this transaction was sent: begin another one")
        self._steps.append((verb, step))

    async def commit(self) -> None:
        """Send it, once; raises ``LeadershipLost``, ``TransactionFailed`` or ``StoreUnavailable``."""
        leadership, session = self.leadership, self.leadership.place.session
        if self._sent:
            raise CoordError(leadership.name, "this transaction was sent: begin another one")
        leadership.ensure()
        self._sent = True
        session.ensemble.may_wait(leadership.name)
        asked, proven = session.runtime.now(), session.proven
        own = leadership.place.node
        request = Multi((Check(own), *(step for _, step in self._steps)))
        within = max(GRACE, leadership.remaining())
        answer = (await session.ensemble.ask(leadership.name, [request], within=within))[0]
        if isinstance(answer, NodeError) and answer.step == 0:
            leadership.lose("its znode is gone: deleted by hand, or with the session")
            raise leadership.loss()
        if isinstance(answer, NodeError):
            verb, step = self._steps[answer.step - 1]
            missing = "it is not there" if not isinstance(step, Create) else "its parent is not there"
            raise TransactionFailed(
                leadership.name,
                f"step {answer.step} of {len(self._steps)} was refused, {verb} {step.path}: "
                f"{_REASONS.get(type(answer), missing)}; nothing was done",
                step=answer.step - 1,
                path=step.path,
            ) from answer.__cause__
        if isinstance(answer, Exception):
            raise answer
        self.results = [each.version if isinstance(each, Stat) else _path(each) for each in answer[1:]]
        leadership.renewed(asked, proven)  # the check of our znode proves the session as any other does


def _path(answer: object) -> str | None:
    return answer if isinstance(answer, str) else None
