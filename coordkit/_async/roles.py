"""Roles: primary and backup for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

from kazoo.client import KazooClient

from coordkit import _kazoo
from coordkit._async.election import Views
from coordkit._async.leadership import Leadership
from coordkit._async.lost import Lost, Scope
from coordkit._asyncio.runtime import RUNTIME
from coordkit._asyncio.zookeeper import session_of
from coordkit.core import checks, following, in_sync, leadership, primacy, roles, zk_checks
from coordkit.core.candidate import Terms
from coordkit.core.in_sync import InSyncSet
from coordkit.core.records import Leader

if TYPE_CHECKING:
    from coordkit.core.primacy import Applicant

R = TypeVar("R")


class Primary(Leadership):
    """What the primary holds: a leadership, and what its backups need to know.

    Made by ``Roles``, never by hand.
    """

    __slots__ = ("_in_sync",)

    def __init__(self, core: leadership.Leadership, members: in_sync.InSync) -> None:
        super().__init__(core)
        self._in_sync = members

    @property
    def in_sync(self) -> InSyncSet | None:
        """Who was in sync when we took over, and the token of the primary that said so; None if none ever did."""
        return cast("Applicant", self._core.candidate).members

    async def set_in_sync(self, identities: Iterable[str] | Mapping[str, str]) -> None:
        """Say who has all that was acknowledged, ourselves among them: from now on nobody else may become the primary.

        Leave a backup out before anything is acknowledged without it, and before its data is replaced; take it in once
        it has everything. With a mapping, the values are notes for the next primary (``primary.in_sync.notes``): by
        what a server is known, say, so that one that was restarted is not taken for the one that was meant.

        Raises ``ValueError`` if nobody is named, ``LeadershipLost`` if we are not the primary any more (the servers
        check it), ``StoreUnavailable`` if no answer came: then it may have been carried out.
        """
        await self._in_sync.write(self._core, identities)

    def __repr__(self) -> str:
        return f"<Primary {self.name} {self.identity} token={self.token} remaining={self.remaining():.1f}s>"


class Backup:
    """The work of a backup for one primary, until ``ended``. Made by ``Roles``, never by hand."""

    __slots__ = ("_core", "ended")

    def __init__(self, core: following.Following) -> None:
        self._core = core
        self.ended = Lost(core.ended)

    @property
    def primary(self) -> Leader:
        """Whom to follow: its identity and its token."""
        return self._core.leader

    def __repr__(self) -> str:
        return f"<Backup of {self.primary.identity} ended={self.ended.is_set()}>"


class Roles(Generic[R]):
    """Be the primary or a backup of a replicated service, as ZooKeeper decides; ``await roles.run()``.

    :param zk: a ``KazooClient``, as for ``Election``.
    :param path: the znode of the service, absolute; an election is held on it.
    :param identity: who we are, a text for people and for the others.
    :param on_primary: awaited with a ``Primary`` when we are it; cancelled when that is lost. When it returns, we
        resign and ``run`` returns what it returned.
    :param on_backup: awaited with a ``Backup`` for each primary that we follow, in a task of its own; cancelled at its
        end. The next does not begin, nor do we become the primary, before it has returned. A primary that is gone is
        followed until there is another.
    :param on_fence: awaited with the old ``Leader`` and our ``Primary`` before ``on_primary``, if the old primary did
        not say that its work had ended (a crash, a lost session): have every resource refuse its token.
    :param takeover_delay: seconds to wait before that: the time-based alternative, for resources that cannot compare
        tokens. It helps as far as the old primary ends its work within this time after the loss.
    :param priority, policy: as for ``Election``.
    :raises ValueError, TypeError: for arguments that can only be mistakes.

    The work of the old primary has ended before its znode goes, if its process lives and its session does. Not
    promised: that it has after a crash or a lost session; so it is fenced.

    Where data is replicated, the primary says by ``set_in_sync`` who has all of it. From then on only these become
    the primary; while none of them is there, nobody does. To let anybody stand, delete ``<path>/in_sync`` by hand.
    """

    def __init__(
        self,
        zk: KazooClient,
        path: str,
        *,
        identity: str,
        on_primary: Callable[[Primary], Awaitable[R]],
        on_backup: Callable[[Backup], Awaitable[object]] | None = None,
        on_fence: Callable[[Leader, Primary], Awaitable[object]] | None = None,
        takeover_delay: float = 0.0,
        priority: int = 0,
        policy: Literal["strict", "session"] = "strict",
    ) -> None:
        _kazoo.check_client(zk)
        self.path = zk_checks.check_path(path)
        self.identity = zk_checks.check_identity(identity)
        self.priority = zk_checks.check_priority(priority)
        self.policy = checks.check_policy(policy)
        self.takeover_delay = checks.check_delay("takeover_delay", takeover_delay)
        self.client = zk
        _kazoo.wire_of(zk)  # before it is started, to hear what it negotiates
        terms = Terms(identity, priority, strict=policy == "strict")
        self._election = primacy.RoleElection(RUNTIME, lambda: session_of(zk), path, terms)
        self._on_primary = checks.check_callable("on_primary", on_primary)
        self._on_backup = None if on_backup is None else checks.check_callable("on_backup", on_backup)
        self._on_fence = None if on_fence is None else checks.check_callable("on_fence", on_fence)
        duties = roles.Duties(self._serve, self._follow, self._fence)
        self._core: roles.Roles[R] = roles.Roles(RUNTIME, self._election, duties, takeover_delay=takeover_delay)

    async def _serve(self, core: leadership.Leadership) -> R:
        scope = Scope(core.lost)
        try:
            result = await self._on_primary(Primary(core, self._election.in_sync))
        except BaseException as error:
            if scope.left(error):
                raise core.loss() from None
            raise
        scope.left(None)
        return result

    async def _follow(self, core: following.Following) -> None:
        if self._on_backup is None:
            return
        scope = Scope(core.ended)
        try:
            await self._on_backup(Backup(core))
        except BaseException as error:
            if not scope.left(error):
                raise
        else:
            scope.left(None)

    async def _fence(self, before: Leader, core: leadership.Leadership) -> None:
        if self._on_fence is None:
            return
        scope = Scope(core.lost)
        try:
            await self._on_fence(before, Primary(core, self._election.in_sync))
        except BaseException as error:
            if scope.left(error):
                raise core.loss() from None
            raise
        scope.left(None)

    async def run(self) -> R | None:
        """Be a backup or the primary until ``on_primary`` returns, and return what it returned.

        After a loss, and after an outage, it stands again, with growing pauses. What one of the callbacks raises is
        raised, after we have left the line. Returns None if ``stop()`` was called before we became the primary.
        Raises ``StoreUnavailable`` if there never was a connection, ``StoreRefused`` if the servers refuse what only
        another set-up can mend (rights, credentials), ``CoordError`` if it runs already.
        """
        return await self._core.run()

    def stop(self) -> None:
        """Have ``run`` leave the line, or not stand again; an ``on_primary`` that runs goes on, and ends ``run``."""
        self._core.stop()

    @property
    def role(self) -> Literal["primary", "backup"] | None:
        """What we are as far as we know; None while ``run`` does not run."""
        return self._core.role

    async def primary(self) -> Leader | None:
        """Return the identity and the token of the primary, or None; one round trip. Raises ``StoreUnavailable``."""
        return await self._election.leader()

    async def backups(self) -> list[str]:
        """Return the identities of the backups that stand, in order of succession. Raises ``StoreUnavailable``.

        Who is not in sync does not stand.
        """
        return (await self._election.contenders())[1:]

    async def in_sync(self) -> InSyncSet | None:
        """Return who is in sync, and the token of the primary that said so; None if none ever did.

        Raises ``StoreUnavailable``.
        """
        return await self._election.in_sync.read()

    def observe(self) -> Views:
        """Return a stream of who is the primary, as ``Election.observe()`` does."""
        return Views(self._election.observe())

    def __repr__(self) -> str:
        return f"<Roles {self.path} identity={self.identity!r} role={self.role}>"
