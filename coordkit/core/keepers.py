"""A keeper for each shard, so that one that stalls delays the leases of no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coordkit._ports import Runtime
from coordkit.core.grantor import Grantor
from coordkit.core.keeper import Keeper
from coordkit.core.rounds import Asked

if TYPE_CHECKING:
    from coordkit.core.lease import Lease


class Keepers(Keeper):
    """One keeper to whoever asks; ``shard_of`` says for which shard a lease with this key is kept, each time anew."""

    def __init__(self, runtime: Runtime, store: Asked, shard_of: Callable[[str], str]) -> None:
        super().__init__(runtime, store)
        self._shard_of = shard_of
        self._each: dict[str, Keeper] = {}

    def renew(self, lease: Lease) -> None:
        self._for(lease.grantor).renew(lease)

    def give_back(self, grantor: Grantor, holder: str, entry: str = "", *, until: float) -> None:
        self._for(grantor).give_back(grantor, holder, entry, until=until)

    def look_after(self, grantor: Grantor, claim: float) -> None:
        self._for(grantor).look_after(grantor, claim)

    def _for(self, grantor: Grantor) -> Keeper:
        shard = self._shard_of(grantor.key)
        keeper = self._each.get(shard)
        if keeper is None:
            keeper = self._each.setdefault(shard, Keeper(self._runtime, self._store))
            keeper.claimed = self.claimed  # which whoever gives back looks at
        return keeper
