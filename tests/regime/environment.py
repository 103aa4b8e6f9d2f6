"""The environment for commands that are started in threads: pytest keeps changing the process's own meanwhile.

A copy that is made in a thread may then fail (KeyError), and so may execve while it reads the original (EFAULT).
"""

from __future__ import annotations

import os

ENVIRONMENT = dict(os.environ)
"""As it was when this was imported, by the one thread that there was."""
