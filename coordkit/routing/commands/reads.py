"""Which commands a replica may answer, and which are writes whose copies can be waited for.

The server's own flags say it (``table``): ``readonly`` and ``write``. A read goes to the primary all the same
where another server could not carry on or would be asked in vain:

- SCAN, HSCAN, SSCAN, ZSCAN: a cursor means something to the server that gave it, and to no other;
- what may block (XREAD): it says nothing of how quick a replica is, and nobody should time it out;
- TOUCH, OBJECT FREQ and IDLETIME, MEMORY USAGE: they are about the one server, not about the value;
- EVALSHA_RO: SCRIPT LOAD has loaded the script at primaries only (EVAL_RO and FCALL_RO may go to a replica);
- KEYS, DBSIZE and what else is asked without a key.

EVAL, EVALSHA and FCALL have neither flag. They may write, so they go to the primary and count as writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordkit.routing.commands import table

_OF_ONE_SERVER = frozenset({
    "DBSIZE", "EVALSHA_RO", "HSCAN", "KEYS", "LOLWUT", "MEMORY|USAGE", "OBJECT|FREQ", "OBJECT|IDLETIME", "RANDOMKEY",
    "SCAN", "SSCAN", "TOUCH", "ZSCAN",
})  # fmt: skip
_MAY_WRITE = frozenset({"EVAL", "EVALSHA", "FCALL"})


READ, WRITE, OTHER = "read", "write", "other"


class Kinds:
    """What each command that is known is: READ, WRITE, or OTHER, which goes to the primary and needs no copies."""

    def __init__(self) -> None:
        blocking = set(table.BLOCKING.split())
        reads = set(table.READONLY.split()) - blocking - _OF_ONE_SERVER
        self._of: dict[str, str] = dict.fromkeys(reads, READ)
        self._of.update(dict.fromkeys({*table.WRITE.split(), *_MAY_WRITE}, WRITE))

    def of(self, name: str) -> str | None:
        """Return what the command with this name is; None for one that is neither, or is not known."""
        return self._of.get(name)

    def learn(self, flags: Mapping[str, Iterable[str]]) -> None:
        """Take in commands that the table does not have, by their flags: see `keys.flags_of`."""
        for name, said in flags.items():
            those = set(said)
            if "WRITE" in those:
                self._of[name] = WRITE
            elif "READONLY" in those and "BLOCKING" not in those:
                self._of[name] = READ
