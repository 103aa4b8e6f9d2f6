"""W10: random games of a few steps on one key, against a model; more of them by ``python tests/regime W10``."""

from __future__ import annotations

import pytest
from hypothesis import Phase
from regime.mutants import MUTANTS
from regime.scripts import restored
from regime.stateful import play

from coordkit.core import lock


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("flavour", "examples"), [("blocking", 200), ("asyncio", 100)])
def test_any_sequence_of_steps(flavour: str, examples: int) -> None:
    play(flavour, examples)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", ["token_without_the_clock", "renewal_makes_it_again"])
def test_a_wrong_lock_is_found(mutant: str) -> None:
    with restored(lock):
        MUTANTS[mutant](None)  # type: ignore[arg-type]  # these ask nothing of a worker
        with pytest.raises(AssertionError):
            play("blocking", 200, [Phase.generate])  # found is enough, it need not be small
