"""What the engine and the disk have of the pinned prefixes, kept in step with the table.

    computed   pin, promotion, a record that changed     pending ──> engine.pin ──> kept
    revived    the engine or the kernel is a new one     engine.pin restores from disk, later on
    erased     dropped, or a source is gone              files at once ──> engine.drop ──> done

The table is the truth, and says what is still to be done. So each of these may be cut short
anywhere: the next round, or the next kernel, goes on. Nothing waits for a round but who asked.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

import msgspec
import trio

from drivers.kv.contract import Held, KVStatistics, PinRequest
from kernel.activation.promotion import flat, worth
from kernel.mind.prompt import block
from syscalls.errors import (
    EAGAIN,
    EINVAL,
    ENOENT,
    EngramError,
    LoadFault,
    MachineFault,
)
from syscalls.shapes import ChatMessage
from ums.prefixes import NAMESPACES, Erasure, Kept, engine_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from drivers.kv.contract import Activation, Pinned, Tier
    from kernel.kernel import Kernel
    from ums.prefixes import Prefix

EVERY = 30.0
"""Seconds between two rounds when nothing happens."""
AGAIN = 5.0
"""Seconds after which a round that failed is tried again."""
PATIENCE = 10.0
"""Seconds that somebody waits for the engine to erase; after that it is done behind his back."""
LOOK = 2.0
"""Seconds that the engine has to say what it holds."""
UNBOUNDED = 1 << 40
SHOWN_AS = "pinned records"
LOCAL = "have the model run on this machine, with --model FOLDER_OR_NAME"
DOWN = ("absent", "failed", "stopped")


class Keeping:
    """The blocks of all prefixes."""

    def __init__(
        self,
        kernel: Kernel,
        also: Callable[[], Awaitable[None]],
        first: Callable[[Prefix], Awaitable[None]],
    ) -> None:
        """``also`` is what else a round does; ``first`` is told of what was never computed before
        (it is of an image), when a round has.
        """
        self._kernel = kernel
        self._also = also
        self._first = first
        self.table = kernel.memory.prefixes
        self._folder = Path(kernel.settings.data) / "kv"
        self._wanted = trio.Event()
        self._turn = trio.Lock()
        self._busy: set[str] = set()
        """Engine's names of those that are being computed."""
        self._refused: set[str] = set()
        """Those that the engine does not take as they are."""
        self.aside: set[str] = set()
        """Those that are being computed to replace others; in the table others are of a crash."""
        self._cleared = False
        self.computed = self.erased = 0
        self.figures = KVStatistics()
        """Of the engine's tiers, as it last said."""

    def wake(self) -> None:
        """Have the next round begin now: a record has changed, or something is to be erased."""
        self._refused.clear()
        self._wanted.set()

    def nudge(self) -> None:
        """Have the next round begin now: there is something to do."""
        self._wanted.set()

    async def run(self) -> None:
        """Rounds, until cancelled: the first at once, one when the engine is ready."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._when_ready)
            await self._rounds()

    async def _when_ready(self) -> None:
        try:
            await self._kernel.llm.ready()
        except EngramError as error:
            self._kernel.log("debug", "kv", f"no engine keeps anything: {error.message}")
        self._wanted.set()

    async def _rounds(self) -> None:
        while True:
            try:
                if not self.table.empty:
                    await self._clear()
                    await self.settle()
                await self._also()
                if not self.table.empty:
                    await self.revive()
            except EngramError as error:  # an engine that keeps nothing says EINVAL, for one
                self._kernel.log("debug", "kv", f"a round is put off: {error.message}")
                await trio.sleep(AGAIN)
                continue
            with trio.move_on_after(EVERY):
                await self._wanted.wait()
            self._wanted = trio.Event()

    async def _clear(self) -> None:
        """Remove what an earlier kernel was computing to replace something. Raises EAGAIN."""
        if self._cleared:
            return
        for one in self.table.all():
            if one.aside and engine_name(one) not in self.aside:
                await self.table.remove(one)
        self._cleared = True

    # --- the engine

    def engine(self) -> Activation:
        """The attached model, where it keeps state. Raises EINVAL."""
        llm = self._kernel.llm
        if not hasattr(llm, "pin"):
            raise EINVAL("the attached model keeps no state of prefixes", hint=LOCAL)
        return cast("Activation", llm)

    async def held(self) -> dict[str, Held]:
        """What the engine has now, by its names; nothing where it does not say in time."""
        if self._kernel.llm.state == "ready" and hasattr(self._kernel.llm, "held"):
            with trio.move_on_after(LOOK):
                try:
                    held, figures = await self.engine().held()
                except EngramError as error:
                    self._kernel.log("debug", "kv", f"the engine does not say: {error.message}")
                else:
                    self.figures = figures
                    return {one.handle: one for one in held}
        return {}

    # --- words

    def words(self, prefix: Prefix, home: int = 0) -> list[ChatMessage]:
        """What a prefix says now; ``home`` is the space to see its own records through, if not
        its own. Raises ENOENT where a record cannot be read any more.
        """
        if not prefix.rendered:
            return prefix.messages
        view, own = self._kernel.memory.view, prefix.space
        said = [
            view(home if home and one.space == own else one.space).read(one.rid).content
            for one in prefix.rids
        ]
        return [ChatMessage("system", block(SHOWN_AS, said, UNBOUNDED))]

    # --- computing

    async def establish(self, prefix: Prefix) -> tuple[Prefix, Pinned]:
        """Have a prefix computed, or restored, and kept.

        Raises ENOENT (it went meanwhile, or a source did), and what the engine raises.
        """
        now = self._kernel.clock.now()
        name = engine_name(prefix)
        self._busy.add(name)
        try:
            before = await self.table.edit(prefix, lambda row: _pending(row, now))
            if before is None:
                raise _gone(prefix)
            said = self.words(before)
            request = PinRequest(
                handle=name,
                messages=said,
                salt=before.salt,
                adapter=before.adapter,
                adapter_path=self._adapter(before),
            )
            pinned = await self.engine().pin(request)
            after = await self._note(before, said, pinned)
        finally:
            self._busy.discard(name)
        self.computed += 1
        return after, pinned

    def _adapter(self, prefix: Prefix) -> str:
        """Where the adapter of a prefix is now: the directory of data may have been moved."""
        if not prefix.adapter_path:
            return ""
        return str(self._kernel.adapters.root / adapter_folder(prefix))

    async def _note(self, before: Prefix, said: list[ChatMessage], pinned: Pinned) -> Prefix:
        """Write down which blocks a prefix has; those it had and has no more are erased."""
        kept = Kept(pinned.namespace, pinned.blocks, pinned.tokens, pinned.bytes, pinned.prefill)
        digest = digest_of(said)

        def change(row: Prefix) -> Prefix:
            if row.stale and row.adapter:
                raise _gone(row)  # its adapter ended meanwhile: what was computed is not kept
            others = [one for one in row.kept if one.namespace != kept.namespace]
            row.kept = [kept, *others][:NAMESPACES]
            row.digest, row.pending = digest, 0.0
            row.due = digest_of(self.words(row)) != digest
            row.sources = self.table.lineage([*row.rids, *row.under])
            return row

        try:
            after = await self.table.edit(before, change, _outdated)
        except ENOENT:
            after = None
        if after is None:
            await self.table.erase(Erasure(pinned.handle, [kept]))
            self.wake()
            raise _gone(before)
        if after.due or self.table.erasures():
            self._wanted.set()
        return after

    async def revive(self) -> None:
        """Have the engine hold what the table has, the worthiest first, while there is room."""
        prefixes = self.table.all()
        if not prefixes or self._kernel.llm.state != "ready" or not self.keeps:
            return
        held = await self.held()
        now = self._kernel.clock.now()
        prefixes.sort(key=lambda one: (one.made_by == "pin", worth(one, now)), reverse=True)
        for prefix in prefixes:
            name = engine_name(prefix)
            settled = name in held and not prefix.due and not prefix.pending
            if settled or prefix.stale or name in self._busy | self._refused | self.aside:
                continue
            try:
                after, _ = await self.establish(prefix)
                if not prefix.kept:
                    await self._first(after)
            except ENOENT:
                await self.table.remove(prefix)
                self._wanted.set()
            except EINVAL as error:
                self._refused.add(name)
                self._kernel.log("info", "kv", f"{name} is not kept: {error.message}")
            except EAGAIN:
                return

    @property
    def keeps(self) -> bool:
        """Whether prefixes can be pinned in the attached model, as far as is known yet."""
        llm = self._kernel.llm
        return hasattr(llm, "pin") and (llm.info is None or llm.info.keeps)

    # --- erasing

    async def settle(self) -> bool:
        """Erase what is to be erased; whether nothing is left. Raises EIO, EAGAIN."""
        if not self.table.erasures():
            return True
        done = True
        async with self._turn:
            for key, erasure in self.table.erasures():
                if await self._erase(erasure):
                    await self.table.erased(key)
                    self.erased += 1
                else:
                    done = False
        return done

    async def promptly(self) -> None:
        """As ``settle``, for who must not wait long nor fail by it: the rest is done later."""
        if not self.table.erasures():
            return
        self._wanted.set()
        with trio.move_on_after(PATIENCE):
            try:
                await self.settle()
            except (MachineFault, LoadFault) as error:
                self._kernel.log("warning", "kv", f"blocks are not erased yet: {error.message}")

    async def _erase(self, erasure: Erasure) -> bool:
        """Files first, without the engine; then what it has of them. Whether all is done.

        Blocks that other prefixes name stay. Those do not rest on what was forgotten, so what
        they have in common with this one comes before it.
        """
        needed = {
            (kept.namespace, name)
            for prefix in self.table.all()
            for kept in prefix.kept
            for name in kept.blocks
        }
        folder = self._folder

        def unlink() -> list[tuple[str, str]]:
            blocks = [(one.namespace, name) for one in erasure.kept for name in one.blocks]
            if erasure.since:
                blocks += _newer(folder, erasure.since)
            going = [one for one in dict.fromkeys(blocks) if one not in needed]
            for namespace, name in going:
                _path(folder, namespace, name).unlink(missing_ok=True)
            return going

        going = await self._kernel.machine.offload(unlink)
        state = self._kernel.llm.state
        if state in DOWN or not self.keeps:
            return True
        if state != "ready":
            return False
        names = list(dict.fromkeys(name for _, name in going))
        if not erasure.name and not names:
            return True
        try:
            await self.engine().drop(erasure.name, names)
        except EINVAL as error:  # it keeps nothing, so there is nothing of it to erase
            self._kernel.log("debug", "kv", f"the engine erases nothing: {error.message}")
        return True

    async def tiers(self, prefixes: Sequence[Prefix]) -> list[Tier]:
        """Where the greater part of each is now."""
        folder = self._folder
        held = await self.held() if prefixes else {}

        def look() -> list[Tier]:
            found: list[Tier] = []
            for prefix in prefixes:
                here = held.get(engine_name(prefix))
                kept = prefix.kept[0] if prefix.kept else None
                paths = [_path(folder, kept.namespace, one) for one in kept.blocks] if kept else []
                files = sum(path.is_file() for path in paths)
                on_disk: Tier = "disk" if files and 2 * files >= len(paths) else "none"
                found.append(here.tier if here and here.tier != "none" else on_disk)
            return found

        return await self._kernel.machine.offload(look)


def digest_of(messages: Iterable[ChatMessage]) -> bytes:
    """16 bytes that tell words apart."""
    return blake2b(flat(messages).encode(), digest_size=16).digest()


def adapter_folder(row: Prefix) -> str:
    """Where the adapter of a prefix is, below the directory of adapters."""
    return PurePath(*PurePath(row.adapter_path).parts[-3:]).as_posix()


def _pending(row: Prefix, now: float) -> Prefix:
    return msgspec.structs.replace(row, pending=row.pending or now)


def _gone(prefix: Prefix) -> ENOENT:
    return ENOENT(f"the prefix {prefix.handle!r}, or what it was made from, is gone")


def _outdated(before: Prefix, after: Prefix) -> Erasure | None:
    """The blocks that a prefix had and has no more."""
    now = {(one.namespace, name) for one in after.kept for name in one.blocks}
    old = []
    for kept in before.kept:
        names = [name for name in kept.blocks if (kept.namespace, name) not in now]
        if names:
            old.append(msgspec.structs.replace(kept, blocks=names))
    return Erasure("", old) if old else None


def released(before: Prefix, _after: Prefix) -> Erasure:
    """All that there is of a prefix, whose row stays."""
    return Erasure(engine_name(before), before.kept, before.pending)


def _path(folder: Path, namespace: str, name: str) -> Path:
    from drivers.kv.files import block_path

    return block_path(folder, namespace, name)


def _newer(folder: Path, since: float) -> list[tuple[str, str]]:
    """The blocks that were written since then: it is not known which of them are meant.

    More than those is time lost and nothing else.
    """
    from drivers.kv.files import NAME, NAMESPACE, SUFFIX

    found = []
    for path in folder.glob(f"*/??/*{SUFFIX}"):
        namespace, name = path.parent.parent.name, path.name.removesuffix(SUFFIX)
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            continue  # the engine has made room
        if written >= since - 1.0 and NAME.fullmatch(name) and NAMESPACE.fullmatch(namespace):
            found.append((namespace, name))
    return found
