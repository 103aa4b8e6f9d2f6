"""Requests to a Redis Cluster: sent once, followed where the keys go, and no affair of what others do with the client.

redis-py's own Cluster client sends again what it got no answer to, and, under asyncio, closes connections that others
use when it looks at the nodes anew: a release that was carried out came back as a lost lease, or as no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from coordkit import LeaseLost, StoreUnavailable
from coordkit.core import waiting as core_waiting
from coordkit.routing.placement.slots import slot_of
from coordkit.testing.deployments import tell
from coordkit.testing.servers import ServerFailed

# What is given back in the background may open connections again after a test has closed its clients.
CLUSTER = pytest.param("cluster", marks=pytest.mark.filterwarnings("ignore::ResourceWarning"))
pytestmark = pytest.mark.parametrize("deployment", [CLUSTER], indirect=True)

KINDS = ("lock", "read and write", "permits", "several")
PATIENCE = 3.0


@pytest.fixture
def proxied(deployment: Any, coordkit_faults: Any) -> Any:
    """Give a client that reaches each node through a proxy, and the proxies by the nodes' ports."""
    proxies = {node.port: coordkit_faults.proxy(node) for node in deployment.servers.nodes}

    def remapped(address: tuple[str, int]) -> tuple[str, int]:
        return proxies[int(address[1])].host, proxies[int(address[1])].port

    client = deployment.redis(address_remap=remapped, socket_timeout=PATIENCE)
    return client, proxies


@pytest.fixture
def _claims_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no claim end because the machine is busy, or the slot is on its way: whoever is told of a loss is wronged."""
    monkeypatch.setattr(core_waiting, "CLAIM", 15.0)


def proxy_of(proxies: Any, deployment: Any, name: str) -> Any:
    return proxies[deployment.servers.primary_for(f"{{{name}}}").port]


@pytest.mark.parametrize("waiter", [False, True], ids=["alone", "handed on"])
async def test_a_release_whose_answer_is_lost_is_no_loss(
    flavour: Any, maybe: Any, deployment: Any, proxied: Any, coordkit_namespace: str, waiter: bool
) -> None:
    """It was carried out; sent again, it finds nothing, or another's lock. Only who knows of both can tell."""
    client, proxies = proxied
    name = f"{coordkit_namespace}:job"
    lock, other = flavour.Lock(client, name, ttl=60), flavour.Lock(deployment.redis(), name, ttl=60)
    lease = await maybe(lock.acquire(timeout=20))
    running = None
    if waiter:
        running = flavour.spawn(lambda: maybe(other.acquire(timeout=20)))
        await flavour.until(lambda: tell(deployment.servers.primary_for(lock.key), "ZCARD", f"{lock.key[:-4]}queue"))
    proxy = proxy_of(proxies, deployment, name)
    proxy.drop_reply_matching(b":1")
    assert await maybe(lease.release()) is True
    assert proxy.hits
    got = await (running.result() if running is not None else maybe(other.acquire(timeout=20)))
    assert got.token > lease.token
    assert await maybe(got.release()) is True


async def test_what_may_have_been_carried_out_is_sent_once(
    flavour: Any, maybe: Any, deployment: Any, proxied: Any, coordkit_namespace: str
) -> None:
    """A user's own script under a fence may not stand being run twice."""
    client, proxies = proxied
    fence = flavour.Fence(client, coordkit_namespace)
    key = f"{{{coordkit_namespace}}}:count"
    await maybe(fence.claim(token=7))
    add = "return {'added', redis.call('INCR', KEYS[1])}"
    assert await maybe(fence.run(add, keys=[key], token=7)) == [b"added", 1]
    proxy_of(proxies, deployment, coordkit_namespace).drop_reply_matching(b"added")
    with pytest.raises(StoreUnavailable):
        await maybe(fence.run(add, keys=[key], token=7))
    assert await maybe(fence.run(add, keys=[key], token=7)) == [b"added", 3]


