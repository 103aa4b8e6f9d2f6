"""W9: the tokens across the death of a server, for each way in which a server may keep what it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from regime.durability import MODES, Mode, tokens_over_a_death
from regime.mutants import MUTANTS
from regime.scripts import restored

from coordkit.core import lock

ROUNDS = 3


@pytest.mark.parametrize("mode", MODES)
def test_tokens_neither_repeat_nor_fall(mode: Mode, tmp_path: Path) -> None:
    wrong, grants = tokens_over_a_death(mode, ROUNDS, tmp_path)

    assert wrong == []
    assert grants >= 2 * ROUNDS * 15


@pytest.mark.parametrize("mode", ["no", "replica"])
@pytest.mark.parametrize("kind", ["write", "either", "permit"])
def test_those_of_the_other_kinds_do_not_either(kind: str, mode: Mode, tmp_path: Path) -> None:
    wrong, grants = tokens_over_a_death(mode, 1, tmp_path, kind)

    assert wrong == []
    assert grants >= 2 * 15


@pytest.mark.parametrize("mode", ["no", "replica"])
def test_a_bare_counter_is_found(mode: Mode, tmp_path: Path) -> None:
    """INCR: what redis-py users build. It falls with what the server forgets."""
    with restored(lock):
        MUTANTS["token_without_the_clock"](None)  # type: ignore[arg-type]  # it asks nothing of a worker
        wrong, _ = tokens_over_a_death(mode, 1, tmp_path)

    assert wrong != []
