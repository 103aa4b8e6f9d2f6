"""What primary and backup promise, in both flavours, on a real ZooKeeper."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from kazoo.exceptions import BadVersionError, ConnectionLoss

from coordkit._ports_zookeeper import Multi, SetData
from coordkit.core import in_sync, unfenced
from coordkit.core.views import Views
from coordkit.errors import CoordError, LeadershipLost, StoreRefused, StoreUnavailable
from coordkit.testing.faults import kill_session
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=["one", "three"])
def zk_servers(request: pytest.FixtureRequest) -> ZooKeeperEnsemble:
    return request.getfixturevalue("coordkit_zk_server" if request.param == "one" else "coordkit_zk_ensemble")


@pytest.fixture
def path(coordkit_namespace: str) -> str:
    return f"/{coordkit_namespace}/service"


class Node:
    """One process of a replicated service: it notes what it is asked to do, and goes on until it is told to end."""

    def __init__(self, flavour: Any, client: Any, path: str, name: str, story: list[Any], **options: Any) -> None:
        self.flavour = flavour
        self.client = client
        self.name = name
        self.story = story
        self.leave = False  # the primary's work
        self.deaf = False  # it works on although it lost
        self.slow = 0.0  # seconds that a backup takes to end
        self.fence_ends = True  # or stays in its fence until its session is over
        self.fence_fails = False
        self.follow_fails = False  # when it ends
        self.primary: Any = None
        self.roles = flavour.Roles(
            client,
            path,
            identity=name,
            on_primary=self._fit(self._lead),
            on_backup=self._fit(self._follow),
            on_fence=self._fit(self._fence),
            **options,
        )
        self.running: Any = None

    def _fit(self, work: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        return work if self.flavour.is_async else lambda *args: _finished(work(*args))

    def start(self) -> Node:
        async def run() -> Any:
            return await self.flavour.maybe(self.roles.run())

        self.running = self.flavour.spawn(run)
        return self

    async def end(self) -> Any:
        self.leave = True
        self.roles.stop()
        return await self.running.result()

    async def _lead(self, primary: Any) -> str:
        self.primary = primary
        self.story.append((self.name, "primary"))
        try:
            while not self.leave:
                if not self.deaf:
                    primary.ensure()
                await self.flavour.sleep(0.01)
        finally:
            self.story.append((self.name, "primary ended"))
        return f"{self.name} led"

    async def _follow(self, backup: Any) -> None:
        self.story.append((self.name, "follows", backup.primary.identity))
        try:
            while not backup.ended:
                await self.flavour.sleep(0.01)
        finally:
            if self.slow:
                await self.flavour.sleep(self.slow)
            self.story.append((self.name, "followed", backup.primary.identity))
            if self.follow_fails:
                raise OSError("the disk is full")

    async def _fence(self, before: Any, primary: Any) -> None:
        assert before.token < primary.token
        self.story.append((self.name, "fences", before.identity))
        if self.fence_fails:
            raise OSError("the device does not answer")
        while not self.fence_ends:
            primary.ensure()
            await self.flavour.sleep(0.01)

    def did(self, *what: str) -> Callable[[], bool]:
        return lambda: (self.name, *what) in self.story


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends: in the blocking flavour, sleeping blocks."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it suspended")


@pytest.fixture
def node(flavour: Any, zk_client: Any, path: str) -> Callable[..., Node]:
    story: list[Any] = []

    def make(name: str, **options: Any) -> Node:
        return Node(flavour, zk_client(), path, name, story, **options)

    return make


async def test_a_backup_follows_the_primary_and_takes_its_place(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b")
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))

    assert (a.roles.role, b.roles.role) == ("primary", "backup")
    assert await flavour.maybe(b.roles.primary()) == ("a", a.primary.token)
    assert await flavour.maybe(b.roles.backups()) == ["b"]
    b.slow = 0.1
    assert await a.end() == "a led"
    await flavour.until(b.did("primary"))

    assert b.primary.token > a.primary.token
    assert a.roles.role is None
    assert a.story[-4:] == [
        ("b", "follows", "a"),
        ("a", "primary ended"),
        ("b", "followed", "a"),
        ("b", "primary"),
    ], "the old primary's work ended first, then the backup's; and nobody was fenced, because a said that it had ended"
    assert await b.end() == "b led"


async def test_a_primary_that_lost_its_session_is_fenced_and_follows(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b")
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))

    kill_session(a.client)
    await flavour.until(b.did("primary"), 20)
    await flavour.until(a.did("follows", "b"), 20)

    told = [each for each in a.story if each[0] == "b"]
    assert told == [("b", "follows", "a"), ("b", "followed", "a"), ("b", "fences", "a"), ("b", "primary")]
    assert a.story.index(("a", "primary ended")) < a.story.index(("a", "follows", "b"))
    b.leave = True
    assert await b.running.result() == "b led"
    await flavour.until(lambda: a.story.count(("a", "primary")) == 2, 20)
    assert ("a", "fences", "b") not in a.story
    await a.end()


async def test_a_takeover_waits_before_it_fences(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b", takeover_delay=1.5)
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))

    began = time.monotonic()
    kill_session(a.client)
    a.leave = True
    await flavour.until(b.did("fences", "a"), 20)
    assert time.monotonic() - began >= 1.5
    await flavour.until(b.did("primary"), 20)
    await a.end()
    await b.end()


async def test_a_backup_that_does_not_end_is_told(flavour: Any, node: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It was elected, led nothing, and nothing said why."""
    a, b = node("a").start(), node("b")
    b.slow = 1.5
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))
    await a.end()
    await flavour.until(b.did("primary"))
    assert "b: the work of a backup for a has not ended" in caplog.text
    await b.end()


