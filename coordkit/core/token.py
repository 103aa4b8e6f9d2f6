"""The fencing token: an integer that rises from grant to grant."""

from __future__ import annotations


class Token(int):
    """The number by which a resource tells a later holder from an earlier one.

    An ``int`` (63 bits) that also carries ``holder``, the id of the lease it was granted to. Send it as a string,
    ``str(token)``, where numbers are doubles (JSON, Lua), and to redis-py, which with hiredis takes no subclass of int.
    Tokens of one source (one lock name, one election) are comparable; tokens of different sources are not.
    """

    holder: str

    def __new__(cls, value: int, holder: str = "") -> Token:  # noqa: PYI034  Self needs Python 3.11
        if not 0 < value < 1 << 63:
            raise ValueError(f"value must be between 1 and 2**63 - 1, got {value!r}")
        token = int.__new__(cls, value)
        token.holder = holder
        return token

    def __reduce__(self) -> tuple[type[Token], tuple[int, str]]:  # for pickle and copy
        return Token, (int(self), self.holder)


def check_token(token: object) -> tuple[int, str]:
    """Return the number of a token that was offered, and its holder, or "" if that was lost on the way."""
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"token must be an int (lease.token), got {token!r}")
    if not 0 < token < 1 << 63:
        raise ValueError(f"token must be between 1 and 2**63 - 1, got {token!r}")
    return int(token), token.holder if isinstance(token, Token) else ""
