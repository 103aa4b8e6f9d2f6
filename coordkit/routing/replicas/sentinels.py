"""The replicas that Sentinel knows of: how they are asked for, and how clients of them are made; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def address_of(client: Any, among: Sequence[str] = ()) -> str:
    """Return how a server is named in messages: its address, made different from those that it is ``among``."""
    pool = client.connection_pool
    kwargs = pool.connection_kwargs
    if service := getattr(pool, "service_name", None):
        address = f"{'master' if pool.is_master else 'a replica'} of {service}"
    elif "path" in kwargs:
        address = str(kwargs["path"])
    else:
        address = f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"
    number = sum(other.partition(" #")[0] == address for other in among)
    return f"{address} #{number + 1}" if number else address


class Followed:
    """A master of Sentinel whose replicas are followed, by its client (``sentinel.master_for``)."""

    def __init__(self, primary: Any) -> None:
        self._primary = primary
        self._pool = primary.connection_pool
        self._type = type(primary)
        self.service_name: str = self._pool.service_name

    def sentinels(self) -> Sequence[Any]:
        """Return the clients of the Sentinels; redis-py moves the one that answered last to the front."""
        return list(self._pool.sentinel_manager.sentinels)

    def filtered(self, known: Any) -> list[tuple[str, int]]:
        """Return the addresses of those that the Sentinel does not call down."""
        return [(str(host), int(port)) for host, port in self._pool.sentinel_manager.filter_slaves(known)]

    def client_at(self, address: tuple[str, int], module: Any) -> Any:
        """Return a client of one replica, by the master's options; ``module`` is redis or redis.asyncio."""
        kwargs = {name: value for name, value in self._pool.connection_kwargs.items() if name != "connection_pool"}
        secured = issubclass(self._pool.connection_class, module.SSLConnection)
        kind = module.SSLConnection if secured else module.Connection
        kwargs.update(host=address[0], port=address[1])
        made = self._type(connection_pool=module.ConnectionPool(connection_class=kind, **kwargs))
        made.response_callbacks = self._primary.response_callbacks  # those that are set later, too
        return made
