"""W8 at CI's length: locks over shards that change owners, come and go; and the bugs that it must find.

The other half of W8, golden vectors and who owns what under any order, seed and version, is in ``tests/unit``:
``test_routing_vectors.py``, ``test_routing_placement.py``, ``test_routing_placements.py``.
"""

from __future__ import annotations

import pytest
from regime.shard_locks import run
from regime.shard_mutants import OF_LOCKS

SEED = 0
TRIES = 3  # seeds that a mutant has to show itself, and a run that is right to see enough


@pytest.mark.timeout(300)
def test_no_lock_is_on_two_shards_and_no_token_falls() -> None:
    verdict = run(SEED, 5.0)
    for seed in range(SEED + 1, SEED + TRIES):
        if verdict.found or not verdict.void:
            break
        verdict = run(seed, 5.0)

    assert verdict.passed, str(verdict)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", [mutant.__name__ for mutant in OF_LOCKS])
def test_what_is_wrong_is_found(mutant: str) -> None:
    verdict = run(SEED, 0.0, mutant=mutant)
    for seed in range(SEED + 1, SEED + TRIES):
        if verdict.killed:
            break
        verdict = run(seed, 0.0, mutant=mutant)

    assert verdict.killed, str(verdict)
