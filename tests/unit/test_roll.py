"""What one reader knows of a group is true in the end, whatever happens between an answer and its use.

The servers are a dictionary here that changes at random before, between and after the answers of one look, and that
tells of each change at once, as kazoo's own thread does. In the end nothing changes any more, and whoever looks for as
long as there is news must know what is there.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from changing_group import GROUP, NAMES, Servers
from conftest import drive

from coordkit._threads.runtime import RUNTIME
from coordkit.core import session
from coordkit.core.roll import Roll
from coordkit.core.session import Session
from coordkit.errors import StoreUnavailable


class Reader:
    """Looks for as long as there is news, and keeps what it was told."""

    def __init__(self, servers: Any, *, numbered: bool) -> None:
        self.rung = True
        self.told: dict[str, bytes] = {}
        self.roll = Roll(Session(RUNTIME, servers), GROUP, self._ring, numbered=numbered)

    def _ring(self) -> None:
        self.rung = True

    def look(self) -> None:
        while self.rung:
            self.rung = False
            try:
                complete = drive(self.roll.look())
            except StoreUnavailable:
                complete = False
            news, self.roll.news = self.roll.news, set()
            for each in news:
                self.told.pop(each, None)
                if each in self.roll.members:
                    self.told[each] = self.roll.members[each]
            self.rung = self.rung or not complete


@pytest.mark.parametrize("numbered", [False, True], ids=["", "numbered"])
@pytest.mark.parametrize("trees", [True, False], ids=["recursive", "one by one"])
def test_it_is_true_in_the_end(trees: bool, numbered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_PAUSE", 0.0)
    for seed in range(400):
        chance = random.Random(seed)
        servers = Servers(trees=trees)
        reader = Reader(servers, numbered=numbered)
        left = chance.randrange(1, 30)

        def meddle(chance: random.Random = chance, servers: Servers = servers) -> None:
            nonlocal left
            while left and chance.random() < 0.5:
                left -= 1
                name, what = chance.choice(NAMES), chance.random()
                if what < 0.45:
                    servers.put(name)
                elif what < 0.8:
                    servers.remove(name)
                elif what < 0.9:
                    servers.delete_the_group()
                else:
                    servers.reconnect()

        servers.meddle = meddle
        reader.look()
        while left:
            meddle()
            reader.look()
        assert dict(reader.roll.members) == servers.members, f"seed {seed}"
        assert reader.told == servers.members, f"seed {seed}"


def test_a_member_that_comes_back_between_an_answer_and_its_use_is_seen() -> None:
    """The read that found it gone was answered, and not yet used, when the watch told that it is there again."""
    servers = Servers(trees=True)
    reader = Reader(servers, numbered=False)
    servers.put("a")
    reader.look()
    servers.remove("a")
    left = 3  # the first is before the answer

    def meddle() -> None:
        nonlocal left
        left -= 1
        if left == 1:
            servers.put("a")

    servers.meddle = meddle
    reader.look()
    assert set(reader.roll.members) == {"a"}
