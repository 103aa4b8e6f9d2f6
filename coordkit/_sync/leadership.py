"""What a leader holds, and what it writes with, for threads."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Literal

from coordkit._run import run
from coordkit._sync.lost import Lost
from coordkit.core import leadership, transaction, zk_checks
from coordkit.core.token import Token

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs


class Leadership:
    """What a leader holds: a token, a proof that ends, and a loud loss.

    Made by ``with election`` and ``election.run``, never by hand. A forked child leads nothing.
    """

    __slots__ = ("_core", "lost")

    def __init__(self, core: leadership.Leadership) -> None:
        self._core = core
        self.lost = Lost(core.lost)

    @property
    def name(self) -> str:
        """The path of the election."""
        return self._core.name

    @property
    def identity(self) -> str:
        """Who leads."""
        return self._core.identity

    @property
    def token(self) -> Token:
        """The fencing token: the zxid of taking over, greater than that of every earlier leader."""
        return self._core.token

    def remaining(self) -> float:
        """Return the seconds for which the last answered write proves that we lead; 0.0 once it is lost."""
        return self._core.remaining()

    def ensure(self) -> Literal[True]:
        """Return True if we lead, without asking the servers; raise ``LeadershipLost`` if we may not."""
        return self._core.ensure()

    def verify(self) -> None:
        """Ask the quorum, by one write, whether we lead.

        Raises ``LeadershipLost`` if we do not, ``StoreUnavailable`` if no answer came.
        """
        run(self._core.renew())

    def resign(self) -> None:
        """Give the leadership up now, before the block ends: its work must have ended.

        The next in line leads at once; leaving the block does nothing more. Raises ``LeadershipLost`` if it was lost
        before, ``StoreUnavailable`` if no answer came (it goes on in the background).
        """
        run(self._core.resign())

    def transfer_to(self, identity: str) -> None:
        """Resign in favour of the first contender that stands as ``identity``: it leads next, whoever else waits.

        Raises ``NoNodes`` if nobody stands under it: then we lead on. Should it leave in that moment, or crash before
        it leads (which takes a session timeout to be known), the next in line leads. Raises what ``resign`` raises.
        """
        run(self._core.transfer_to(zk_checks.check_identity(identity)))

    def transaction(self) -> Transaction:
        """Return a block that collects writes to ZooKeeper, which are carried out only if we lead then.

        Leaving it raises ``LeadershipLost`` if we do not; ``TransactionFailed``, which names the step, if one was
        refused: nothing was done then; ``StoreUnavailable`` if no answer came: it may have been carried out, once.
        """
        return Transaction(self._core.transaction())

    def __repr__(self) -> str:
        return f"<Leadership {self.name} {self.identity} token={self.token} remaining={self.remaining():.1f}s>"


class Transaction:
    """Writes that are carried out all or none, and only while we lead: ZooKeeper itself refuses them afterwards.

    Made by ``leadership.transaction()``. Add steps, then leave the block: that sends them, in one request, behind a
    check of our own znode; a block that raises sends nothing. ``results`` then has one entry per step: the path of what
    was created, the new version of what was set, None for the others.
    """

    __slots__ = ("_core",)

    def __init__(self, core: transaction.Transaction) -> None:
        self._core = core

    @property
    def results(self) -> list[str | int | None]:
        """What became of each step, in order; empty until the block was left."""
        return self._core.results

    def create(self, path: str, data: bytes = b"", *, ephemeral: bool = False) -> None:
        """Create a znode at the absolute ``path``; ``ephemeral`` ends it with our session."""
        self._core.create(path, data, ephemeral=ephemeral)

    def set(self, path: str, data: bytes, *, version: int = -1) -> None:
        """Replace the data of a znode, if it has this ``version`` (-1: any)."""
        self._core.set(path, data, version)

    def delete(self, path: str, *, version: int = -1) -> None:
        """Delete a znode without children, if it has this ``version`` (-1: any)."""
        self._core.delete(path, version)

    def check(self, path: str, *, version: int = -1) -> None:
        """Have nothing done unless this znode is there, with this ``version`` (-1: any)."""
        self._core.check(path, version)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            run(self._core.commit())

    def __repr__(self) -> str:
        return f"<Transaction of {self._core.leadership.name}>"
