"""The loss experiment at CI's length, its controls, and what reads its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from regime import loss_command
from regime.loss import IN_MOTION, Verdict, run
from regime.loss_ledger import Count, Ledger, counts, lost, within, wrong
from regime.loss_subjects import CONTROLS, SUBJECT

SEED = 0
OPERATIONS = 2_000
PAUSE = 0.002  # of each of the twelve who count: others run their tests beside this one
TRIES = 3  # seeds that a control has to lose something


@pytest.mark.timeout(240)
def test_no_acknowledged_operation_is_lost() -> None:
    verdict = run(SUBJECT, SEED, OPERATIONS, pause=PAUSE)

    assert verdict.passed, str(verdict)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("control", CONTROLS)
def test_the_controls_lose_some(control: str) -> None:
    verdicts = [run(control, SEED, 0, rounds=1, pause=PAUSE)]
    while not verdicts[-1].lost and len(verdicts) < TRIES:
        verdicts.append(run(control, SEED + len(verdicts), 0, rounds=2, pause=PAUSE))

    assert verdicts[-1].lost, "\n".join(map(str, verdicts))


@pytest.mark.parametrize(
    ("facts", "missing"),
    [({"moved": 0}, ()), ({"across": 0}, ()), ({"in_motion": IN_MOTION - 1}, ()), ({}, ("kill_mover",))],
)
def test_a_run_that_saw_too_little_is_void_and_not_passed(facts: dict[str, int], missing: Sequence[str]) -> None:
    enough = {"moved": 1, "across": 1, "in_motion": IN_MOTION}
    assert Verdict("a", 0, 0, **enough).too_little(()) == []  # type: ignore[arg-type]  # they are numbers

    verdict = Verdict("a", 0, 0, **enough | facts)  # type: ignore[arg-type]  # as above
    verdict.void = verdict.too_little(missing)

    assert len(verdict.void) == 1
    assert not verdict.passed
    assert ": void in" in str(verdict)


@pytest.mark.parametrize(("subject", "lost", "found", "status"), [("copy", 3, ["lost"], 0), ("copy", 0, [], 1)])
def test_the_command_wants_a_control_to_lose(
    subject: str, lost: int, found: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_command, "run", lambda *_, **__: Verdict(subject, 0, 1, lost=lost, found=found))

    assert loss_command.main(["--subject", subject, "--runs", "2"]) == status


@pytest.mark.parametrize(
    ("what", "status"),
    [({}, 0), ({"found": ["lost"]}, 1), ({"void": ["nothing moved"]}, 1), ({"acknowledged": 249}, 1)],
)
def test_the_command_wants_the_subject_to_pass_and_not_to_be_void(
    what: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def one(_: str, seed: int, operations: int, **__: object) -> Verdict:
        asked.append(operations)
        return Verdict(SUBJECT, seed, operations, **{"acknowledged": operations, **what})

    monkeypatch.setattr(loss_command, "run", one)

    assert loss_command.main(["--operations", "1000", "--runs", "4"]) == status
    assert asked == [250] * 4
    assert f"0 lost of {4 * what.get('acknowledged', 250)} acknowledged" in capsys.readouterr().out


@pytest.mark.timeout(240)
def test_the_library_without_its_comparison_of_epochs_loses_some() -> None:
    """So that what is tested is the fence, and not only what drops connections."""
    verdict = run(SUBJECT, SEED, 0, rounds=2, pause=PAUSE, mutant="epoch_is_not_compared")

    assert verdict.lost, str(verdict)


def done(*answers: int | None, counter: int = 7, sent: bool = True, takes: bool = False) -> list[Count]:
    """One after the other."""
    return [Count(counter, float(n), n + 0.5, answer, sent, takes) for n, answer in enumerate(answers)]


def test_a_counter_that_stands_where_it_should() -> None:
    assert wrong(done(1, 2, 3), {7: 3}) == []
    assert wrong(done(1, None, 3), {7: 3}) == []
    assert wrong(done(1, None, 2), {7: 2}) == []  # the unknown one was not done
    assert wrong([*done(1, 2), *done(None, sent=False)], {7: 2}) == []


def test_what_was_lost_is_found_and_counted() -> None:
    ops = done(1, 2, 3)

    assert wrong(ops, {7: 1}) == ["lost: counter 7 stands at 1, and 3 or more is what was acknowledged"]
    assert lost(ops, {7: 1}) == 2


def test_what_was_done_twice_or_not_sent_and_done_is_found() -> None:
    assert wrong(done(1, 2, None), {7: 4}) == ["too many: counter 7 stands at 4, and at most 3 is what was sent"]
    assert len(wrong([*done(1), *done(None, sent=False)], {7: 2})) == 1


def test_what_was_taken_counts_as_there_and_comes_back_to_nobody() -> None:
    taken = [*done(1, 2, 3, 1), *done(3, takes=True)]

    assert wrong(taken, {7: 1}) == []
    assert len(wrong(taken, {7: 0})) == 1
    assert len(wrong(taken, {7: 4})) == 1  # it was brought back
    assert wrong([*taken, *done(None, takes=True)], {7: 0}) == []
    assert len(wrong([*taken, *done(None, takes=True)], {7: 4})) == 1


def test_answers_that_repeat_or_fall_are_found_whatever_the_counter_says() -> None:
    assert wrong(done(1, 2, 2), {7: 3}) == ["answered twice: counter 7 said 2 again at 2.500"]
    assert wrong(done(1, 5, 3, 4, 2), {7: 5}) != []
    side_by_side = [Count(7, 0.0, 9.0, 2), Count(7, 1.0, 2.0, 1)]
    assert wrong(side_by_side, {7: 2}) == []


def test_only_what_was_done_wholly_in_the_window_on_what_moved_counts_as_in_motion() -> None:
    windows = [(1.0, 3.0, frozenset({7}))]

    assert within(done(1, 2, 3, 4), windows) == 2
    assert within(done(1, 2, 3, 4, counter=8), windows) == 0
    assert within(done(None, None, None), windows) == 0


def test_the_log_survives_a_kill_at_any_line(tmp_path: Path) -> None:
    log = Ledger(tmp_path / "log")
    log.asks(0, 7)
    log.asks(1, 8)
    log.answered(1, 5)
    log.asks(1, 9)
    log.unknown(1)
    log.asks(1, 9)
    log.not_sent(1)

    found = {(c.counter, c.answer, c.sent) for c in counts([tmp_path / "log"])}

    assert found == {(8, 5, True), (9, None, True), (9, None, False), (7, None, True)}
