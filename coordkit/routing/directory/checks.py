"""What the clients of a sharded client must be, and what they have in common; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordkit.routing.placement.placement import Placement


def named_kind(kind: type[Any]) -> str:
    return "redis.asyncio.Redis" if ".asyncio" in kind.__module__ else "redis.Redis"


def check_placement(placement: Any, shards: Mapping[str, Any], weights: Any) -> None:
    if not isinstance(placement, Placement):
        raise TypeError(f"placement={placement!r}; a Placement, as coordkit.routing makes them, is allowed")
    if weights is not None:
        raise ValueError(f"weights={weights!r} beside a placement; it has weights of its own, None is allowed")
    if set(placement.shards) != set(shards):
        raise ValueError(
            f"placement has the shards {sorted(placement.shards)!r} and shards the names {sorted(shards)!r}; the same "
            "are allowed"
        )


def check_clients(shards: Mapping[str, Any], kind: type[Any], other: tuple[type[Any], ...]) -> None:
    seen: dict[int, str] = {}
    ways: dict[tuple[Any, ...], str] = {}
    for name, client in shards.items():
        if not isinstance(client, kind) or isinstance(client, other):
            found = (
                f"a {type(client).__name__}" if isinstance(client, str | bytes) else repr(client)
            )  # a URL's password
            raise TypeError(f"{name}={found}; a {named_kind(kind)} client is allowed")
        for method in ("execute_command", "parse_response"):
            if has_its_own(client, kind, method):
                raise TypeError(
                    f"{name}={client!r} overrides {method}, which splits and pipelines would bypass; "
                    f"a {named_kind(kind)} client with redis-py's own {method} is allowed"
                )
        first = seen.setdefault(id(client.connection_pool), name)
        if first != name:
            raise ValueError(f"{name} and {first} are one client; each server has its own")
        ways.setdefault(terms_of(client), name)
    if len(ways) > 1:
        (one, a), (two, b) = list(ways.items())[:2]
        raise ValueError(
            f"{a} has (encoding, encoding_errors, decode_responses, protocol)={one!r} and {b} has {two!r}; the same "
            "for all is allowed"
        )


def terms_of(client: Any) -> tuple[Any, ...]:
    encoder = client.get_encoder()
    protocol = str(client.connection_pool.connection_kwargs.get("protocol"))
    return encoder.encoding, encoder.encoding_errors, bool(encoder.decode_responses), protocol


def has_its_own(client: Any, kind: type[Any], method: str) -> bool:
    # By the class that defines it and not by the function: tracing wraps redis-py's own in place, which is no override.
    home = next(part for part in type(client).__mro__ if method in vars(part))
    return method in vars(client) or home not in kind.__mro__
