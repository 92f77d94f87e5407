"""Accounts: who has used what, who may use how much more.

    generation, call, record, pin, child ──> the process's account ──> its parent's ... its user's

Mechanism: it counts, and raises EDQUOT. A soft limit that is passed is a line of the log and a
message of type ``quota`` to the process that it is for and to its parent, once each time.

What users have used up is written every few seconds and at the end: a kernel that is killed
forgets what the last ``LAZY`` seconds used up, and no more. What is stored at the moment is not
written: it is counted from the spaces themselves (``kernel/accounting/holdings.py``).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.contracts import Batch
from kernel.accounting import quotas
from kernel.accounting.account import Account, Kept
from syscalls.errors import EAGAIN, EDQUOT, ESRCH, MachineFault
from syscalls.quota import Quota, QuotaWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drivers.contracts import Bucket
    from drivers.llm.contract import GenerateRequest
    from kernel.accounting.account import Limit
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.calls.proc import Accounts as Reply
    from syscalls.quota import Allowance
    from syscalls.shapes import Usage

LAZY = 5.0
"""Seconds between two writings of what was used up."""
PLACE = b"account/"
LATER = 1.0
"""Seconds after which a generation may fit whose tokens are set aside for others now."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


class AccountsStatistics(msgspec.Struct, frozen=True):
    """Figures of the accounts."""

    accounts: int
    users: int
    refused: int
    """Generations that were refused for want of tokens."""
    cut: int
    """Generations that were given fewer tokens than they asked for."""
    warned: int


class Reservation:
    """The tokens of a completion that are set aside while it is generated."""

    def __init__(self, limits: list[Limit], tokens: int) -> None:
        self._limits = limits
        self._left = tokens
        for limit in limits:
            limit.reserved += tokens

    def spend(self, tokens: int) -> None:
        """So many of them are charged now."""
        tokens = min(tokens, self._left)
        self._left -= tokens
        for limit in self._limits:
            limit.reserved -= tokens


