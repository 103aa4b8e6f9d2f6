"""What goes to each shard at once, and whose the replies are: all of it but the I/O, which each flavour does itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError, ExecAbortError, ResponseError, WatchError  # noqa: A004  redis-py's own

from coordkit._reader import PLAIN
from coordkit.errors import CrossShardError, StoreRefused
from coordkit.routing.commands.plan import Plan, listed
from coordkit.routing.ways.copying import Copying
from coordkit.routing.ways.errors import answered, unanswered
from coordkit.routing.ways.replies import callback_of, called, decoded, parsed

Command = tuple[tuple[Any, ...], dict[str, Any]]
Batch = Sequence[Command]

# Before redis-py 5.3 a pool demands the command's name; from 5.3 on it warns of it.
TAKE: tuple[str, ...] = (
    ("_",)
    if inspect.signature(ConnectionPool.get_connection).parameters["command_name"].default is inspect.Parameter.empty
    else ()
)

_UNPARSED = "_"  # a name for which redis-py has no callback


class Gathering:
    """The commands of one pipeline or split: what each shard is sent, and whose its replies are."""

    def __init__(self) -> None:
        self.batches: dict[str, list[Command]] = {}
        self.decided: dict[str, int] = {}  # by what, where that is not the epoch alone: keys were brought
        self._asked: list[Plan | str] = []  # a command that goes to one shard as it is stands as that shard's name
        self._left_out: dict[tuple[int, int], Exception] = {}  # by which command and which part of it

    def add_simple(self, shard: str, command: Command) -> None:
        """Add a command that goes to one shard as it is."""
        self._asked.append(shard)
        if shard in self.batches:
            self.batches[shard].append(command)
        else:
            self.batches[shard] = [command]

    def add_all_simple(self, shards: Sequence[str], commands: Batch) -> None:
        """Add commands, each of which goes to one shard as it is."""
        self._asked += shards
        batches = self.batches
        for command, shard in zip(commands, shards, strict=True):
            if shard in batches:
                batches[shard].append(command)
            else:
                batches[shard] = [command]

    def add(self, plan: Plan) -> None:
        """Add a command as planned."""
        self._asked.append(plan)
        for part in plan.parts:
            self.batches.setdefault(part.shard, []).append((part.args, part.options))

    def keys(self) -> list[Any]:
        """Return the keys of the commands that were planned; of one that goes to one shard as it is, none."""
        return [key for asked in self._asked if not isinstance(asked, str) for key in asked.keys()]  # noqa: SIM118  a Plan's own

    def where(self) -> list[str]:
        """Return for each command the shard, or the shards, that it goes to."""
        return [
            asked if isinstance(asked, str) else ", ".join(dict.fromkeys(part.shard for part in asked.parts))
            for asked in self._asked
        ]

    def leave_out(self, problem: Callable[[Any], Exception | None]) -> None:
        """Send no part of which a key has a ``problem``, which stands in the place of its reply."""
        batches: dict[str, list[Command]] = {}
        sent = {shard: iter(batch) for shard, batch in self.batches.items()}
        for i, asked in enumerate(self._asked):
            if isinstance(asked, str):
                batches.setdefault(asked, []).append(next(sent[asked]))
                continue
            keyed = bool(asked.keys())
            for j, part in enumerate(asked.parts):
                command = next(sent[part.shard])
                error = next(filter(None, map(problem, part.names)), None) if keyed else None
                if error is None:
                    batches.setdefault(part.shard, []).append(command)
                else:
                    self._left_out[i, j] = error
        self.batches = batches

    def check_one_shard(self, watched: Mapping[Any, str] | None = None) -> None:
        """Raise CrossShardError, naming each key, if the commands go to more shards than one.

        ``watched`` are keys whose shard it has to be as well.
        """
        where: dict[Any, str] = dict(watched or {})
        shards = {*self.batches, *where.values()}
        if len(shards) < 2:
            return
        sent = {shard: iter(batch) for shard, batch in self.batches.items()}
        for asked in self._asked:
            if isinstance(asked, str):
                args, _ = next(sent[asked])
                key = args[1]
                where[bytes(key) if isinstance(key, (bytearray, memoryview)) else key] = asked
                continue
            for part in asked.parts:
                next(sent[part.shard])
                where.update(dict.fromkeys(part.names, part.shard))
        named = listed(where)
        why = f"its keys are on {len(shards)} shards: {named}. Give them one {{tag}}, or use transaction=False"
        raise CrossShardError("transaction", why, shards=where)

    def settle(self, replies: Mapping[str, list[Any]]) -> Iterator[Any]:
        """Yield the reply of each command in the order of the calls; an error stands in its place.

        ``replies`` are those to ``batches``, in the same order.
        """
        coming = {shard: iter(batch) for shard, batch in replies.items()}
        for i, asked in enumerate(self._asked):
            if isinstance(asked, str):
                yield next(coming[asked])
                continue
            try:
                yield asked.settle(
                    [self._left_out.get((i, j)) or next(coming[part.shard]) for j, part in enumerate(asked.parts)]
                )
            except Exception as error:  # noqa: BLE001 - handed over in its place, whatever it is
                yield error


def only(replies: Iterator[Any]) -> Any:
    """Return the one reply, or raise it if it is an error."""
    reply = next(replies)
    if isinstance(reply, Exception):
        raise reply
    return reply


class Delivery:
    """One batch on its way to one shard, over one connection, as redis-py's Pipeline does it.

    Redis-py's public pipeline sends and reads in one call, which would serve one shard after the other, and repeats the
    call after a lost reply, which would carry it out twice.
    """

    def __init__(self, shard: str, client: Any, batch: Batch, *, transaction: bool) -> None:
        self.shard = shard
        self._client = client  # Any: redis-py leaves what is used here untyped
        self._batch = batch
        self._transaction = transaction
        self._packed: Any = None
        self._sent = False
        self._in_step = True  # the connection has no reply on its way
        self._called = False  # whether a callback was, which for asyncio may have to be awaited
        self._answers: list[Any] = []
        self._owed = len(batch) + 2 if transaction else len(batch)  # replies
        self._behind: list[Command] = []  # what is sent behind the batch: WAIT
        self._longer = 0.0  # seconds that the shard may take for that
        self._copying: Copying | None = None

    def wait_for(self, copying: Copying) -> None:
        """Have WAIT sent behind the batch, on the same connection; replies are judged by its answer."""
        self._copying, self._longer = copying, copying.within
        self._behind = [(("WAIT", copying.replicas, max(1, math.ceil(copying.within * 1000))), {})]  # 0 is for ever
        self._owed += 1

    def replies(self) -> list[Any]:
        """Return the reply to each command of the batch; what the shard did not answer is an error in its place.

        So is TooFewReplicas for a write that too few replicas have.
        """
        return self._judged(self._unjudged())

    def _unjudged(self) -> list[Any]:
        answers = self._of_batch()
        return self._of_transaction(answers) if self._transaction else answers

    def _judged(self, replies: list[Any]) -> list[Any]:
        return replies if self._copying is None else self._copying.judged(self.shard, replies, self._answers[-1])

    def _of_batch(self) -> list[Any]:
        return self._answers[:-1] if self._behind else self._answers

    @property
    def discarded(self) -> bool:
        """Whether the server did not carry out a transaction because a key that was watched had changed."""
        return self._transaction and len(self._answers) == self._owed and self._of_batch()[-1] is None

    @property
    def carried_out(self) -> bool:
        """Whether the server answered a transaction with replies, so that it watches nothing any more."""
        return self._transaction and len(self._answers) == self._owed and isinstance(self._of_batch()[-1], list)

    def _words(self) -> list[tuple[Any, ...]]:
        words = [args for args, _ in self._batch]
        behind = [args for args, _ in self._behind]
        return [("MULTI",), *words, ("EXEC",), *behind] if self._transaction else words + behind

    def _awaited(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return by which name and options redis-py's parse_response reads the answer to each command on the wire."""
        if self._transaction:
            return [(_UNPARSED, {})] * self._owed
        return [(args[0], options) for args, options in (*self._batch, *self._behind)]

    def _said(self, error: ResponseError) -> None:
        self._answers.append(answered(self.shard, error))

    def _fail(self, error: Exception) -> None:
        # A handshake may be answered with an error as well; it stands for all that was to be sent.
        said = isinstance(error, ResponseError)
        self._stands(answered(self.shard, error) if said else unanswered(self.shard, error, sent=self._sent))

    def _stands(self, error: BaseException) -> None:
        """Let an error stand in the place of each reply that is missing."""
        if not isinstance(error, Exception):
            raise error
        self._answers += [error] * (self._owed - len(self._answers))

    def _is_undecoded(self) -> bool:
        """Whether one of the commands wants its reply as bytes where the client decodes: then all are read so."""
        if self._transaction or not self._client.get_encoder().decode_responses:
            return False
        return any("NEVER_DECODE" in options for _, options in self._batch)

    def _decoded(self, replies: Sequence[Any]) -> list[Any]:
        encoder = self._client.get_encoder()
        return [
            reply if "NEVER_DECODE" in options else decoded(reply, encoder)
            for (_, options), reply in zip([*self._batch, *self._behind], replies, strict=False)
        ]

    def _parse(self, replies: Sequence[Any]) -> None:
        """Add what redis-py makes of replies that were read as they came."""
        if self._transaction:
            self._answers += [self._meant(reply) for reply in replies]
            return
        callbacks, known, append = self._client.response_callbacks, dict[Any, Any](), self._answers.append
        for (args, options), reply in zip([*self._batch, *self._behind], replies, strict=False):
            name = args[0]
            if name not in known:
                known[name] = callback_of(callbacks, name)
            if known[name] is None and type(reply) in PLAIN:  # what most are
                append(reply)
                continue
            self._called = True
            try:
                append(parsed(callbacks, args, options, reply))
            except ResponseError as error:
                self._said(error)

    def _meant(self, reply: Any) -> Any:
        if isinstance(reply, ResponseError):
            return answered(self.shard, reply)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _of_transaction(self, answers: Sequence[Any]) -> list[Any]:
        opened, *queued, outcome = answers
        if isinstance(outcome, ExecAbortError):
            return [answer if isinstance(answer, Exception) else outcome for answer in queued]
        if isinstance(opened, Exception) and opened is not outcome:
            why = f"it answered no to MULTI ({opened}), and may have carried out the commands one by one: grant it"
            outcome = StoreRefused(self.shard, why)
            outcome.__cause__ = opened
        if isinstance(outcome, Exception):
            return [outcome] * len(queued)
        if outcome is None:
            return [WatchError("Watched variable changed.")] * len(queued)
        return [self._parsed(command, reply) for command, reply in zip(self._batch, outcome, strict=True)]

    def _parsed(self, command: Command, reply: Any) -> Any:
        if isinstance(reply, ResponseError):
            return answered(self.shard, reply)
        if isinstance(reply, ConnectionError):  # as which redis-py counts a refused password
            return unanswered(self.shard, reply, sent=True)
        args, options = command
        callback = callback_of(self._client.response_callbacks, args[0])
        if callback is None:
            return reply
        self._called = True
        return called(callback, reply, options)
