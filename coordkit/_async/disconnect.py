"""Closing on purpose what is kept open for a client."""

from __future__ import annotations

from coordkit._async.clients import RedisClient
from coordkit._async.quorum import Quorum
from coordkit._asyncio.redis import disconnect as disconnect_store


async def disconnect(client: RedisClient | Quorum) -> None:
    """Close the connections that coordkit keeps for a client, or for a quorum, and that nobody uses now.

    They are closed without it, too: each after 30 seconds without work, all with the client, and before their event
    loop ends. This is for who wants that now, as before the client is closed. The client stays open, and nothing
    ends: leases are held and renewed on, whoever waits for a lock goes on waiting, and what is asked next connects
    anew. It closes those of the running event loop. Of a ``ShardedRedis`` it closes those of locks and fences, of one
    that follows a topology those that listen for grants; its own ``aclose`` closes all others, with the clients.

    :raises TypeError: for what is no client of this flavour.
    """
    if isinstance(client, Quorum):
        await client._panel.close()  # noqa: SLF001  one facade
    else:
        await disconnect_store(client)
