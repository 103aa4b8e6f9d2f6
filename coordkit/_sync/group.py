"""Group for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._run import run
from coordkit._sync.balance import Balance
from coordkit._sync.lost import Lost
from coordkit._sync.share import Share
from coordkit._sync.stream import Stream
from coordkit._threads.runtime import RUNTIME
from coordkit._threads.zookeeper import session_of
from coordkit.core import balance, changes, group, membership, zk_checks
from coordkit.core import share as shares
from coordkit.core.changes import Change
from coordkit.core.token import Token
from coordkit.errors import CoordError
from coordkit.routing.balance.health import Picker, SetAside
from coordkit.routing.balance.pickers import LeastOutstanding, SmoothWeightedRoundRobin

R = TypeVar("R")


class Member:
    """An identity in a group, kept through reconnects and new sessions until it is left.

    ``lost`` tells that a newer incarnation joined under the same identity, which has it now; or that the client was
    stopped, gave up, or is refused: the session ends, and nobody joins anew.
    """

    __slots__ = ("_core", "lost")

    def __init__(self, core: membership.Membership) -> None:
        self._core = core
        self.lost = Lost(core.lost)

    @property
    def name(self) -> str:
        """The path of the group."""
        return self._core.name

    @property
    def identity(self) -> str:
        """Who joined."""
        return self._core.identity

    @property
    def data(self) -> bytes:
        """What was last given to ``join`` or ``update``."""
        return self._core.data

    @property
    def token(self) -> Token:
        """The zxid of this incarnation: greater than that of every earlier one of this identity in this group."""
        return self._core.token

    def ensure(self) -> Literal[True]:
        """Return True if the identity is ours, without asking the servers; raise ``LeaseLost`` if it is not."""
        return self._core.ensure()

    def update(self, data: bytes) -> None:
        """Change the data that others see; one round trip.

        Raises ``LeaseLost`` if the identity is another's, ``StoreUnavailable`` if no answer came: the data are then
        changed as soon as there is a connection. Raises ``StoreRefused`` if the data are too large for the servers,
        which is known once the connection was lost over them three times: the former ones stand. For that, the answer
        to more than 16 KiB is waited for one session timeout longer.
        """
        run(self._core.update(zk_checks.check_data(data)))

    def __repr__(self) -> str:
        return f"<Member {self.identity!r} of {self.name}>"


class Join:
    """One block during which an identity is a member.

    Leaving the block leaves the group. It raises ``LeaseLost`` if a newer incarnation has the identity, and
    ``StoreUnavailable`` if leaving got no answer (it goes on in the background), unless the block itself raised.
    """

    __slots__ = ("_data", "_group", "_identity", "_member")

    def __init__(self, group: Group, identity: str, data: bytes) -> None:
        self._group = group
        self._identity = zk_checks.check_identity(identity)
        self._data = zk_checks.check_data(data)
        self._member: Member | None = None

    if not TYPE_CHECKING:  # to a type checker, nothing else is there

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"join() has no {name}: enter it (with ...join(...) as member)")

    def __enter__(self) -> Member:
        if self._member is not None:
            raise CoordError(self._group.path, "this join() is in use: call join() again for each block")
        self._member = Member(run(self._group._core.join(self._identity, self._data)))  # noqa: SLF001  one facade
        return self._member

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        member, self._member = self._member, None
        if member is not None:
            run(group.leave(member._core, error))  # noqa: SLF001  one facade


class Changes(Stream[Change]):
    """A stream of a group's changes: iterate over it, and close it (or leave its ``with``) when done.

    It ends when it is closed, and raises ``StoreUnavailable`` if the first state cannot be had in one session timeout,
    or when the client is stopped.
    """

    __slots__ = ()

    def __init__(self, core: changes.Changes) -> None:
        super().__init__(core, core.next_change)


class Group:
    """Describe a group on ZooKeeper: who is there, with what data.

    :param zk: a ``KazooClient``. It may be started later, before the first use; it is not closed.
    :param path: the znode of the group, absolute; each member is a znode below it.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    Not promised: that a member shown is alive. After a crash it is shown until its session timeout has passed.
    """

    def __init__(self, zk: KazooClient, path: str) -> None:
        _kazoo.check_client(zk)
        self.path = zk_checks.check_path(path)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        self._core = group.Group(RUNTIME, lambda: session_of(zk), path)

    def join(self, identity: str, *, data: bytes = b"") -> Join:
        """Return a block during which ``identity`` is a member, with ``data`` (bytes, at most 1,000,000).

        The servers' ``jute.maxbuffer`` may allow less.

        Whoever joins last under an identity has it; a former incarnation is replaced, and told ``lost`` if it lives.
        Entering raises ``StoreUnavailable`` if no answer comes within one session timeout, ``StoreRefused`` for a no.
        """
        return Join(self, identity, data)

    def members(self) -> dict[str, bytes]:
        """Return the data of each member by identity; two round trips, and more for more than 500 members.

        Who crashed is shown until its session has ended: at most one session timeout. Raises ``StoreUnavailable``.
        """
        return run(self._core.members())

    def watch(self) -> Changes:
        """Return a stream of changes: first the present state, then what is new each time; bursts are merged."""
        return Changes(self._core.watch())

    def balance(
        self,
        picker: Picker | None = None,
        *,
        weigh: Callable[[bytes], int] | None = None,
        pause: float = 1.0,
        longest: float = 30.0,
        failures: tuple[type[Exception], ...] = (Exception,),
    ) -> Balance:
        """Return a block in which one member after the other is picked, among those that are there and well.

        :param picker: ``LeastOutstanding()`` unless given; or ``Random()``, ``RoundRobin()``, ``Sticky()``,
            ``SmoothWeightedRoundRobin()``; one for each block.
        :param weigh: for the weighted one: says from a member's data how often it is picked, a positive int.
        :param pause, longest: seconds for which a member that failed is set aside, doubled each time up to the
            longest. Then one pick at a time tries it again. Where all are set aside, all are tried.
        :param failures: the exceptions that are the member's fault.
        :raises ValueError, TypeError: for arguments that can only be mistakes.
        """
        aside: SetAside[str] = SetAside(LeastOutstanding() if picker is None else picker, pause=pause, longest=longest)
        if (weigh is not None) != isinstance(picker, SmoothWeightedRoundRobin):
            raise ValueError("weigh must be given with a SmoothWeightedRoundRobin() as picker, and with nothing else")

        def make() -> balance.Balance:
            return balance.Balance(self._core.session(), self.path, aside, weigh, failures=failures)

        return Balance(self.path, make)

    def share(
        self,
        identity: str,
        partitions: Iterable[str],
        *,
        data: bytes = b"",
        weigh: Callable[[bytes], int] | None = None,
    ) -> Share:
        """Return what has ``identity`` work on its part of ``partitions``, once it is run.

        :param partitions: their keys, any texts; the same for all members, or some are nobody's or wait for ever.
        :param data: what members show, as in ``join``.
        :param weigh: says from a member's data how large its part is, a positive int; data of which it cannot say so
            count 1. The same for all members, as the partitions are.
        :raises ValueError, TypeError: for arguments that can only be mistakes.

        All members of the group have parts by weight, even ones without ``weigh``, computed as the shards' slots are
        placed, so use a group for nothing else. Each partition is worked on by one member at a time: the next begins
        when the work of the former has ended, or its session has. Not promised: that a former owner that hangs has
        stopped; its token tells.
        """
        keys = zk_checks.check_partitions(partitions)
        core = shares.Share(
            RUNTIME,
            self._core,
            keys,
            zk_checks.check_identity(identity),
            data=zk_checks.check_data(data),
            weigh=zk_checks.check_weigh(weigh),
        )
        return Share(core)

    def __repr__(self) -> str:
        return f"<Group {self.path}>"