async def test_a_backup_that_was_refused_follows_again(
    flavour: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An access list was wrong for a moment: it followed nobody from then on, without a word."""
    a, b, c = node("a").start(), node("b"), node("c")
    await flavour.until(a.did("primary"))
    for each in (c, b):
        each.start()
        await flavour.until(each.did("follows", "a"))
    look, refused = Views._look, []

    async def looking(self: Views, deadline: float) -> Any:
        if self not in refused:
            refused.append(self)
            raise StoreRefused(self.name, "no right to read it")
        return await look(self, deadline)

    monkeypatch.setattr(Views, "_look", looking)
    await a.end()
    await flavour.until(c.did("primary"))
    await flavour.until(b.did("follows", "c"))
    assert len(refused) >= 2
    await b.end()
    await c.end()


async def test_a_backup_whose_work_fails_as_it_ends_does_not_lead(flavour: Any, node: Any) -> None:
    """It led for as long as it liked, and raised the error of its former role when that was over."""
    a, b = node("a").start(), node("b")
    b.follow_fails = True
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))
    await a.end()
    with pytest.raises(OSError, match="the disk is full"):
        await b.running.result()
    assert ("b", "primary") not in b.story
    assert await flavour.maybe(a.roles.primary()) is None


async def test_a_second_run_follows_the_same_primary_again(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b")
    await flavour.until(a.did("primary"))
    for _ in range(2):
        b.leave = False
        b.start()
        await flavour.until(b.did("follows", "a"))
        assert await b.end() is None
        b.story[:] = [each for each in b.story if each[0] == "a"]
    await a.end()


async def test_a_primary_that_is_lost_as_it_has_fenced_does_not_work(
    flavour: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under asyncio nothing would have cancelled it: it was told before it listened."""
    a, b, lost = node("a").start(), node("b"), []
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))
    clear = unfenced.clear

    async def losing(leadership: Any) -> None:
        await clear(leadership)
        if not lost:
            lost.append(leadership.token)
            leadership.lose("for the test")

    monkeypatch.setattr(unfenced, "clear", losing)
    a.leave = True
    kill_session(a.client)
    await flavour.until(b.did("primary"), 20)
    assert b.primary.token > lost[0]
    assert b.primary.ensure()
    with contextlib.suppress(LeadershipLost):  # its session may have ended first, or its work
        await a.end()
    await b.end()


