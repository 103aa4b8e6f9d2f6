"""Bugs of elections and groups that others shipped, put into a real worker process: W6 and W7 must find each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kazoo.protocol.states import EventType

from coordkit._kazoo_watches import Bell
from coordkit._ports_zookeeper import Check, Create, Delete, GetData, Kind, Link, Multi, NoNode
from coordkit.core import lease, znodes
from coordkit.core.candidate import Candidate
from coordkit.core.leadership import Leadership
from coordkit.core.membership import Membership
from coordkit.core.place import Place
from coordkit.core.proven import Proven
from coordkit.core.roll import Roll
from coordkit.core.session import Session
from coordkit.core.standing import Standing
from coordkit.errors import StoreUnavailable

# -- elections


def sequence_is_the_token() -> None:
    """The suffix of the znode's name: it begins anew when the parent was deleted."""
    was = Candidate.hold

    def hold(self: Candidate, token: int, asked: float) -> Leadership:
        del token
        return was(self, (znodes.sequence_of(self.node.rpartition("/")[2]) or 0) + 1, asked)

    Candidate.hold = hold  # type: ignore[method-assign]  # a mutant


def takes_over_unchecked() -> None:
    """etcd's Campaign: whoever waited to the head of the line leads, though its own key may be gone."""
    was = Standing._take_over

    async def take_over(self: Standing[Any]) -> Any:
        candidate = self._candidate
        unchecked = Multi(tuple(step for step in candidate.take_over().steps if not isinstance(step, Check)))
        answer: Any = StoreUnavailable("", "not asked yet")
        while isinstance(answer, StoreUnavailable):
            asked = self._runtime.now()
            answer = (await self._ask(unchecked))[0]
            await self._runtime.sleep(0.02 * isinstance(answer, StoreUnavailable))
        return candidate.hold(answer[-1].modified, asked) if isinstance(answer, list) else await was(self)

    async def any_session(self: Standing[Any], owner: int) -> None:
        await self._session.connected(self._name, self._deadline, self._stop)

    Standing._take_over = take_over  # type: ignore[method-assign]  # a mutant
    Standing._same_session = any_session  # type: ignore[method-assign]  # a mutant
    Place.gone = property(lambda _: False, lambda *_: None)  # type: ignore[assignment]  # a mutant


def connected_is_proof() -> None:
    """kazoo, Curator, tooz: whoever has a connection leads, as if a server that answers knew more than we do."""
    Session.proven = property(lambda _: 3600.0)  # type: ignore[assignment,method-assign]  # a mutant


def lease_counted_from_the_reply() -> None:
    """The servers have been counting since they got the request."""
    proven, renewed = Standing._proven, Proven.renewed

    def proven_late(self: Standing[Any], token: int, asked: float) -> Any:
        del asked
        return proven(self, token, self._runtime.now())

    def renewed_late(self: Proven, asked: float, ttl: float) -> None:
        del asked
        renewed(self, self._runtime.now(), ttl)

    Standing._proven = proven_late  # type: ignore[method-assign]  # a mutant
    Proven.renewed = renewed_late  # type: ignore[method-assign]  # a mutant


def loss_is_not_announced() -> None:
    """kazoo: the leader function runs on, and nobody tells it."""

    def lose(self: Proven, why: str) -> None:
        self._end(lease.State.LOST, why)

    Proven.lose = lose  # type: ignore[method-assign]  # a mutant


def adopts_an_old_znode() -> None:
    """CURATOR-696, CURATOR-498: our own znode of a session that has ended, or is about to, is taken for our place."""

    async def any_session(self: Standing[Any], owner: int) -> None:
        await self._session.connected(self._name, self._deadline, self._stop)

    def connected(self: Session, session: int) -> bool:
        del session
        return self.ensemble.link() is Link.CONNECTED

    Standing._same_session = any_session  # type: ignore[method-assign]  # a mutant
    Session.alive_as = connected  # type: ignore[method-assign]  # a mutant


