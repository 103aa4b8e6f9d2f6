"""Run the regime at any length: ``python tests/regime W2 --seconds 600 --seeds 10``, or ``--help``.

Prints one line per run, what each failure was with the command that does it again, and a table at the end. Its status
is 0 only if every run passed and every mutant was found in nine of ten seeds. A mutant is run with the workloads that
must find it, and with no other: ``python tests/regime --only-mutants`` runs each under its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from regime.campaign import run
from regime.kinds import KINDS
from regime.mutants import MUTANTS
from regime.repeated import REPEATED, run_again
from regime.shard_locks import run as run_on_shards
from regime.shard_mutants import MUTANTS as SHARD_MUTANTS
from regime.shard_mutants import OF_LOCKS
from regime.verdict import Verdict
from regime.workloads import WORKLOADS
from regime.zoo_campaign import run as run_on_zookeeper
from regime.zoo_mutants import MUTANTS as ZOO_MUTANTS
from regime.zoo_workloads import WORKLOADS as ZOO_WORKLOADS

ALL = {name: workload.mutants for name, workload in WORKLOADS.items()} | {name: m for name, (_, m) in REPEATED.items()}
ALL |= {name: tuple(workload.mutants) for name, workload in ZOO_WORKLOADS.items()}
ALL |= {"W8": tuple(mutant.__name__ for mutant in OF_LOCKS)}
CONTROLS = [name for name, workload in WORKLOADS.items() if workload.control]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    seeds = [options.seed] if options.seed is not None else list(range(options.seeds))
    rows: list[str] = []
    good = True
    for workload, mutant, kind in _runs(options):
        of_kind = argparse.Namespace(**{**vars(options), "kind": kind})
        verdicts = [_one(of_kind, workload, mutant, seed) for seed in seeds]
        must_fail = bool(mutant) or workload in CONTROLS
        reached = sum(v.killed if must_fail else v.passed for v in verdicts)
        fine = reached >= len(seeds) * 0.9 if must_fail else reached == len(seeds)
        good &= fine
        title = f"{workload} {mutant or ('control' if must_fail else '')}"
        grants, faults = sum(v.grants for v in verdicts), sum(v.fired.total() for v in verdicts)
        said = f"{'found' if must_fail else 'passed'} {reached} of {len(seeds)}"
        rows.append(f"{title:40} {said:18} {grants:8} grants {faults:6} faults  {'ok' if fine else 'NOT OK'}")
    print("\n" + "\n".join(rows))
    return 0 if good else 1


def _one(options: argparse.Namespace, workload: str, mutant: str, seed: int) -> Verdict:
    if workload in REPEATED:
        verdict = run_again(workload, seed, options.seconds, mutant=mutant)
    elif workload == "W8":
        verdict = run_on_shards(seed, options.seconds, mutant=mutant, kind=options.kind, keep=options.keep)
    elif workload in ZOO_WORKLOADS:
        verdict = run_on_zookeeper(workload, seed, options.seconds, mutant=mutant, keep=options.keep)
    else:
        verdict = run(workload, seed, options.seconds, mutant=mutant, kind=options.kind, keep=options.keep)
    print(verdict, flush=True)
    return verdict


def _runs(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    for workload in options.workloads or (_owners(options.mutant) if options.mutant else ALL):
        if options.mutant:
            yield workload, options.mutant, options.kind
            continue
        if not options.only_mutants:
            yield workload, "", options.kind
        if options.mutants or options.only_mutants:
            yield from ((workload, mutant, options.kind) for mutant in ALL[workload])
            yield from ((workload, mutant, kind) for kind, mutant in _others(workload))


def _others(workload: str) -> tuple[tuple[str, str], ...]:
    """Return the other kinds that a workload may have, each with a mutant that it must find."""
    return WORKLOADS[workload].others if workload in WORKLOADS else ()


def _owners(mutant: str) -> list[str]:
    """Return the workloads that must find a mutant; none where only a test names it, with what it is found by."""
    return [workload for workload, mutants in ALL.items() if mutant in mutants]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/regime", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(ALL)}; all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each run (10)")
    parser.add_argument("--seeds", type=int, default=10, help="so many seeds from 0 on (10)")
    parser.add_argument("--seed", type=int, help="this seed only")
    parser.add_argument("--kind", choices=list(KINDS), default="lock", help="what W1 or W8 holds, if not a lock")
    bugs = parser.add_mutually_exclusive_group()
    bugs.add_argument("--mutant", choices=[*MUTANTS, *ZOO_MUTANTS, *SHARD_MUTANTS], help="with this bug")
    bugs.add_argument("--mutants", action="store_true", help="also with each bug that the workload must find")
    bugs.add_argument("--only-mutants", action="store_true", help="with each bug that the workload must find")
    parser.add_argument("--keep", type=Path, help="directory that takes the logs")
    options = parser.parse_args(arguments)
    if unknown := set(options.workloads) - set(ALL):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    owners = _owners(options.mutant) if options.mutant else []
    if options.mutant and not (owners or options.workloads):
        parser.error(f"{options.mutant} is in no workload's list: name one, and --kind, as the test does that wants it")
    if owners and (wrong := set(options.workloads) - set(owners)):
        parser.error(f"{options.mutant} need not be found by {', '.join(sorted(wrong))}, but by {', '.join(owners)}")
    if options.kind != "lock" and not set(options.workloads or ALL) <= {"W1", "W8"}:
        parser.error("only W1 and W8 hold other kinds than a lock")
    return options
