"""Choosing among the members of a group, for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import TYPE_CHECKING

from coordkit.core import balance
from coordkit.core.balance import Pick
from coordkit.errors import CoordError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since 3.11; not needed when the program runs


class Balance:
    """Choose among the members of a group while the ``async with`` lasts. Made by ``Group.balance``.

    Entering waits for the first list; it raises ``StoreUnavailable`` if there is none within one session timeout. While
    ZooKeeper does not answer, the last list stands.
    """

    __slots__ = ("_core", "_make", "_path")

    def __init__(self, path: str, make: Callable[[], balance.Balance]) -> None:
        self._path = path
        self._make = make
        self._core: balance.Balance | None = None

    async def __aenter__(self) -> Self:
        if self._core is not None:
            raise CoordError(self._path, "this balance() is in use: call balance() again for each block")
        core = self._make()
        await core.open()
        self._core = core
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.close()

    def pick(self, key: str | bytes | None = None, *, exclude: Collection[str] = ()) -> Pick:
        """Return a block (``with``, in both flavours) in which one member is used: ``pick.identity``, ``pick.data``.

        ``key`` is what a ``Sticky`` picker goes by. Nobody is asked. Entering raises ``NoNodes`` if there is no member
        beside those in ``exclude``, an iterable of identities: who was tried already; and ``StoreUnavailable`` once the
        client is stopped, ``StoreRefused`` once it may not connect. A block that raises sets the
        member aside for a while, see ``Group.balance``.
        """
        return Pick(self._open(), () if key is None else (key,), exclude)

    def members(self) -> dict[str, bytes]:
        """Return the data of each member by identity, as last heard; nobody is asked."""
        return dict(self._open().members)

    def aside(self) -> set[str]:
        """Return the identities of those that are set aside, or tried again and not proven well yet."""
        return self._open().picker.aside()

    def _open(self) -> balance.Balance:
        if self._core is None:
            raise CoordError(self._path, "this balance() is not open: use it inside its block")
        return self._core

    def __repr__(self) -> str:
        return f"<Balance {self._path}>"
