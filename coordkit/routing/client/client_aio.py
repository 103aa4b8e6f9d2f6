"""`ShardedRedis`: redis-py's commands over many shards, asyncio. The same as `coordkit.routing.client.client`, which
says what is promised and what is not; only the I/O differs: each shard is spoken to concurrently, and tasks share one
connection to it for commands that are answered at once. There a lost connection, or a reply later than the client's
``socket_timeout``, is told to all who wait on that connection. What may block, walks a whole value or is a large batch
has a connection to itself. ``max_connections`` is for each event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import redis.asyncio as redis
from redis.asyncio.client import Pipeline
from redis.commands import AsyncCoreCommands
from redis.exceptions import ResponseError, WatchError

from coordkit._asyncio.runtime import RUNTIME
from coordkit.errors import StoreUnavailable
from coordkit.routing.balance.health import Picker
from coordkit.routing.balance.peak_ewma import PeakEwma
from coordkit.routing.client.exchange_aio import exchange
from coordkit.routing.client.moment import Moment
from coordkit.routing.client.pipeline_aio import ShardedPipeline
from coordkit.routing.client.questions import has_no_keys, no_such_command, words_of
from coordkit.routing.client.script_aio import ShardedScript
from coordkit.routing.commands.plan import Plan, Question, first
from coordkit.routing.pubsub.pubsub_aio import ShardedPubSub
from coordkit.routing.replicas.readers import ReadFrom, check_balance
from coordkit.routing.replicas.terms import Terms
from coordkit.routing.replicas.way_aio import replicated
from coordkit.routing.ways.batch import Gathering, only
from coordkit.routing.ways.breaker import Breaker
from coordkit.routing.ways.pool_aio import way_of
from coordkit.routing.ways.port_aio import WayPort
from coordkit.routing.ways.replies import RAW
from coordkit.routing.ways.way_aio import Way

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from coordkit._async.topology import TopologyStore
    from coordkit.routing.client.live_aio import Connect, LiveShardedRedis
    from coordkit.routing.topology.topology import Topology


class ShardedRedis(Moment["redis.Redis"], AsyncCoreCommands):  # type: ignore[misc]  # its mixins disagree
    """Route redis-py's commands over shards that are named, not addressed.

    ``shards`` maps names to `redis.asyncio.Redis` clients of your own (a Sentinel's master is one); ``weights`` are
    positive numbers, 1 where a name is missing. All clients must agree on encoding, decode_responses and protocol.
    Raise ValueError or TypeError, naming the argument, for anything else, and NoNodes for no shard at all. Tasks of one
    event loop may share one ShardedRedis, as they may share its clients.

    ShardDown, with the shard's name, says that a command was not sent because the shard cannot be reached, and
    StoreUnavailable that no answer came. StoreRefused says that a shard refuses for its own sake (password, rights,
    read-only replica, memory, disk); what is wrong with the command (syntax, WRONGTYPE, NOSCRIPT, unknown command)
    stays redis-py's ResponseError. Redis-py's error is the cause. A split raises the like if no shard did its part;
    if some did, PartialFailure: ``.ok`` maps keys to results (for the counting commands, to the count of the whole
    shard), ``.failed`` maps keys to (shard, error), both by shard instead if all shards were asked.
    After ``failure_threshold`` attempts in a row that did not reach a shard (no connection, or a quick command's reply
    too late) its commands fail at once with ShardDown, until a probe in the background, one at a time and not before
    ``reset_timeout`` seconds have passed, finds it well. No key ever moves to another shard for that.
    Key to slot as in Redis Cluster; slot to shard by `coordkit.routing.rendezvous`, or by the ``placement`` that is
    given instead of weights: any that `coordkit.routing` makes, of the same names. One without hash tags tears apart
    what belongs together by its ``{tag}``, coordkit's own keys excepted, and CrossShardError says so.

    A shard may also be a `ReplicaSet`: a primary and its replicas. What goes where then says
    `coordkit.routing.replicas.terms`; in short, writes, scripts and transactions go to the primary, and reads to

    - ``read_from="primary"``, the default;
    - ``"replica"``: a replica, and nobody else;
    - ``"replica_preferred"``: a replica, or the primary if none will do;
    - ``"nearest"``: any of them, the primary as well.

    What a replica answers may be old. ``max_lag`` (seconds) and ``max_lag_bytes`` leave out who is further behind, as
    far as the last look tells (four within ``max_lag``, one a second at least; `coordkit.routing.replicas.lag` says
    what is measured). A replica that fails is set aside and probed in the background until it answers; the read goes to
    another, three servers at most, and a server that hangs costs its client's ``socket_timeout`` once. ``balance`` is a
    picker's class, such as `RoundRobin` or the default `PeakEwma`, or what makes a picker.
    ``min_replicas`` has each write wait (WAIT, in the same round trip) until so many replicas have it, ``wait_timeout``
    seconds at most; TooFewReplicas says that it was done and is not safe yet. Who waits for all the replicas that the
    primary has reads what it wrote from any of them.
    `with_options` changes ``read_from``, ``min_replicas`` and ``wait_timeout`` for some calls.
    """

    _is_async_client: Literal[True] = True  # by which redis-py's annotations tell the flavours apart
    _event_dispatcher: Any = None  # redis-py 7's mixins declare it, its own clients alone use it
    _client_type = redis.Redis
    _other_types = (Pipeline,)
    _ways_of = staticmethod(way_of)
    _way_type = Way
    _replicated = staticmethod(replicated)
    _port_type = WayPort
    _runtime = RUNTIME

    @classmethod
    async def from_topology(
        cls,
        source: TopologyStore | Topology,
        connect: Connect,
        *,
        poll: float = 30.0,
        patience: float = 5.0,
        read_from: ReadFrom = "primary",
        balance: Callable[[], Picker] = PeakEwma,
        max_lag: float | None = None,
        max_lag_bytes: int | None = None,
        min_replicas: int = 0,
        wait_timeout: float = 1.0,
        failure_threshold: int = 5,
        reset_timeout: float = 1.0,
    ) -> LiveShardedRedis:
        """Return a client whose shards and placement are those of a topology, and change with it while it is in use.

        ``source`` is a `TopologyStore`, which is followed from then on: by a watch, by a look every ``poll`` seconds,
        and at once when a shard tells of a newer epoch, for which a command waits up to ``patience`` seconds. Or it is
        a `Topology`: then newer ones are told by ``adopt(topology)``. ``connect(name, address)`` returns a new
        `redis.asyncio.Redis` client for a shard, and adds the password; its clients are closed when their shard is gone
        and no operation of an earlier topology goes on, and at the latest by `aclose`.

        Only a greater epoch of the same name is adopted; what is damaged or older is logged and refused, and the last
        good one is served on, as it is while ZooKeeper is away.

        Where a shard of the topology names replicas, ``connect`` is called for each of their addresses as well, unless
        it returned a `ReplicaSet`, or a Sentinel's master, for the primary: that is taken as it is. ``read_from`` and
        what follows it mean what they mean to the constructor. A key that is on its way is read from the primary that
        has it; a replica that knows a later epoch, or lacks what a move has brought, is passed over. So what a replica
        answers may be old, but it never says "not there" for the reason that a key has moved.

        Raise BadTopology if there is none to begin with,
        StoreUnavailable if the store did not answer in one session timeout, ValueError or TypeError for arguments that
        can only be mistakes. An operation raises TopologyOutdated if its shard knows a newer epoch than could be had.
        """
        from coordkit.routing.client.live_aio import LiveShardedRedis  # it is one of us, so it cannot come first

        Breaker(failure_threshold=failure_threshold, reset_timeout=reset_timeout)  # says what is wrong with them
        live = LiveShardedRedis(
            connect,
            poll=poll,
            patience=patience,
            fenced=True,
            terms=Terms().changed(read_from, min_replicas, wait_timeout),
            balance=check_balance(balance),
            max_lag=max_lag,
            max_lag_bytes=max_lag_bytes,
            failure_threshold=failure_threshold,
            reset_timeout=reset_timeout,
        )
        await live.follow(source)
        return live

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the shard or shards of its keys; return its reply. The module docstring has the rules."""
        shard = self._router.shard_of_first_key(args)
        if shard is not None:
            return await self._ways[shard].execute(args, options, self._epoch)
        plan = await self._plan(args, options)
        if len(plan.parts) == 1:
            part, decided = plan.parts[0], self._epoch
            if self._touch is not None:
                decided = (await self._bring(plan.keys())).get(part.shard, decided)
            way = self._ways_where(plan.keys())[part.shard]
            return plan.join([await way.execute(part.args, part.options, decided)])
        if plan.in_turn:
            return await self._in_turn(plan)
        gathering = Gathering()
        gathering.add(plan)
        if self._touch is not None:
            await self._bring_for(gathering)
        return only(gathering.settle(await exchange(self._ways_for(gathering), gathering, decided=self._epoch)))

    async def on_all(self, *command: Any, **options: Any) -> dict[str, Any]:
        """Send a command to every shard and return the replies by shard, as ``on_all("FLUSHDB")``.

        Raise PartialFailure, by shard, if some did not carry it out, and CrossShardError for what changes a connection
        (SELECT, AUTH, MULTI, SUBSCRIBE ...): set that on the clients that you pass in.
        """
        gathering = Gathering()
        gathering.add(self._everywhere(command, options))
        ways = self._ways_for(gathering)
        replies: dict[str, Any] = only(gathering.settle(await exchange(ways, gathering, decided=self._epoch)))
        return replies

    def pipeline(self, transaction: bool = False, shard_hint: None = None) -> ShardedPipeline:
        """Return a pipeline; unlike redis-py's it is no transaction unless asked, and then stays on one shard."""
        if shard_hint is not None:
            raise ValueError(f"shard_hint={shard_hint!r}; None is allowed: shards follow from the keys")
        return ShardedPipeline(self, self._router, self._plan, transaction=transaction)

    async def transaction(
        self,
        func: Callable[[ShardedPipeline], Any],
        *watches: Any,
        shard_hint: None = None,
        value_from_callable: bool = False,
        watch_delay: float | None = None,
    ) -> Any:
        """Call ``func`` with a pipeline that watches keys of one shard, and execute it; again while they change.

        Return the replies, or what ``func`` returned. As redis-py's; ``watch_delay`` is in seconds.
        """
        async with self.pipeline(True, shard_hint) as pipe:
            while True:
                try:
                    if watches:
                        await pipe.watch(*watches)
                    value = func(pipe)
                    if inspect.isawaitable(value):
                        value = await value
                    replies = await pipe.execute()
                except WatchError:
                    await asyncio.sleep(watch_delay or 0)
                else:
                    return value if value_from_callable else replies

    def pubsub(self, *, ignore_subscribe_messages: bool = False) -> ShardedPubSub:
        """Return an object to subscribe with: channels on the shards of their names, patterns on all."""
        return ShardedPubSub(self, ignore_subscribe_messages=ignore_subscribe_messages)

    def register_script(self, script: str | bytes) -> ShardedScript:  # type: ignore[override]  # redis-py's own Script loads on one server
        """Return a script to call with keys and args; it runs on the shard of its keys and is loaded where needed."""
        return ShardedScript(self, script)

    async def aclose(self) -> None:
        """Close all the clients that were passed in, also if closing one raises, which is raised in the end.

        Elsewhere coordkit closes only what it made; this stands in for one redis.asyncio.Redis and closes as that does.
        """
        async with AsyncExitStack() as closing:
            for one in self._pieces():
                # redis-py 5.0.0, and a way, have only the latter
                closing.push_async_callback(getattr(one, "aclose", None) or one.close)

    async def close(self) -> None:
        """Do what `aclose` does, which was its name until redis-py 5.0.1."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _in_turn(self, plan: Plan) -> Any:
        """Do one part after the other."""
        replies: list[Any] = []
        for part in plan.parts:
            gathering = Gathering()
            gathering.add(plan._replace(parts=(part,), join=first))
            replies += gathering.settle(await exchange(self._at_primaries, gathering, decided=self._epoch))
        return plan.settle(replies)

    async def _send(self, shard: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        return await self._ways[shard].execute(args, options, self._epoch)

    async def _plan(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Plan:
        plan: Plan | Question | None = self._router.plan(args, options)
        while isinstance(plan, Question):
            question = plan
            plan = self._router.answer(question, await self._ask(question))
            if plan is None:
                raise no_such_command(question)
        assert plan is not None  # noqa: S101 - for the type checker: only a Question becomes None
        return plan

    async def _ask(self, question: Question) -> Any:
        words = words_of(question)
        last: StoreUnavailable | None = None
        for shard in self._shards:
            try:
                return await self._send(shard, words, RAW)
            except StoreUnavailable as error:
                last = error
            except ResponseError as error:
                if not has_no_keys(error):
                    raise
                return []
        assert last is not None  # noqa: S101 - for the type checker: there is at least one shard
        raise last
