"""``python tests/regime`` runs the regime at any length: see ``run.py``, or ``--help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tests/, as pytest has it: `regime` is found there
    from regime.run import main

    sys.exit(main())
