"""What spaces hold, and to whose account: records, stored bytes, pinned keys and values.

It is charged to the account of who owns the space, for as long as the space holds it, also when
the owner has ended. What a fork's space stands on is its origin's: only what was written for
a space itself counts. The sizes are those that the spaces themselves keep exact; after a boot,
when owners of the last boot are gone, a space is its user's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from syscalls.errors import MachineFault

if TYPE_CHECKING:
    from kernel.accounting.account import Account
    from kernel.kernel import Kernel

FOREIGN = b"account/space/"
"""Spaces of a user who is not the kernel's own, with the user's id."""


class Holding:
    """What one space holds."""

    __slots__ = ("account", "charged", "held")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.held = {"records": 0, "bytes": 0, "kv": 0}
        self.charged = {"records": 0, "bytes": 0, "kv": 0}

    def add(self, kind: str, amount: int) -> None:
        """So much more of it. A space that hides what is its origin's holds nothing less."""
        self.held[kind] += amount
        now = max(self.held[kind], 0)
        change = now - self.charged[kind]
        if change:
            self.charged[kind] = now
            self.account.charge(kind, change)


class Holdings:
    """What all spaces hold; the ``Meter`` of memory."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        kernel.memory.on_growth(self)
        self._of: dict[int, Holding] = {}
        self._pinned: set[int] = set()
        """Those with a prefix that takes something."""
        self._originals: dict[int, int] | None = None
        """Bytes of originals by space, of those that are not in ``_of`` yet."""

    def admit(self, space: int, records: int, size: int) -> None:
        """Raises EDQUOT where an account has no room for so many more records and bytes."""
        account = self._holding(space).account
        if records > 0:
            account.check("records", records)
        if size > 0:
            account.check("bytes", size)

    def grew(self, space: int, records: int, size: int) -> None:
        """A space grows, or shrinks."""
        holding = self._holding(space)
        if records:
            holding.add("records", records)
        if size:
            holding.add("bytes", size)

    def admit_pin(self, space: int, size: int) -> None:
        """Raises EDQUOT where there is no room for so many bytes more of keys and values."""
        self._holding(space).account.check("kv", max(size, 0))

    def pinned(self, space: int, size: int) -> None:
        """The prefixes of a space take so many bytes now."""
        holding = self._holding(space)
        holding.add("kv", size - holding.held["kv"])
        (self._pinned.add if size else self._pinned.discard)(space)

    def recount(self) -> None:
        """Some prefixes have gone with what they rested on."""
        for space in list(self._pinned):
            self.pinned(space, self._bytes_pinned(space))

    def _bytes_pinned(self, space: int) -> int:
        return sum(row.bytes for row in self._kernel.memory.prefixes.of(space))

    def own(self, space: int, account: Account) -> None:
        """A space goes on as that of a process, such as of one that was started again."""
        holding = self._holding(space)
        if holding.account is account:
            return
        for kind, amount in holding.charged.items():
            holding.account.charge(kind, -amount)
            account.charge(kind, amount)
        holding.account = account

    async def census(self) -> None:
        """Look at every space: only then is it known what each user stores."""
        try:
            for space in self._kernel.memory.numbers():
                self._holding(space)
                await trio.lowlevel.checkpoint()
        except MachineFault as error:
            self._kernel.log("error", "quota", f"not all that is stored is counted: {error}")

    def _holding(self, space: int) -> Holding:
        holding = self._of.get(space)
        if holding is not None:
            return holding
        memory = self._kernel.memory
        records, size = memory.size(space)
        if self._originals is None:
            self._originals = memory.blobs.sizes()
        holding = self._of[space] = Holding(self._owner(space))
        holding.add("records", records)
        holding.add("bytes", size + self._originals.pop(space, 0))
        self.pinned(space, self._bytes_pinned(space))
        return holding

    def _owner(self, space: int) -> Account:
        """The account of who a space was made for: a process's, or else its user's."""
        accounts, kernel = self._kernel.accounts, self._kernel
        account = accounts.find(kernel.memory.view(space).header.owner)
        key = FOREIGN + b"%d" % space
        if account is not None:
            *_, top = account.line()
            if not top.apid and top.uid != os.geteuid():
                accounts.note(key, b"%d" % top.uid)
            return account
        said = kernel.machine.store.get("meta", key)
        return accounts.user(os.geteuid() if said is None else int(said))
