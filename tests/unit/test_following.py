"""Whom a backup follows: the latest primary that it knows of, and nobody from before its own term."""

from __future__ import annotations

import time
from collections.abc import Callable

from conftest import drive

from coordkit._threads.runtime import RUNTIME
from coordkit.core.following import Follower, Following
from coordkit.core.records import Leader
from coordkit.core.token import Token
from coordkit.testing.servers import scaled


class Backup:
    """A follower, and whom it followed."""

    def __init__(self) -> None:
        self.followed: list[str] = []
        self.present: Following | None = None
        self.follower = Follower(RUNTIME, "me", self._work, self._failed)

    async def _work(self, following: Following) -> None:
        self.followed.append(following.leader.identity)
        self.present = following
        await following.ended.wait(scaled(20))

    def _failed(self, error: BaseException) -> None:
        raise AssertionError from error

    def hears(self, identity: str, number: int) -> None:
        self.follower.follow(Leader(identity, Token(number, f"{identity}:{number}")))

    def until(self, *followed: str) -> None:
        end = time.monotonic() + scaled(10)
        while self.followed != list(followed):
            assert time.monotonic() < end, self.followed
            time.sleep(0.001)

    def end(self) -> None:
        drive(self.follower.halt())


def following(tell: Callable[[Backup], None]) -> list[str]:
    """Return who was followed, c being the last, when all has been told."""
    backup = Backup()
    tell(backup)
    before = list(backup.followed)
    backup.hears("c", 100)
    end = time.monotonic() + scaled(10)
    while backup.followed[-1:] != ["c"]:
        assert time.monotonic() < end, (before, backup.followed)
        time.sleep(0.001)
    backup.end()
    return backup.followed


def test_nobody_from_before_our_own_term_is_followed_after_it() -> None:
    """A backup that was elected before it had begun to follow went back to that primary once its own term was over."""

    def tell(backup: Backup) -> None:
        drive(backup.follower.halt())  # it is about to lead
        backup.hears("a", 1)
        backup.follower.led(Token(2, "me:2"))
        backup.hears("a", 1)  # by a server that is late
        backup.follower.resume()
        time.sleep(0.1)  # long enough for what must not come

    assert following(tell) == ["c"]


def test_what_is_told_of_our_own_term_counts_as_well() -> None:
    def tell(backup: Backup) -> None:
        drive(backup.follower.halt())
        backup.hears("a", 1)
        backup.hears("me", 2)
        backup.follower.resume()
        time.sleep(0.1)

    assert following(tell) == ["c"]


def test_a_server_that_is_late_leads_nobody_back() -> None:
    def tell(backup: Backup) -> None:
        backup.hears("a", 1)
        backup.until("a")
        backup.hears("b", 2)
        backup.until("a", "b")
        backup.hears("a", 1)
        time.sleep(0.1)
        assert backup.present is not None
        assert not backup.present.ended.is_set()

    assert following(tell) == ["a", "b", "c"]


def test_the_same_primary_is_followed_again_by_the_next_run() -> None:
    def tell(backup: Backup) -> None:
        backup.hears("a", 1)
        backup.until("a")
        backup.end()
        backup.follower.begin()
        backup.hears("a", 1)
        backup.until("a", "a")

    assert following(tell) == ["a", "a", "c"]