def sleeps_through_a_reconnect() -> None:
    """kazoo's Barrier: the watch went with the connection, and nobody set it anew."""
    _ignore_lost_watches()
    born, subscribe = Standing.__init__, Session.subscribe

    def init(self: Standing[Any], candidate: Any, *args: Any) -> None:
        born(self, candidate, *args)
        candidate.wake.deaf = True

    def all_but_the_line(self: Session, listener: Callable[[Link], None]) -> None:
        if not getattr(getattr(listener, "__self__", None), "deaf", False):
            subscribe(self, listener)

    Standing.__init__ = init  # type: ignore[method-assign]  # a mutant
    Session.subscribe = all_but_the_line  # type: ignore[method-assign]  # a mutant


def _ignore_lost_watches() -> None:
    """Do as if kazoo did not tell that a watch was lost with its connection."""
    soon, at_once = Bell.__call__, Bell.at_once  # in kazoo's thread for watches, and in the one that hears of it

    def call(self: Bell, event: Any) -> None:
        if event.type != EventType.NONE:
            soon(self, event)

    def call_at_once(self: Bell, event: Any) -> bool:
        return event.type == EventType.NONE or at_once(self, event)

    Bell.__call__ = call  # type: ignore[method-assign]  # a mutant
    Bell.at_once = call_at_once  # type: ignore[method-assign]  # a mutant


# -- groups


def watches_are_not_set_anew() -> None:
    """kazoo's ChildrenWatch where the parent was made anew, and everybody's first version: a reconnect ends it."""
    _ignore_lost_watches()
    below = Roll._below

    def deaf(self: Roll, path: str | None) -> None:
        if path is not None:
            below(self, path)

    Roll._heard = lambda _self, _link: None  # type: ignore[assignment,method-assign]  # a mutant
    Roll._below = deaf  # type: ignore[method-assign]  # a mutant


def does_not_join_again() -> None:
    """kazoo's Party, tooz: after an expiry the member believes that it is one."""

    async def keep(_self: Membership) -> None: ...

    Membership._keep = keep  # type: ignore[method-assign]  # a mutant


def flaps_at_a_reconnect() -> None:
    """Curator's ServiceDiscovery: delete and create whenever there is a connection again."""
    was = Membership._keep

    async def keep(self: Membership) -> None:
        if self._again_connected:
            self._again_connected = False
            znode = self._znode
            await znode.ask(Delete(znode.node))
            await znode.ask(Multi((Create(znode.node, self.data, Kind.EPHEMERAL),)))
            seen = (await znode.ask(GetData(znode.node)))[0]
            if not isinstance(seen, Exception):
                znode.is_ours(seen[1])
        await was(self)

    heard = Membership._heard

    def hear(self: Membership, link: Link) -> None:
        self._again_connected = self._again_connected or link is Link.CONNECTED
        heard(self, link)

    Membership._again_connected = False  # type: ignore[attr-defined]  # a mutant
    Membership._keep = keep  # type: ignore[method-assign]  # a mutant
    Membership._heard = hear  # type: ignore[method-assign]  # a mutant


def updates_are_missed() -> None:
    """kazoo's ChildrenWatch: what a member says about itself may change, and nobody hears it."""
    below = Roll._below

    def deaf(self: Roll, path: str | None) -> None:
        if path not in self._known:
            below(self, path)

    Roll._below = deaf  # type: ignore[method-assign]  # a mutant


def keeps_the_old_sessions_znode() -> None:
    """The znode is there, so all is well; that it is of a session which is about to end nobody looks at."""

    async def keep(self: Membership) -> None:
        session = await self._session.connected(self.name, self._runtime.now())
        seen, _ = await self._znode.watch()
        if isinstance(seen, NoNode):
            await self._put(session)

    Membership._keep = keep  # type: ignore[method-assign]  # a mutant


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        sequence_is_the_token,
        takes_over_unchecked,
        connected_is_proof,
        lease_counted_from_the_reply,
        loss_is_not_announced,
        adopts_an_old_znode,
        sleeps_through_a_reconnect,
        watches_are_not_set_anew,
        does_not_join_again,
        flaps_at_a_reconnect,
        updates_are_missed,
        keeps_the_old_sessions_znode,
    )
}
