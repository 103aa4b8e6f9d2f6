"""Bugs of readers-writer locks and semaphores, put in one at a time: the histories of ``kinds`` must find each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sim.histories import Settings
from sim.kinds import Counting, Reading
from sim.mutants import _edit

from coordkit.core import rwlock, semaphore, waiting
from coordkit.core.token import Token

Patch = pytest.MonkeyPatch
_RW = ("_READ", "_WRITE", "_RENEW", "_RELEASE")
_SEMAPHORE = ("_ACQUIRE", "_RENEW", "_RELEASE")


def _everywhere(patch: Patch, module: Any, old: str, new: str) -> None:
    for name in _RW if module is rwlock else _SEMAPHORE:
        _edit(patch, module, name, old, new)


# -- readers and writers


def readers_share_no_token(patch: Patch) -> None:
    """Each reader fences off those who entered before it."""
    _everywhere(patch, rwlock, "if last > 0 and redis.call('ZCARD', READERS) > 0 then", "if false then")


def a_reader_signs_for_itself(patch: Patch) -> None:
    """The fence takes the second reader of a phase for somebody with a forged token."""
    was = waiting.Waiting._handed_on

    def alone(self: Any, *args: Any) -> waiting.HandedOn:
        handed = was(self, *args)
        return handed._replace(token=Token(handed.token, self._holder))

    patch.setattr(waiting.Waiting, "_handed_on", alone)


def readers_pass_a_waiting_writer(patch: Patch) -> None:
    """The classic: as long as readers come, no writer does."""
    _edit(patch, rwlock, "_READ", "(first or readers == 0)", "true")


def a_reader_enters_beside_the_writer(patch: Patch) -> None:
    _edit(patch, rwlock, "_READ", "(not writer and (first or readers == 0))", "first")


def a_writer_enters_among_readers(patch: Patch) -> None:
    _edit(patch, rwlock, "_WRITE", "redis.call('ZCARD', READERS) == 0 and ", "")


def the_last_reader_is_not_waited_for(patch: Patch) -> None:
    """A writer is let in when any reader leaves."""
    _edit(patch, rwlock, "_RELEASE", "waiter.mode == 'w' and readers > 0", "false")


def readers_never_end(patch: Patch) -> None:
    """A counter instead of leases: a reader that was killed reads for ever."""
    _everywhere(patch, rwlock, "redis.call('ZREMRANGEBYSCORE', READERS, '-inf', digits(now))", "")


def one_reader_is_let_in_at_a_time(patch: Patch) -> None:
    """The others wait although nobody writes."""
    _edit(patch, rwlock, "_RELEASE", "(longest or waiter.claim, waiter.claim)", "(longest or 0, waiter.claim) break")


def reading_is_taken_up_again(patch: Patch) -> None:
    """Renewal lets in who is out."""
    _edit(patch, rwlock, "_RENEW", "if not ends or ends <= now then", "if false then")


def a_reader_is_not_asked_whose_writer_it_ends(patch: Patch) -> None:
    """DEL, whoever writes."""
    _edit(patch, rwlock, "_RELEASE", "if writer == ARGV[1] then", "if writer then")


def a_repeated_ask_waits_for_itself(patch: Patch) -> None:
    """The answer was lost, and the writer stands in its own way."""
    _edit(patch, rwlock, "_WRITE", "if writer == ARGV[1] then\n  if not token", "if token then\n  if not token")


# -- permits


def one_permit_too_many(patch: Patch) -> None:
    _everywhere(patch, semaphore, "if fresh >= permits then", "if fresh > permits then")


def permits_are_taken_for_good(patch: Patch) -> None:
    """A list of free slots: whoever is killed takes one along (redis-semaphore, aioredis recipes)."""
    _everywhere(patch, semaphore, "'-inf', digits(now), 'LIMIT'", "'-inf', 0, 'LIMIT'")


def a_repeated_ask_takes_another(patch: Patch) -> None:
    """The answer was lost, and so is a permit."""
    _edit(patch, semaphore, "_ACQUIRE", "slot, token = held(ARGV[1])", "slot, token = nil, nil")


def a_slot_goes_on_with_the_old_token(patch: Patch) -> None:
    _edit(patch, semaphore, "_RELEASE", "return math.max(last + 1, now), slot", "return last, slot")


def any_renewal_renews(patch: Patch) -> None:
    """A permit that ended, and is another's by now."""
    old = "  if ends and ends > now then\n    return slot, token\n  end"
    _edit(patch, semaphore, "_RENEW", old, "  do return slot or '0', token end")


def a_release_frees_a_slot_that_is_anothers(patch: Patch) -> None:
    _edit(patch, semaphore, "_RELEASE", "local slot = held(ARGV[1])", "local slot = held(ARGV[1]) or '0'")


def the_last_comes_first(patch: Patch) -> None:
    head = "redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES')"
    _edit(patch, semaphore, "_RELEASE", head, head.replace("0, 1", "-1, -1"))


def a_slot_is_freed_and_nobody_told(patch: Patch) -> None:
    _edit(patch, semaphore, "_RELEASE", "last and hand_on(", "false and hand_on(")


STORMY = Settings()
MUTANTS: list[tuple[Callable[[Patch], None], type[Reading | Counting], Settings]] = [
    (readers_share_no_token, Reading, STORMY),
    (a_reader_signs_for_itself, Reading, STORMY),
    (readers_pass_a_waiting_writer, Reading, STORMY),
    (a_reader_enters_beside_the_writer, Reading, STORMY),
    (a_writer_enters_among_readers, Reading, STORMY),
    (the_last_reader_is_not_waited_for, Reading, STORMY),
    (readers_never_end, Reading, STORMY),
    (one_reader_is_let_in_at_a_time, Reading, STORMY),
    (reading_is_taken_up_again, Reading, Settings(evictions=True)),
    (a_reader_is_not_asked_whose_writer_it_ends, Reading, STORMY),
    (a_repeated_ask_waits_for_itself, Reading, STORMY),
    (one_permit_too_many, Counting, STORMY),
    (permits_are_taken_for_good, Counting, STORMY),
    (a_repeated_ask_takes_another, Counting, STORMY),
    (a_slot_goes_on_with_the_old_token, Counting, STORMY),
    (any_renewal_renews, Counting, Settings(evictions=True)),
    (a_release_frees_a_slot_that_is_anothers, Counting, STORMY),
    (the_last_comes_first, Counting, STORMY),
    (a_slot_is_freed_and_nobody_told, Counting, STORMY),
]
