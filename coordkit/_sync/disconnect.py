"""Closing on purpose what is kept open for a client."""

from __future__ import annotations

from coordkit._sync.clients import RedisClient
from coordkit._sync.quorum import Quorum
from coordkit._threads.redis import disconnect as disconnect_store


def disconnect(client: RedisClient | Quorum) -> None:
    """Close the connections that coordkit keeps for a client, or for a quorum, and that nobody uses now.

    They are closed without it, too: each after 30 seconds without work, all of them with the client. This is for
    who wants that now, as before the client is closed. The client stays open, and nothing ends: leases are held and
    renewed on, whoever waits for a lock goes on waiting, and what is asked next connects anew. Of a
    ``ShardedRedis`` it closes those of locks and fences, of one that follows a topology those that listen for grants;
    its own ``close`` closes all others, with the clients.

    :raises TypeError: for what is no client of this flavour.
    """
    if isinstance(client, Quorum):
        client._panel.close()  # noqa: SLF001  one facade
    else:
        disconnect_store(client)
