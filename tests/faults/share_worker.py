"""A process that works on its share, and says so at the resource: run by test_share.py.

Each access carries the token; the resource (a script in Redis) refuses one that is lower than the highest that it has
seen for the partition, and writes down what it did: "key token who what accepted".
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from typing import Any

from kazoo.client import KazooClient
from redis import Redis

ACCESS = """
local high = redis.call('GET', KEYS[1] .. ':' .. ARGV[1]) or ''
local ok = ARGV[2] >= high and 'yes' or 'no'
if ok == 'yes' then redis.call('SET', KEYS[1] .. ':' .. ARGV[1], ARGV[2]) end
redis.call('RPUSH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ok)
"""


def main(flavour: str, hosts: str, url: str, path: str, who: str, keys: str, timeout: str) -> None:
    zk = KazooClient(hosts=hosts, timeout=float(timeout))
    zk.start(30)
    redis = Redis.from_url(url)

    def access(partition: Any, what: str) -> None:
        redis.eval(ACCESS, 1, path, partition.key, f"{int(partition.token):020d}", who, what)

    def serve(partition: Any) -> None:
        access(partition, "begin")
        while not partition.ending:
            access(partition, "act")
            time.sleep(0.005)
        access(partition, "end")

    async def serve_async(partition: Any) -> None:
        access(partition, "begin")
        try:
            while True:
                access(partition, "act")
                await asyncio.sleep(0.005)
        finally:
            access(partition, "end")

    def blocking() -> None:
        from coordkit import Group

        share = Group(zk, path).share(who, keys.split(","))
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=share.stop).start())
        share.run(serve)

    async def awaited() -> None:
        from coordkit.aio import Group

        share = Group(zk, path).share(who, keys.split(","))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, share.stop)
        await share.run(serve_async)

    if flavour == "blocking":
        blocking()
    else:
        asyncio.run(awaited())
    zk.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