class Accounts:
    """The accounts of all processes and users."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.default = quotas.default(kernel.settings)
        """The limits of a process that is given no others."""
        self._of: dict[int, Account] = {}
        self._users: dict[int, Account] = {}
        self._named: dict[str, Account] = {}
        """Of supervised processes: the next one goes on where this one ended."""
        self._given: dict[int, Quota] = {}
        """Of users the limits that were given in place of the settings."""
        self._notes: list[tuple[Bucket, bytes, bytes]] = []
        self._refused = self._cut = self._warned = 0

    # --- whose

    def open(self, process: Process, *, uid: int = -1, name: str = "") -> Account:
        """The account of a new process, under the one of its parent; a session's under its user's.

        ``name`` is what a supervised process is known by, whatever its number is.
        """
        if process.kind == "init":
            account = self._make(None, process)
        elif process.kind == "session":
            account = self._make(self.user(os.geteuid() if uid < 0 else uid), process)
        elif name and name in self._named:
            account = self._named[name]
            account.apid, account.began = process.apid, self._kernel.clock.now()
        else:
            above = self._of.get(process.parent)
            if above is None or above.parent is None:
                above = self.user(os.geteuid())  # what init starts is its user's
            account = self._make(above, process)
            if name:
                self._named[name] = account
                self._load(account, _place(name))
        process.account = self._of[process.apid] = account
        self.bind(process)
        if account.parent is not None:
            account.parent.charge("children", 1)
        return account

    def _make(self, parent: Account | None, process: Process) -> Account:
        now = self._kernel.clock.now
        return Account(parent, now, self._passed, apid=process.apid, name=process.name)

    def of(self, process: Process) -> Account:
        """The account of a process, also when it has ended."""
        account: Account | None = process.account
        return self.open(process) if account is None else account

    def find(self, apid: int) -> Account | None:
        """The account of a process that lives, or has left records behind."""
        return self._of.get(apid)

    def user(self, uid: int) -> Account:
        """The account of a user; read from disk at its first use."""
        account = self._users.get(uid)
        if account is None:
            now = self._kernel.clock.now
            account = self._users[uid] = Account(None, now, self._passed, uid=uid)
            self._load(account, PLACE + b"user/%d" % uid)
        return account

    def _load(self, account: Account, key: bytes) -> None:
        account.key = key
        value = self._kernel.machine.store.get("meta", account.key)
        kept = Kept() if value is None else _decode(value)
        if not account.apid:
            if kept.quota is not None:
                self._given[account.uid] = kept.quota
            limits = quotas.of_users(self._kernel.settings)
            account.bind(quotas.merged(limits, self._given.get(account.uid, Quota())))
        account.restore(kept)

    def close(self, process: Process) -> None:
        """A process has ended: what it has used up stays counted, in the accounts above it."""
        account = self._of.get(process.apid)
        if account is None:
            return
        holds = account.own["records"] or account.own["bytes"] or account.own["kv"]
        if not holds or account.apid != process.apid:
            del self._of[process.apid]
        if account.parent is not None:
            account.parent.charge("children", -1)

    def forget(self, name: str) -> tuple[Bucket, bytes]:
        """A supervised process will not be started again: what is to be deleted of it. What it
        has used up stays counted in the accounts above."""
        self._named.pop(name, None)
        return "meta", _place(name)

    # --- limits

    def limit(self, process: Process, name: str) -> int:
        """A limit of one process: its own, or else the setting."""
        limit = getattr(process.quota, name)
        return getattr(self.default, name) if limit is None else limit  # type: ignore[no-any-return]

    def bind(self, process: Process) -> None:
        """A process has other limits now."""
        account = self.of(process)
        account.bind(quotas.beyond(process.quota, self.default))
        account.life = inf if process.quota.life is None else process.quota.life

    def bind_user(self, uid: int, quota: Quota) -> Quota:
        """Change the limits of a user, for good; returns those in force."""
        account = self.user(uid)
        assert account.quota is not None
        self._given[uid] = quotas.merged(self._given.get(uid, Quota()), quota)
        limits = quotas.merged(account.quota, quota)
        account.bind(limits)
        account.dirty = True
        return limits

    @property
    def users_bound(self) -> bool:
        """Whether what a user stores is limited, so that it has to be known from the start."""
        accounts = [self.user(os.geteuid()), *self._users.values()]
        return any(kind in each.limits for each in accounts for kind in ("records", "bytes", "kv"))

    # --- tokens

    @contextmanager
    def generating(self, process: Process, request: GenerateRequest) -> Iterator[Reservation]:
        """A generation, from before it waits until it has ended.

        Its ``max_tokens`` become what is left. Raises EDQUOT where nothing is.
        """
        account = self.of(process)
        limits: list[Limit] = []
        for each in account.line():
            for kind in ("tokens", "completion", "prompt", "cached") if each.limits else ():
                limit = each.limits.get(kind)
                if limit is None or limit.hard == inf:
                    continue
                used = each.used(kind)
                left = int(limit.hard - used)
                if left < 1:
                    self._refused += 1
                    raise each.refusal(kind, used, 1)
                if kind not in ("tokens", "completion"):
                    continue
                if left <= limit.reserved:
                    self._refused += 1
                    raise self._taken(each, kind, used)
                limits.append(limit)
                if request.max_tokens > left - limit.reserved:
                    request.max_tokens = left - limit.reserved
                    self._cut += 1
        reservation = Reservation(limits, request.max_tokens)
        try:
            yield reservation
        finally:
            reservation.spend(request.max_tokens)

    def _taken(self, account: Account, kind: str, used: float) -> EDQUOT:
        limit = account.limits[kind]
        return EDQUOT(
            f"what is left of the quota {kind} of {account.whose}, {limit.hard - used:.0f}, is set"
            " aside for generations under way",
            hint="try again after detail.retry_after seconds",
            quota=kind,
            limit=int(limit.hard),
            used=round(used),
            whose=account.whose,
            retry_after=LATER,
        )

    def served(self, process: Process, usage: Usage) -> None:
        """A model has worked for a process: part of a generation, or a correction of one."""
        account = self.of(process)
        for kind, amount in (
            ("prompt", usage.prompt),
            ("cached", usage.cached),
            ("completion", usage.completion),
            ("tokens", usage.prompt - usage.cached + usage.completion),
        ):
            if amount:
                account.charge(kind, amount)

    # --- telling

    def usage(self, process: Process, others: list[Process]) -> Reply:
        """What ``proc.usage`` says."""
        from syscalls.calls.proc import Accounts as Reply

        account = self.of(process)
        *_, top = account.line()
        shown = [self.of(other).info(tree=False) for other in others]
        return Reply(
            process=account.info(tree=False),
            tree=account.info(tree=True),
            user=(top if not top.apid else self.user(os.geteuid())).info(tree=True),
            all=shown,
        )

    def _passed(self, account: Account, allowance: Allowance) -> None:
        self._warned += 1
        kernel = self._kernel
        kernel.log(
            "warning",
            "quota",
            f"{account.whose} is over the soft limit {allowance.quota}={allowance.soft:g}: "
            f"{allowance.used:.0f} are used",
        )
        if account.apid:
            kernel.start_soon(self._tell, account, allowance)

    async def _tell(self, account: Account, allowance: Allowance) -> None:
        """Send the message to the process of an account and to its parent."""
        kernel = self._kernel
        warning = QuotaWarning(account.whose, allowance)
        message = kernel.message(kernel.init, warning, type="quota")
        for apid in dict.fromkeys((account.apid, account.parent.apid if account.parent else 0)):
            if not apid:
                continue
            try:
                process = kernel.processes.get(apid)
                if process.alive:
                    bound = self.limit(process, "mailbox")
                    await kernel.mailboxes.send(apid, message, bound=bound)
            except EAGAIN:
                kernel.log("warning", "quota", f"the mailbox of {apid} is full: warning lost")
            except ESRCH as error:
                kernel.log("debug", "quota", error.message)

    def passed_life(self, account: Account) -> None:
        """A process has lived for as long as its soft limit says."""
        for allowance in account.info(tree=False).limits:
            if allowance.quota == "life":
                self._passed(account, allowance)

    # --- disk

    async def run(self) -> None:
        """Write what was used up, every few seconds, until cancelled."""
        while True:
            await trio.sleep(LAZY)
            try:
                await self.flush()
            except MachineFault as error:
                self._kernel.log("warning", "quota", f"not written yet: {error.message}")

    async def aclose(self) -> None:
        """Write what was used up. ``run`` has ended."""
        try:
            await self.flush()
        except MachineFault as error:
            self._kernel.log("warning", "quota", f"not written: {error.message}")

    async def flush(self) -> None:
        """Write what was used up since the last time."""
        changed = [each for each in (*self._users.values(), *self._named.values()) if each.dirty]
        puts, self._notes = self._notes, []
        for account in changed:
            kept = account.kept()
            kept.quota = None if account.apid else self._given.get(account.uid)
            puts.append(("meta", account.key, _encode(kept)))
            account.dirty = False
        if not puts:
            return
        try:
            await self._kernel.machine.store.commit(Batch(puts))
        except BaseException:
            self._notes += puts
            for account in changed:
                account.dirty = True
            raise

    def note(self, key: bytes, value: bytes) -> None:
        """Have a ``meta`` key written with what was used up."""
        self._notes.append(("meta", key, value))

    def statistics(self) -> AccountsStatistics:
        """Figures for ``/proc``."""
        return AccountsStatistics(
            len(self._of), len(self._users), self._refused, self._cut, self._warned
        )


def _place(name: str) -> bytes:
    return PLACE + b"name/" + name.encode()