async def test_what_was_said_of_who_is_in_sync_is_not_said_again_late(
    flavour: Any, node: Any, zk_client: Any, path: str
) -> None:
    """The first got no answer: a server that was cut off may hand it on after the next, and let in who is behind."""
    a, direct, held_back = node("a", policy="session").start(), zk_client(), []
    await flavour.until(a.did("primary"))
    wire = a.client._coordkit_wire
    submit = wire.submit

    def unanswered(request: Any, deliver: Any) -> Any:
        if not held_back and isinstance(request, Multi) and request.steps[-1].path == f"{path}/in_sync":
            held_back.append(request)
            result = a.client.handler.async_result()
            result.set_exception(ConnectionLoss())
            return result
        return submit(request, deliver)

    wire.submit = unanswered
    with pytest.raises(StoreUnavailable):
        await flavour.maybe(a.primary.set_in_sync({"a", "b"}))
    await flavour.maybe(a.primary.set_in_sync({"a"}))
    late = direct.transaction()
    for step in held_back[0].steps[:-1]:
        late.check(step.path, step.version)
    late.set_data(held_back[0].steps[-1].path, held_back[0].steps[-1].data, held_back[0].steps[-1].version)
    assert any(isinstance(each, BadVersionError) for each in late.commit())
    assert (await flavour.maybe(a.roles.in_sync())).identities == {"a"}
    direct.set(f"{path}/in_sync", in_sync.pack(["a", "c"], 1))  # by hand, in between
    await flavour.maybe(a.primary.set_in_sync({"a"}))
    assert (await flavour.maybe(a.roles.in_sync())).identities == {"a"}
    await a.end()


@pytest.mark.parametrize("how", ["raises", "waits", "crashes"])
async def test_the_duty_to_fence_passes_on(flavour: Any, node: Any, zk_client: Any, path: str, how: str) -> None:
    """b was to fence a and failed, or was lost before; c fenced nobody, or b alone, while a still worked."""
    a, b, c = node("a").start(), node("b", takeover_delay=30.0 if how == "waits" else 0.0), node("c")
    b.fence_fails, b.fence_ends = how == "raises", how != "crashes"
    watcher = zk_client()
    await flavour.until(a.did("primary"))
    for standing, each in enumerate((b, c), start=2):
        each.start()
        await flavour.until(each.did("follows", "a"))
        await flavour.until(lambda count=standing: len(watcher.get_children(f"{path}/candidates")) == count)
    a.deaf = True  # it still works, and does not look whether it may
    first = a.primary.token
    kill_session(a.client)

    if how == "raises":
        await flavour.until(b.did("fences", "a"))
        with pytest.raises(OSError, match="does not answer"):
            await b.running.result()
    else:
        await flavour.until(lambda: b.roles.role == "primary")
        await flavour.until(lambda: how == "waits" or b.did("fences", "a")())
        second = (await flavour.maybe(c.roles.primary())).token
        kill_session(b.client)
    await flavour.until(c.did("primary"), 20)
    told = [what for what in c.story if what[:2] == ("c", "fences")]
    expected = [("c", "fences", "a")] if how == "raises" else [("c", "fences", "a"), ("c", "fences", "b")]
    assert told == expected, "the oldest first"
    assert how == "raises" or first < second < c.primary.token
    left = watcher.get(f"{path}/unfenced")[0]
    assert unfenced.unpack(left) == [], "and it is done: nobody fences them again"
    a.deaf = False
    back = {"a"} if how == "raises" else {"a", "b"}
    while set(await flavour.maybe(c.roles.backups())) != back:  # its timeout is the test's
        await flavour.sleep(0.05)
    for each in (a, c) if how == "raises" else (a, b, c):
        await each.end()


