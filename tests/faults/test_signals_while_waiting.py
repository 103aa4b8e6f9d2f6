"""A process with a periodic signal, and a server that hangs: a call still returns after the client's own timeout."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from coordkit import StoreUnavailable
from coordkit._threads.runtime import now

PATIENCE = 1.0  # seconds that the client waits for an answer
HANG = 8.0


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """Send the main thread a signal every tenth of a second; give those that came."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    main, enough = threading.main_thread().ident, threading.Event()

    def send() -> None:
        while not enough.wait(0.1):
            signal.pthread_kill(main or 0, signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    yield came
    enough.set()
    sender.join()
    signal.signal(signal.SIGUSR1, before)


async def test_a_read_that_is_interrupted_does_not_begin_to_wait_anew(
    flavour: Any,
    maybe: Any,
    signals: list[int],
    coordkit_redis_server: Any,
    coordkit_faults: Any,
    coordkit_namespace: str,
) -> None:
    lock = flavour.Lock(flavour.redis(coordkit_redis_server.url, socket_timeout=PATIENCE), coordkit_namespace, ttl=10)
    async with flavour.within(lock):
        pass
    coordkit_faults.pause(coordkit_redis_server)
    end = threading.Timer(HANG, coordkit_faults.resume, [coordkit_redis_server])
    end.start()
    began = now()
    with pytest.raises(StoreUnavailable):
        await maybe(lock.try_acquire())
    assert now() - began < HANG / 2
    assert len(signals) > 3  # else this shows nothing
    end.cancel()
    end.join()