async def test_the_client_itself_is_asked_for_nothing(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no node says that its map is old, or is silent."""
    client = deployment.redis()
    await maybe(client.ping())  # connect
    asked: list[Any] = []
    real = type(client).execute_command

    def counting(self: Any, *words: Any, **options: Any) -> Any:
        asked.append(words)
        return real(self, *words, **options)

    async def counting_too(self: Any, *words: Any, **options: Any) -> Any:
        return await counting(self, *words, **options)

    monkeypatch.setattr(type(client), "execute_command", counting_too if flavour.is_async else counting)
    for kind in KINDS:
        await Contest(flavour, client, kind, f"{coordkit_namespace}:{kind}").run(lambda: flavour.sleep(0))
    fence = flavour.Fence(client, coordkit_namespace)
    await maybe(fence.claim(token=7))
    copied = flavour.Lock(client, f"{coordkit_namespace}:copied", ttl=30, min_replicas=1)
    async with flavour.within(copied):
        pass
    assert not asked


async def test_keys_are_followed_to_a_node_that_the_client_does_not_know(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str
) -> None:
    """ASK names one that has no slot yet; it does not know the scripts, either."""
    client = deployment.redis()
    lock = flavour.Lock(client, f"{coordkit_namespace}:job", ttl=60)
    lease = await maybe(lock.acquire(timeout=20))
    home = deployment.servers.primary_for(lock.key)
    target = next(node for node in deployment.servers.primaries() if node is not home)
    tell(target, "SCRIPT", "FLUSH")
    with deployment.servers.moving(slot_of(lock.key), target):
        client.nodes_manager.nodes_cache.pop(f"{target.host}:{target.port}")
        await maybe(lease.renew())
    assert await maybe(lease.release()) is True
    deployment.servers.move_slot(slot_of(lock.key), to=home)


@pytest.mark.usefixtures("_claims_last")
@pytest.mark.parametrize("kind", KINDS)
async def test_contenders_while_slots_move(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, kind: str
) -> None:
    """Nobody is told of a loss, or of no answer; one holds at a time, and tokens rise."""
    key = f"{{{coordkit_namespace}:job}}"
    home = deployment.servers.primary_for(key)
    away = next(node for node in deployment.servers.primaries() if node is not home)
    contest = Contest(flavour, deployment.redis(), kind, coordkit_namespace)

    async def move() -> None:
        for to in (away, home, away, home):
            await flavour.until(contest.gone_on(20))
            await off_the_loop(flavour, deployment.servers.move_slot, slot_of(key), to)

    await contest.run(move)


@pytest.mark.parametrize("kind", ["lock", "permits"])
async def test_contenders_during_a_failover_in_order(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, kind: str
) -> None:
    """The primary stops to write meanwhile, 5 s if it comes to nothing: claims may end, and are then known to have."""
    deployment.servers.wait_ready()
    key = f"{{{coordkit_namespace}:job}}"
    contest = Contest(flavour, deployment.redis(socket_timeout=20), kind, coordkit_namespace, losing=True)

    async def fail_over() -> None:
        await flavour.until(contest.gone_on(20))
        with contextlib.suppress(ServerFailed):  # redis-server gives up at times: then this is a pause only
            await off_the_loop(flavour, lambda: deployment.servers.failover(deployment.servers.primary_for(key), 8))

    await contest.run(fail_over)
    deployment.servers.wait_ready()


@pytest.mark.usefixtures("_claims_last")
@pytest.mark.parametrize("kind", KINDS)
async def test_contenders_whose_client_closes_its_connections(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, kind: str
) -> None:
    """As it does, under whoever uses them, when another task's request goes wrong: ours are our own."""
    client = deployment.redis()
    contest = Contest(flavour, client, kind, coordkit_namespace)

    async def look_anew() -> None:
        for _ in range(8):
            await flavour.until(contest.gone_on(4))
            if flavour.is_async:
                await client.aclose()
                await client.initialize()
            else:
                client.nodes_manager.initialize()

    await contest.run(look_anew)


@pytest.mark.parametrize("kind", ["lock", "write", "permits"])
async def test_who_listens_elsewhere_hears_of_no_grant_that_is_not_made(
    flavour: Any, maybe: Any, deployment: Any, coordkit_namespace: str, kind: str
) -> None:
    """A plain channel stays where its slot was; what is told goes to all nodes, and is counted at one."""
    name = f"{coordkit_namespace}:job"
    for server in deployment.servers.nodes:
        rights = ("reset", "on", ">secret", "~*", "&*", "+@all", "-ssubscribe")
        tell(server, "ACL", "SETUSER", coordkit_namespace, *rights)

    def made(**options: Any) -> Any:
        client = deployment.redis(**options)
        if kind == "permits":
            return flavour.Semaphore(client, name, permits=1, ttl=4)
        return flavour.Lock(client, name, ttl=4) if kind == "lock" else flavour.ReadWriteLock(client, name, ttl=4).write

    held = await maybe(made().acquire(timeout=20))
    running = flavour.spawn(lambda: maybe(made(username=coordkit_namespace, password="secret").acquire(timeout=20)))
    home = deployment.servers.primary_for(f"{{{name}}}")
    away = next(node for node in deployment.servers.primaries() if node is not home)
    queue = {"lock": "queue", "write": "rw:queue", "permits": "semaphore:queue"}[kind]
    await flavour.until(lambda: tell(home, "ZCARD", f"coordkit:1:{{{name}}}:{queue}"))
    await off_the_loop(flavour, deployment.servers.move_slot, slot_of(name), away)
    assert await maybe(held.release()) is True
    lease = await running.result()
    assert lease.token > held.token
    assert await maybe(lease.release()) is True
    await off_the_loop(flavour, deployment.servers.move_slot, slot_of(name), home)
    for server in deployment.servers.nodes:
        tell(server, "ACL", "DELUSER", coordkit_namespace)


async def off_the_loop(flavour: Any, work: Any, *args: Any) -> None:
    if flavour.is_async:
        await asyncio.to_thread(work, *args)
    else:
        work(*args)


class Contest:
    """Six contenders for one thing, all of one client, until what happens meanwhile is over."""

    def __init__(self, flavour: Any, client: Any, kind: str, namespace: str, *, losing: bool = False) -> None:
        name = f"{namespace}:job"
        self.losing = (LeaseLost,) if losing else ()
        self.flavour = flavour
        self.kind = kind
        if kind == "permits":
            self.things = [flavour.Semaphore(client, name, permits=1, ttl=30)] * 6
        elif kind == "several":
            self.things = [flavour.MultiLock(client, [name, f"{namespace}:other"], ttl=30)] * 6
        elif kind == "lock":
            self.things = [flavour.Lock(client, name, ttl=30)] * 6
        else:
            both = flavour.ReadWriteLock(client, name, ttl=30)
            self.things = [both.write, both.read] * 3
        self.done = 0
        self.last = 0
        self.inside: dict[Any, str] = {}
        self.over = False

    def gone_on(self, rounds: int) -> Any:
        """Return what says whether so many more were served since."""
        goal = self.done + rounds
        return lambda: self.done >= goal or self.over

    async def run(self, meanwhile: Any) -> None:
        async def disturb() -> None:
            try:
                await meanwhile()
                await self.flavour.until(self.gone_on(20))
            finally:
                self.over = True

        await self.flavour.gather(disturb(), *(self._contend(nth) for nth in range(6)))

    async def _contend(self, nth: int) -> None:
        try:
            while not self.over:
                with contextlib.suppress(*self.losing):
                    await self._serve(nth)
                self.done += 1
        finally:
            self.over = True  # the others need not go on if one has failed

    async def _serve(self, nth: int) -> None:
        mine = "read" if self.kind == "read and write" and nth % 2 else "alone"
        async with self.flavour.within(self.things[nth].hold(timeout=30)) as lease:
            # Whoever was told of a loss has left, or is about to.
            others = [mode for one, mode in list(self.inside.items()) if one.remaining() > 0]
            assert not others or {mine, *others} == {"read"}
            if mine == "alone":
                token = max(lease.tokens.values()) if self.kind == "several" else lease.token
                assert token > self.last
                self.last = token
            self.inside[lease] = mine
            try:
                await self.flavour.sleep(0.002)
            finally:
                del self.inside[lease]
