"""Clients of the pytest fixtures, and what they delete: one namespace, never a whole server."""

from __future__ import annotations

from typing import Any

from coordkit.testing.servers import ServerFailed, scaled, wait_until

__all__ = ["close_kazoo", "close_redis", "delete_keys", "delete_tree", "make_tree", "start_kazoo"]


def delete_keys(url: str, namespace: str) -> int:
    """Delete every key that contains the namespace (``ns:key`` and ``coordkit:1:{ns:name}:lock``); return how many."""
    import redis  # here and below: loading the plugin stays light

    client = redis.Redis.from_url(url, socket_timeout=30.0, socket_connect_timeout=10.0)
    try:
        keys = list(client.scan_iter(match=f"*{namespace}*", count=1000))
        for start in range(0, len(keys), 500):
            client.delete(*keys[start : start + 500])
        return len(keys)
    finally:
        close_redis(client)


def close_redis(client: Any) -> None:
    """Close a redis client and its connections: redis-py 5.0.0 leaves those of ``from_url`` open in ``close``."""
    client.close()
    client.connection_pool.disconnect()


def make_tree(hosts: str, namespace: str) -> None:
    """Create ``/namespace``."""
    client = start_kazoo(hosts, 10.0)
    try:
        client.ensure_path(f"/{namespace}")
    finally:
        close_kazoo(client)


def delete_tree(hosts: str, namespace: str) -> None:
    """Delete ``/namespace`` and all below it, also while sessions that are ending still add to it for a moment."""
    from kazoo.exceptions import NotEmptyError

    client = start_kazoo(hosts, 10.0)

    def gone() -> bool:
        try:
            if client.exists(f"/{namespace}"):
                client.delete(f"/{namespace}", recursive=True)
        except NotEmptyError:
            return False
        return True

    try:
        if not wait_until(gone, scaled(10.0), 0.05):
            raise ServerFailed(f"/{namespace} cannot be deleted: somebody keeps adding to it")
    finally:
        close_kazoo(client)


def start_kazoo(hosts: str, timeout: float) -> Any:
    """Return a started KazooClient with a session timeout of so many seconds; a chroot in ``hosts`` must exist."""
    from kazoo.client import KazooClient

    client = KazooClient(hosts=hosts, timeout=timeout)
    patience: Any = scaled(20.0)  # kazoo says int, and takes a float
    try:
        client.start(timeout=patience)
    except BaseException:
        close_kazoo(client)
        raise
    return client


def close_kazoo(client: Any) -> None:
    """Stop and close a KazooClient, in whatever state the test left it."""
    client.stop()
    client.close()
