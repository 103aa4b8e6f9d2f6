"""The queue of a pipeline, and which keys it watches: what both flavours' have in common, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from redis.exceptions import RedisError

from coordkit.errors import CrossShardError
from coordkit.routing.client.moment import Moment
from coordkit.routing.commands.key_router import named
from coordkit.routing.commands.plan import Plan
from coordkit.routing.commands.router import Router
from coordkit.routing.directory.modules import Modules
from coordkit.routing.ways.batch import Command

P = TypeVar("P")


class Queue(Modules, Generic[P]):
    """The commands that a pipeline will send. ``plan`` says what is done with one, and returns a Plan or awaits it."""

    _event_dispatcher: Any = None  # redis-py 7's mixins declare it, its own clients alone use it

    def __init__(
        self, shards: Moment[Any], router: Router, plan: Callable[..., P], *, transaction: bool = False
    ) -> None:
        self._shards = shards
        self._router = router
        self._plan = plan
        self.transaction = transaction
        self.explicit_transaction = False  # after `multi`
        self.command_stack: list[Command] = []
        self._watched: dict[Any, str] = {}  # keys and their shard, which is one

    def __len__(self) -> int:
        return len(self.command_stack)

    def __bool__(self) -> bool:
        return True  # as redis-py's, and not the truth of its length

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command; return the pipeline, so that calls can be chained."""
        self.command_stack.append((args, options))
        return self

    def multi(self) -> None:
        """Queue what comes after `watch` for one transaction, which `execute` sends."""
        if self.explicit_transaction:
            raise RedisError("Cannot issue nested calls to MULTI")
        if self.command_stack:
            raise RedisError("Commands without an initial WATCH have already been issued")
        self.explicit_transaction = True

    @property
    def watching(self) -> bool:
        """Whether keys are watched."""
        return bool(self._watched)

    def _to_watch(self, names: Sequence[Any]) -> str:
        """Return the shard of keys that are to be watched, and of those that are; take note of them."""
        if self.explicit_transaction:
            raise RedisError("Cannot issue a WATCH after a MULTI")
        if not names:
            raise ValueError("WATCH: no keys; at least one is allowed")
        keys = [*self._watched, *names]
        shard = self._router.one_shard("WATCH", keys)
        self._watched = dict.fromkeys(named(keys), shard)
        return shard

    def _check_watched(self, plan: Plan) -> None:
        """Raise CrossShardError if a command goes elsewhere than to the shard of the keys that are watched."""
        where = {**self._watched, **{name: part.shard for part in plan.parts for name in part.names}}
        if len(set(where.values())) > 1:
            said = ", ".join(f"{name!r} on {shard}" for name, shard in where.items())
            why = f"it is not on the shard of the keys that are watched: {said}. Send it through the client itself"
            raise CrossShardError(plan.command.replace("|", " "), why, shards=where)

    def _check_still_there(self) -> None:
        """Raise StoreUnavailable if what is watched is served elsewhere by now: no change there would end the WATCH."""

    def _forget(self) -> None:
        self.command_stack, self.explicit_transaction, self._watched = [], False, {}

    def get_encoder(self) -> Any:
        """Return the encoder of the clients, as redis.Redis does."""
        return self._shards.get_encoder()

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return what `ShardedRedis.get_connection_kwargs` does."""
        return self._shards.get_connection_kwargs()
