"""Locks over many shards: each goes to the shard of its name, chosen anew for each request.

So a placement that is swapped is followed: the next request, renewals too, goes where the lock's keys are now, and
whoever waits listens there, as after a broken connection. A shard that is away costs its own locks only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol
from weakref import WeakValueDictionary

from coordkit._ports import Call, Confirm, Form, Inbox, Runtime, Store
from coordkit.core.beside import side_by_side
from coordkit.core.keepers import Keepers
from coordkit.errors import CrossShardError, StoreUnavailable


class Shards(Protocol):
    """A sharded client, as far as locks need one."""

    def shard_for(self, key: Any) -> str: ...
    def shards(self) -> Mapping[str, Any]: ...
    def client_for(self, key: Any) -> Any: ...
    def store_client(self, key: Any) -> Any:
        """Return the client over which locks speak about ``key`` now."""
        ...


class ShardedStore:
    """The stores of a sharded client as one; ``store_of`` returns the one of a client."""

    def __init__(self, runtime: Runtime, shards: Shards, store_of: Callable[[Any], Store]) -> None:
        self._runtime = runtime
        self._shards = shards
        self._store_of = store_of
        self.keeper = Keepers(runtime, self, self._kept_for)
        self._inbox = ShardedInbox(self)

    def __str__(self) -> str:
        return f"shards {', '.join(self._shards.shards())}"

    def at(self, key: Any) -> Store:
        """Return the store that has ``key`` now."""
        return self._store_of(self._shards.store_client(key))

    def inbox_at(self, key: Any) -> Inbox:
        """Return where the shard that has ``key`` now is listened to: over its plain client, as it changes nothing."""
        return self._store_of(self._shards.client_for(key)).inbox()

    def inbox(self) -> ShardedInbox:
        return self._inbox

    def _kept_for(self, key: Any) -> str:
        """Return for what a lease with this key is kept: those of one such do not wait for those of another."""
        return self._shards.shard_for(key)

    async def run(self, name: str, call: Call) -> Any:
        self._check(name, call.keys)
        return await self.at(call.keys[0]).run(name, call)

    async def run_form(self, name: str, form: Form, first: str, *, yielding: bool = False) -> Any:
        if form.packed is None:  # it was never sent
            self._check(name, form.keys)
        return await self.at(form.keys[0]).run_form(name, form, first, yielding=yielding)

    async def run_many(self, calls: Sequence[tuple[str, Call]], *, within: float | None = None) -> list[Any]:
        places: dict[int, tuple[Store, list[int]]] = {}
        for i, (_, call) in enumerate(calls):
            store = self.at(call.keys[0])
            places.setdefault(id(store), (store, []))[1].append(i)
        if len(places) == 1:
            [(store, _)] = places.values()
            return await store.run_many(calls, within=within)
        replies = unanswered(calls, within)

        async def ask(store: Store, mine: Sequence[int]) -> None:
            try:
                answered = await store.run_many([calls[i] for i in mine], within=within)
            except Exception as error:  # noqa: BLE001  this shard's affair, also what its credential provider raises
                answered = [error] * len(mine)
            for i, reply in zip(mine, answered, strict=True):
                replies[i] = reply

        await side_by_side(self._runtime, [partial(ask, *place) for place in places.values()], within=within)
        return list(replies)  # what comes later nobody waits for

    def cannot_confirm(self) -> str | None:
        reasons = [self._store_of(client).cannot_confirm() for client in self._shards.shards().values()]
        return next(filter(None, reasons), None)

    async def run_confirmed(self, name: str, call: Call, confirm: Confirm) -> tuple[Any, int, int]:
        self._check(name, call.keys)
        return await self.at(call.keys[0]).run_confirmed(name, call, confirm)

    def _check(self, name: str, keys: Sequence[bytes]) -> None:
        check_one_shard(self._shards, name, keys)


def unanswered(calls: Sequence[tuple[str, Call]], within: float | None) -> list[Any]:
    """Return what stands in the place of each reply until it comes."""
    bound = "" if within is None else f" within {within:.3g} s"
    return [StoreUnavailable(name, f"its shard did not answer{bound}") for name, _ in calls]


def check_one_shard(shards: Shards, name: str, keys: Sequence[bytes]) -> None:
    """Raise CrossShardError unless a script's keys are on one shard, which would not notice."""
    where = {key: shards.shard_for(key) for key in keys}
    if len(set(where.values())) > 1:
        named = ", ".join(f"{key.decode(errors='backslashreplace')!r} on {shard}" for key, shard in where.items())
        why = f"its keys are on {len(set(where.values()))} shards: {named}. Give them the {{tag}} of the name"
        raise CrossShardError(name, why, shards={key.decode(errors="backslashreplace"): s for key, s in where.items()})


class ShardedInbox:
    """Where contenders hear of their grants: each in the inbox of the shard that had its lock when it began to wait."""

    def __init__(self, store: ShardedStore) -> None:
        self._store = store
        # By address; an event loop's inbox goes with its loop.
        self._at: WeakValueDictionary[str, Inbox] = WeakValueDictionary()
        self._of: dict[str, Inbox] = {}  # by holder

    def address(self, name: str) -> str:
        inbox = self._now(name)
        return self._known(inbox.address(name), inbox)

    async def open(self, name: str, until: float) -> str:
        inbox = self._now(name)
        return self._known(await inbox.open(name, until), inbox)

    def expect(self, holder: str, address: str) -> object:
        inbox = self._of[holder] = self._at[address]
        return inbox.expect(holder, address)

    def forget(self, holder: str, stray: Callable[[], None] | None) -> None:
        if (inbox := self._of.pop(holder, None)) is not None:
            inbox.forget(holder, stray)

    async def receive(self, holder: str, until: float) -> str | None:
        return await self._of[holder].receive(holder, until)

    def _now(self, name: str) -> Inbox:
        return self._store.inbox_at(f"coordkit:1:{{{name}}}:".encode())

    def _known(self, address: str, inbox: Inbox) -> str:
        if address:
            self._at[address] = inbox
        return address
