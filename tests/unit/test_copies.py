"""A grant with fewer copies than were asked for is none, whatever the server can say (its WAITAOF is of Redis 7.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordkit._ports import Confirm
from coordkit._run import run
from coordkit.core.grantor import Granted, Refused
from coordkit.core.lock import Mutex
from coordkit.errors import StoreUnavailable


class Copied:
    """A server that says what a test has written down: the reply, on how many disks and replicas it is."""

    def __init__(self, reply: Any, disks: int, copies: int) -> None:
        self._said = reply, disks, copies

    def inbox(self) -> None:
        return None

    async def run_confirmed(self, *_: Any) -> Any:
        return self._said


def mutex(reply: Any, disks: int, copies: int, confirm: Confirm) -> Mutex:
    store: Any = Copied(reply, disks, copies)
    return Mutex(store, None, "job", confirm)  # type: ignore[arg-type]  # nothing is given back here


BOTH = Confirm(replicas=2, fsync=True, within=1.0)
GRANTED = [1, b"7"]


@pytest.mark.parametrize(
    ("disks", "copies", "why"),
    [
        (0, 2, "granted, but the disk had it not after 1.00 s"),
        (1, 1, "granted, but 1 of 2 replicas had it after 1.00 s"),
        (0, 0, "granted, but 0 of 2 replicas had it and the disk had it not after 1.00 s"),
    ],
)
def test_a_grant_that_lacks_a_copy_is_none(disks: int, copies: int, why: str) -> None:
    lock = mutex(GRANTED, disks, copies, BOTH)
    asks: list[Callable[[], Any]] = [lambda: lock.grant("a", 10), lambda: lock.adopt("b", "a", 10)]
    for ask in asks:
        with pytest.raises(StoreUnavailable) as lacking:
            run(ask())
        assert why in str(lacking.value)


def test_a_grant_with_all_its_copies_stands_and_a_refusal_needs_none() -> None:
    lock = mutex(GRANTED, 1, 2, BOTH)
    assert run(lock.grant("a", 10)) == Granted(7)
    assert run(lock.adopt("b", "a", 10)) == 7
    assert run(mutex(GRANTED, 0, 3, Confirm(replicas=2, fsync=False, within=1.0)).grant("a", 10)) == Granted(7)
    assert run(mutex([0, b"b", 500], 0, 0, BOTH).grant("a", 10)) == Refused("b", 0.5)
    assert run(mutex([0], 0, 0, BOTH).adopt("b", "a", 10)) is None
