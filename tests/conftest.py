"""What coordkit's own tests need beyond the fixtures of the plugin: tests written once, run in both flavours.

A contract test is an ``async def`` that asks for ``flavour``; it runs twice, over ``coordkit`` and ``coordkit.aio``:

    async def test_a_second_holder_is_refused(flavour, coordkit_redis_server, coordkit_namespace):
        client = flavour.redis(coordkit_redis_server.url)
        lock = flavour.Lock(client, f"{coordkit_namespace}:a", ttl=5)
        async with flavour.within(lock) as lease:
            assert await flavour.maybe(lock.try_acquire()) is None

In the blocking flavour the calls block and nothing suspends, so the body is driven by one ``send(None)``; under asyncio
it runs in ``asyncio.run``. What ``flavour`` made is closed at the end of the test, inside the same loop.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from deployed import KINDS, Deployed
from layouts import repeated
from programs import program  # noqa: F401  a fixture for all tests

from coordkit.testing.backends import Settings
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.servers import ZooKeeperEnsemble, scaled


class Running:
    """Work that was spawned; ``result`` waits for it."""

    def __init__(self, wait: Callable[[float], Any], done: Callable[[], bool]) -> None:
        self._wait = wait
        self.done = done

    async def result(self, timeout: float = 20.0) -> Any:
        """Return what it returned or raise what it raised; TimeoutError when it still runs after so long, scaled."""
        outcome = self._wait(scaled(timeout))
        return await outcome if inspect.isawaitable(outcome) else outcome


class Within:
    """``async with`` around a context manager of either flavour."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    async def __aenter__(self) -> Any:
        if hasattr(self._manager, "__aenter__"):
            return await self._manager.__aenter__()
        return self._manager.__enter__()

    async def __aexit__(self, *error: object) -> Any:
        if hasattr(self._manager, "__aexit__"):
            return await self._manager.__aexit__(*error)
        return self._manager.__exit__(*error)


class Each:
    """``async for`` over an iterable of either flavour."""

    def __init__(self, iterable: Any) -> None:
        self._is_async = hasattr(iterable, "__aiter__")
        self._iterator = aiter(iterable) if self._is_async else iter(iterable)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._is_async:
            return await anext(self._iterator)
        try:
            return next(self._iterator)
        except StopIteration:
            raise StopAsyncIteration from None


