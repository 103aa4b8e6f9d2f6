"""Who led without saying that its work had ended, and was not fenced yet: one znode beside the epoch record.

::

    <election>/unfenced     persistent; JSON: identities and tokens, the oldest first

Taking over adds the last leader, in its transaction; whoever has fenced all of them empties it, in one that checks its
own znode. So the duty passes on where a successor fails, or crashes, before it has fenced. It is not kept in the epoch
record itself, whose zxid is the token and must not change within a term.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from coordkit.core.leadership import Leadership
from coordkit.core.records import Leader
from coordkit.core.token import Token
from coordkit.errors import StoreUnavailable, TransactionFailed

_PAUSE = 0.05  # seconds before what got no answer is asked again


def path_of(election: str) -> str:
    return f"{election}/unfenced"


async def clear(leadership: Leadership) -> None:
    """Write that nobody is left to be fenced. Raises ``LeadershipLost``."""
    while True:
        transaction = leadership.transaction()
        transaction.set(path_of(leadership.name), b"", -1)
        try:
            await transaction.commit()
        except TransactionFailed:
            return  # the znode was deleted by hand
        except StoreUnavailable:
            leadership.ensure()
            await leadership.place.session.runtime.sleep(_PAUSE)
        else:
            return


def with_last(leaders: Iterable[Leader], last: Leader | None) -> list[Leader]:
    """Return the leaders with one more, the oldest first: one for each identity, as its last token stands for all."""
    known = {each.identity: each for each in leaders}
    if last is not None and (last.identity not in known or known[last.identity].token < last.token):
        known[last.identity] = last
    return sorted(known.values(), key=lambda each: each.token)


def pack(leaders: Iterable[Leader]) -> bytes:
    each = [{"identity": one.identity, "token": int(one.token), "holder": one.token.holder} for one in leaders]
    return json.dumps({"v": 1, "leaders": each}).encode()


def unpack(data: bytes) -> list[Leader]:
    """Return the leaders; none where the data is none of ours."""
    try:
        values = json.loads(data)["leaders"]
        return [Leader(str(each["identity"]), Token(int(each["token"]), str(each["holder"]))) for each in values]
    except (ValueError, KeyError, TypeError):
        return []