async def test_only_who_is_in_sync_becomes_the_primary(flavour: Any, node: Any, zk_client: Any, path: str) -> None:
    a, b, c = node("a").start(), node("b"), node("c")
    await flavour.until(a.did("primary"))
    assert a.primary.in_sync is None
    assert await flavour.maybe(a.roles.in_sync()) is None
    await flavour.maybe(a.primary.set_in_sync(["a", "c"]))
    b.start()
    await flavour.until(b.did("follows", "a"))
    c.start()
    await flavour.until(c.did("follows", "a"))

    said = await flavour.maybe(b.roles.in_sync())
    assert (said.identities, said.token, said.notes) == ({"a", "c"}, a.primary.token, {"a": "", "c": ""})
    await flavour.until(lambda: zk_client().get_children(f"{path}/candidates")[1:])
    assert await flavour.maybe(a.roles.backups()) == ["c"], "b is not in sync, and does not stand"
    await a.end()
    await flavour.until(c.did("primary"))
    assert c.primary.in_sync == said
    await flavour.until(b.did("follows", "c"))

    await flavour.maybe(c.primary.set_in_sync({"b": "disk 7", "c": "disk 8"}))
    await flavour.until(lambda: flavour.maybe(c.roles.backups()))
    await c.end()
    await flavour.until(b.did("primary"))
    assert b.primary.in_sync.notes == {"b": "disk 7", "c": "disk 8"}
    with pytest.raises(TypeError, match="a note on one who is in sync must be a str, got 3"):
        await flavour.maybe(b.primary.set_in_sync({"b": 3}))
    await b.end()


async def test_who_falls_behind_while_it_stands_does_not_take_over(
    flavour: Any, node: Any, zk_client: Any, path: str
) -> None:
    a, b, c = node("a").start(), node("b"), node("c")
    await flavour.until(a.did("primary"))
    for each in (b, c):
        each.start()
        await flavour.until(lambda each=each: each.did("follows", "a")())
        await flavour.until(lambda each=each: _stands(flavour, a, each.name))

    await flavour.maybe(a.primary.set_in_sync({"a", "c"}))  # b is next in line
    await a.end()
    await flavour.until(c.did("primary"))
    assert ("b", "primary") not in a.story

    await b.end()
    await c.end()


async def test_who_falls_behind_in_the_moment_of_taking_over_does_not(
    flavour: Any, node: Any, zk_client: Any, path: str
) -> None:
    """Between its look at the set and its transaction, which must see the change."""
    a, b, direct, fallen = node("a").start(), node("b"), zk_client(), []
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(lambda: _stands(flavour, a, "b"))
    wire = b.roles._election._session().ensemble._wire
    submit = wire.submit

    def behind(request: Any, deliver: Any) -> Any:
        if isinstance(request, Multi) and any(isinstance(step, SetData) for step in request.steps) and not fallen:
            fallen.append(direct.set(f"{path}/in_sync", in_sync.pack(["a"], 1)))
        return submit(request, deliver)

    wire.submit = behind
    await a.end()
    await flavour.until(lambda: bool(fallen))
    await flavour.until(lambda: direct.get_children(f"{path}/candidates") == [])
    assert ("b", "primary") not in a.story

    direct.set(f"{path}/in_sync", in_sync.pack(["b"], 1))
    await flavour.until(b.did("primary"))
    await b.end()


async def _stands(flavour: Any, node: Node, name: str) -> bool:
    return name in await flavour.maybe(node.roles.backups())


async def test_who_was_a_primary_cannot_say_who_is_in_sync(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b")
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))
    late = a.primary
    await a.end()
    await flavour.until(b.did("primary"))

    with pytest.raises(LeadershipLost):
        await flavour.maybe(late.set_in_sync({"a"}))
    assert await flavour.maybe(b.roles.in_sync()) is None
    with pytest.raises(ValueError, match="in_sync must name at least one identity"):
        await flavour.maybe(b.primary.set_in_sync([]))
    await b.end()


async def test_a_set_that_nobody_can_read_admits_nobody(flavour: Any, node: Any, zk_client: Any, path: str) -> None:
    zk_client().create(f"{path}/in_sync", b"a, b", makepath=True)
    a = node("a").start()
    await flavour.sleep(0.3)
    assert a.story == []

    zk_client().set(f"{path}/in_sync", b"")  # an operator lets anybody stand
    await flavour.until(a.did("primary"))
    await a.end()