class Flavour:
    """One flavour of the library: its names as attributes (``flavour.Lock``), and how to wait and run side by side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._closing: list[Callable[[], Any]] = []
        self._running: list[Running] = []

    @property
    def is_async(self) -> bool:
        return self.name == "asyncio"

    @property
    def api(self) -> ModuleType:
        """The facade: ``coordkit`` or ``coordkit.aio``."""
        return importlib.import_module("coordkit.aio" if self.is_async else "coordkit")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return getattr(self.api, name)
        except AttributeError:
            return importlib.import_module(f"{self.api.__name__}.{name}")  # a submodule: flavour.zk

    def redis(self, url: str, **options: Any) -> Any:
        """Return a redis client of this flavour; it is closed at the end of the test."""
        if self.is_async:
            from redis.asyncio import Redis
        else:
            from redis import Redis  # type: ignore[assignment]  # one of two
        return self.closing(Redis.from_url(url, **options))

    def closing(self, client: Any) -> Any:
        """Have a redis client closed at the end of the test, and return it."""
        self.on_exit(getattr(client, "aclose", None) or client.close)  # aclose came with redis-py 5.0.1
        return client

    def on_exit(self, call: Callable[[], Any]) -> None:
        """Have something called, and awaited where it wants that, at the end of the test; the last one first."""
        self._closing.append(call)

    @staticmethod
    async def maybe(value: Any) -> Any:
        """Await what an asyncio call gave; hand on what a blocking call gave."""
        return await value if inspect.isawaitable(value) else value

    @staticmethod
    def within(manager: Any) -> Within:
        return Within(manager)

    @staticmethod
    def each(iterable: Any) -> Each:
        return Each(iterable)

    async def sleep(self, seconds: float) -> None:
        if self.is_async:
            await asyncio.sleep(seconds)
        else:
            time.sleep(seconds)  # noqa: ASYNC251 - in the blocking flavour there is no loop to block

    async def until(self, check: Callable[[], Any], timeout: float = 10.0) -> None:
        """Wait until ``check()`` (awaited where it wants that) is true; fail after ``timeout`` (scaled) seconds."""
        timeout = scaled(timeout)
        deadline = time.monotonic() + timeout
        while not await self.maybe(check()):
            if time.monotonic() >= deadline:
                pytest.fail(f"not so within {timeout} s: {_text(check)}")
            await self.sleep(0.005)

    async def renewed(self, lease: Any) -> None:
        """Wait until a lease was renewed in the background; raise what its ``ensure`` raises if it is lost instead."""
        left = lease.remaining()

        def more() -> bool:
            nonlocal left
            before, left = left, lease.remaining()
            lease.ensure()
            return bool(left > before)

        await self.until(more)

    def spawn(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Running:
        """Run an ``async def`` at the side: in a thread, or as a task."""
        running = self._task(work, args) if self.is_async else self._thread(work, args)
        self._running.append(running)
        return running

    async def gather(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines side by side to their ends; return the results in order, or raise the first error."""
        running = [self.spawn(lambda each=each: each) for each in work]
        outcomes = [await _outcome(each) for each in running]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    def run(self, body: Coroutine[Any, Any, Any]) -> None:
        """Run a test body in this flavour, and close what it made."""

        async def whole() -> None:
            try:
                await body
            except BaseException:
                with suppress(Exception):  # what the test never came to end would hide why it failed
                    await self._close(within=1.0)
                raise
            await self._close()

        if self.is_async:
            asyncio.run(whole())
        else:
            drive(whole())

    async def _close(self, within: float = 20.0) -> None:
        for running in self._running:
            await _outcome(running, within)
        while self._closing:
            await self.maybe(self._closing.pop()())

    def _thread(self, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> Running:
        outcome: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((drive(work(*args)), None))
            except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
                outcome.append((None, error))

        thread = threading.Thread(target=run, name="spawned", daemon=True)
        thread.start()

        def wait(timeout: float) -> Any:
            thread.join(timeout)
            if not outcome:
                raise TimeoutError(f"the spawned work still runs after {timeout} s")
            value, error = outcome[0]
            if error is not None:
                raise error
            return value

        return Running(wait, lambda: not thread.is_alive())

    def _task(self, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> Running:
        task = asyncio.get_running_loop().create_task(work(*args))

        async def wait(timeout: float) -> Any:
            done, _ = await asyncio.wait({task}, timeout=timeout)
            if not done:
                raise TimeoutError(f"the spawned work still runs after {timeout} s")
            return task.result()

        return Running(wait, task.done)


def _text(check: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(check).strip()
    except (OSError, TypeError):
        return repr(check)


async def _outcome(running: Running, within: float = 20.0) -> Any:
    try:
        return await running.result(within)
    except Exception as error:  # noqa: BLE001 - the caller decides what to do with it
        return error


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Carry a coroutine that never suspends to its return."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError(f"{coroutine.__qualname__} awaited {awaited!r} in the blocking flavour")


@pytest.fixture(params=["blocking", "asyncio"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Give the flavour of the library that the test runs in."""
    return Flavour(request.param)


@pytest.fixture
def maybe() -> Callable[[Any], Awaitable[Any]]:
    """Give ``maybe``: await what an asyncio call gave, hand on what a blocking call gave."""
    return Flavour.maybe


def deployed(request: pytest.FixtureRequest, flavour: Flavour) -> Deployed:
    """Return the deployment that is the parameter of the fixture that asks."""
    name = "server" if request.param == "standalone" else request.param
    return Deployed(flavour, request.param, request.getfixturevalue(f"coordkit_redis_{name}"))


@pytest.fixture(params=KINDS)
def deployment(request: pytest.FixtureRequest, flavour: Flavour) -> Deployed:
    """Give Redis as it is deployed, one of ``KINDS``, with clients of the flavour."""
    return deployed(request, flavour)


@pytest.fixture
def admin(deployment: Deployed) -> Iterator[Any]:
    """Give a blocking client of the deployment, to look at keys with, whatever the flavour of the test."""
    blocking = Flavour("blocking")
    yield Deployed(blocking, deployment.kind, deployment.servers).redis()
    drive(blocking._close())


@pytest.fixture
def zk_servers(coordkit_zk_server: ZooKeeperEnsemble) -> ZooKeeperEnsemble:
    """Give what ``zk_client`` connects to; a test file that gives another one says so."""
    return coordkit_zk_server


@pytest.fixture
def zk_client(zk_servers: ZooKeeperEnsemble) -> Iterator[Callable[..., Any]]:
    """Give a way to make started KazooClients, each with a session of its own."""
    made: list[Any] = []

    def make(timeout: float = 4.0, hosts: str = "") -> Any:
        made.append(start_kazoo(hosts or zk_servers.hosts, timeout))
        return made[-1]

    yield make
    for each in made:
        close_kazoo(each)


@pytest.fixture(autouse=True)
def only_on_servers_of_ours(request: pytest.FixtureRequest) -> None:
    """Keep away from named servers what empties whole databases: a topology has them to itself."""
    if request.node.get_closest_marker("empties_servers"):
        named = Settings.read(request.config.getoption, os.environ, request.config.getini).redis_url
        if named:
            pytest.skip(f"it empties whole databases, and {named} is not ours to empty")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--layouts", choices=("all", "once"), default="all", help="see tests/layouts.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("layouts") == "once":
        dropped = repeated(items)
        config.hook.pytest_deselected(items=[*dropped])
        items[:] = [item for item in items if item not in dropped]


def pytest_configure() -> None:
    # A shell starts its background jobs with Ctrl-C ignored, and children inherit that: tests that interrupt a process
    # must not depend on how the suite was started.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test in its flavour, or under asyncio when it asks for none."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    pyfuncitem.funcargs.get("flavour", Flavour("asyncio")).run(pyfuncitem.obj(**arguments))
    return True
