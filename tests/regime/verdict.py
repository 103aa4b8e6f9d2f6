"""What came of a run: passed, failed, or void, which is not a pass; and the command that does it again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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

    def __str__(self) -> str:
        said = "void" if self.void else "failed" if self.found else "passed"
        faults = ", ".join(f"{count} {fault}" for fault, count in sorted(self.fired.items())) or "no faults"
        title = f"{self.workload} seed {self.seed} {self.mutant}".strip()
        lines = [f"{title}: {said} in {self.took:.0f} s, {self.grants} grants, {faults}"]
        lines += [f"  void: {why}" for why in self.void[:10]]
        lines += [f"  {what}" for what in self.found[:10]]
        if len(self.found) > 10:
            lines.append(f"  ... {len(self.found) - 10} more")
        if not self.passed:
            lines.append(f"  again: {self.again}")
        return "\n".join(lines)
