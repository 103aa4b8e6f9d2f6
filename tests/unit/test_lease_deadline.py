"""A lease that was over is over: a renewal that is answered too late does not bring it back.

The timer that announces the end may come late on a busy machine; W6 found leases that were over for a moment.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from coordkit._run import run
from coordkit._threads.runtime import RUNTIME
from coordkit.core.lease import Lease, Terms
from coordkit.errors import LeaseLost


def lease(ttl: float) -> Lease:
    keeper = SimpleNamespace(give_back=lambda *_, **__: None, renew=lambda _: None)
    grantor: Any = SimpleNamespace(name="a", keeper=keeper)
    return Lease(Terms(RUNTIME, grantor, ttl), "me", 1, RUNTIME.now())


def test_an_answer_that_comes_after_the_deadline_renews_nothing() -> None:
    held = lease(0.05)
    assert held._timer is not None
    held._timer.cancel()  # it comes late
    while held.remaining() > 0:
        time.sleep(0.001)
    with pytest.raises(LeaseLost):
        held.ensure()
    held.renewed(RUNTIME.now(), 10.0)
    assert held.remaining() == 0
    held.over()
    assert run(held.lost.wait(5))


def test_an_answer_that_comes_in_time_renews() -> None:
    held = lease(10.0)
    held.renewed(RUNTIME.now(), 60.0)
    assert held.remaining() > 50
    assert held._timer is not None
    held._timer.cancel()
