"""``python tests/regime`` runs the regime at any length: see ``run.py``, or ``--help``.

``python tests/regime loss`` runs the loss experiment: see ``loss_command.py``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tests/, as pytest has it: `regime` is found there
    from regime import loss_command, run

    words = sys.argv[1:]
    sys.exit(loss_command.main(words[1:]) if words[:1] == ["loss"] else run.main(words))