@pytest.mark.parametrize("part", ["on_primary", "on_backup", "on_fence"])
async def test_what_a_callback_raises_ends_the_run(
    flavour: Any, zk_client: Any, path: str, node: Any, part: str
) -> None:
    def wrong(*_: Any) -> Any:
        raise RuntimeError(f"{part} failed")

    async def awrong(*_: Any) -> Any:
        wrong()

    async def nothing(*_: Any) -> None: ...

    a = None
    if part != "on_primary":
        a = node("a").start()
        await flavour.until(a.did("primary"))
    doing: dict[str, Any] = {"on_primary": nothing if flavour.is_async else lambda *_: None}
    doing[part] = awrong if flavour.is_async else wrong
    roles = flavour.Roles(zk_client(), path, identity="b", **doing)

    async def run() -> Any:
        return await flavour.maybe(roles.run())

    running = flavour.spawn(run)
    if part == "on_fence":
        assert a is not None
        await flavour.until(lambda: _stands(flavour, a, "b"))
        kill_session(a.client)
    with pytest.raises(RuntimeError, match=f"{part} failed"):
        await running.result()

    assert roles.role is None
    if a is not None:
        await flavour.until(lambda: _gone(flavour, a))
        await a.end()


async def _gone(flavour: Any, node: Node) -> bool:
    return not await _stands(flavour, node, "b")


async def test_stopped_before_it_was_the_primary(flavour: Any, node: Any) -> None:
    a, b = node("a").start(), node("b")
    await flavour.until(a.did("primary"))
    b.start()
    await flavour.until(b.did("follows", "a"))

    assert await b.end() is None
    assert b.story[-1] == ("b", "followed", "a"), "its work had ended when run returned"
    assert await flavour.maybe(a.roles.backups()) == []
    await a.end()


async def test_one_role_at_a_time(flavour: Any, node: Any) -> None:
    a = node("a").start()
    await flavour.until(a.did("primary"))

    with pytest.raises(CoordError, match="a has its role already"):
        await flavour.maybe(a.roles.run())
    await a.end()


async def test_the_stream_shows_the_primaries(flavour: Any, node: Any) -> None:
    a = node("a").start()
    await flavour.until(a.did("primary"))
    async with flavour.within(a.roles.observe()) as views:
        view = await flavour.maybe(views.next(5))
        assert (view.leader, view.token, view.state) == ("a", a.primary.token, "leading")
        await a.end()
        view = await flavour.maybe(views.next(5))
        assert (view.leader, view.state) == (None, "resigned")


@pytest.mark.parametrize(
    ("argument", "value", "error", "said"),
    [
        ("takeover_delay", -1, ValueError, "takeover_delay must be 0 or more seconds"),
        ("takeover_delay", float("inf"), ValueError, "takeover_delay must be 0 or more seconds"),
        ("takeover_delay", "1", TypeError, "takeover_delay must be a number of seconds"),
        ("takeover_delay", True, TypeError, "takeover_delay must be a number of seconds"),
        ("on_primary", None, TypeError, "on_primary must be callable"),
        ("on_backup", 3, TypeError, "on_backup must be"),
        ("on_fence", 3, TypeError, "on_fence must be"),
        ("identity", "", ValueError, "identity must not be empty"),
        ("policy", "lax", ValueError, "policy must be"),
    ],
)
async def test_wrong_arguments(
    flavour: Any, zk_client: Any, path: str, argument: str, value: Any, error: type[Exception], said: str
) -> None:
    given = {"identity": "a", "on_primary": print} | {argument: value}
    with pytest.raises(error, match=said):
        flavour.Roles(zk_client(), path, **given)


async def test_the_blocking_flavour_refuses_what_nobody_would_await(flavour: Any, zk_client: Any, path: str) -> None:
    async def work(*_: Any) -> None: ...

    if flavour.is_async:
        assert flavour.Roles(zk_client(), path, identity="a", on_primary=work).role is None
        return
    for part in ("on_primary", "on_backup", "on_fence"):
        with pytest.raises(TypeError, match=f"{part} must be a plain function"):
            flavour.Roles(zk_client(), path, identity="a", **({"on_primary": print} | {part: work}))


def test_the_record() -> None:
    assert in_sync.unpack(in_sync.pack(["b", "a", "a"], 7)) == ({"a", "b"}, 7, {"a": "", "b": ""})
    assert in_sync.unpack(b"") is None
    for strange in (b"{}", b"[]", b"\xff", b'{"identities": 3}', b'{"identities": {"a": ""}}'):
        assert in_sync.unpack(strange) == (frozenset(), 0, {})
