"""What came of a run: passed, failed, or void, which is not a pass; and the command that does it again."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

IN_FULL = 2
"""Findings that are printed with what stood around them, if nobody expected any."""


@dataclass
class Verdict:
    """What came of a run."""

    workload: str
    seed: int
    seconds: float
    mutant: str = ""
    kind: str = "lock"
    grants: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    void: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    took: float = 0.0
    control: bool = False  # it must fail
    kept: Path | None = None

    @property
    def passed(self) -> bool:
        return not self.void and not self.found

    @property
    def killed(self) -> bool:
        """Whether a checker found something: what a mutant, or a control, is there for."""
        return bool(self.found)

    @property
    def again(self) -> str:
        """The command that does this run again."""
        words = ["python tests/regime", self.workload, f"--seed {self.seed}", f"--seconds {self.seconds:g}"]
        words += [f"--kind {self.kind}"] * (self.kind != "lock") + [f"--mutant {self.mutant}"] * bool(self.mutant)
        return " ".join(words)

    def keep(self, directory: Path, where: Path | None) -> None:
        """Copy what the run wrote to ``where``. Without that, the logs of what was found are kept all the same, unless
        something had to be found: it may need a load that nobody makes again, and must be explained.
        """
        if where is not None:
            shutil.copytree(directory, where, dirs_exist_ok=True)
            self.kept = where
        elif self.found and not (self.mutant or self.control):
            self.kept = Path(tempfile.mkdtemp(prefix=f"coordkit-found-{self.workload}-{self.seed}-"))
            for log in directory.glob("*.log*"):  # and no servers' files, which may go while they are copied
                shutil.copy(log, self.kept)

    def __str__(self) -> str:
        said = "void" if self.void else "failed" if self.found else "passed"
        faults = ", ".join(f"{count} {fault}" for fault, count in sorted(self.fired.items())) or "no faults"
        title = f"{self.workload} seed {self.seed} {self.mutant}".strip()
        lines = [f"{title}: {said} in {self.took:.0f} s, {self.grants} grants, {faults}"]
        if self.found and self.kept is not None:
            lines.append(f"  kept: {self.kept}")
        lines += [f"  void: {why}" for why in self.void[:10]]
        in_full = 0 if self.mutant or self.control else IN_FULL
        for number, what in enumerate(self.found[:10]):
            said = what.split("\n")
            lines += [f"  {line}" for line in (said if number < in_full else said[:1])]
        if len(self.found) > 10:
            lines.append(f"  ... {len(self.found) - 10} more")
        if not self.passed:
            lines.append(f"  again: {self.again}")
        return "\n".join(lines)
