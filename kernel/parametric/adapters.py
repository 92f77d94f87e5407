"""Adapters in use: who has which attached, and that nothing of what is forgotten goes on.

    attach ──> Process.adapters {base: Worn}      one process, from its next request on
               the table's "worn"                  all that work in a space, also after a restart

    request ── apply: by name? attached? ──> a version that is live (or the one that is named),
                                             for this base, all of whose sources are there

Whether the sources are there is looked up when an adapter is used, so that a forgotten record
takes effect even where nobody was told of it. Who is told (``gone``), and ``review``, only make
it lasting: the version is stale from then on, and its weights are erased.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.lora.files import WEIGHTS
from kernel import monitor
from procs.process import Worn
from syscalls.calls import lora
from syscalls.errors import EBUSY, ECONFLICT, EINVAL, ENOENT, EPERM, EngramError
from ums.adapters import Reference, Version, Versions, VersionsStatistics, reference
from ums.roots import doubt, standing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from drivers.llm.contract import LLM, GenerateRequest
    from kernel.kernel import Kernel
    from procs.process import Process

    Ended = Callable[[Sequence[Version]], Awaitable[None]]

BARE = "none"
"""What ``adapter`` says in a generation that is to be the base's own, whatever is attached."""
TRIES, PAUSE = 600, 1.0
"""How often, and after how many seconds, an engine is asked again to let go of an adapter."""
STANDING = 4096
"""Versions, space by space, that are remembered to stand."""
JOBS = ".jobs"
"""Folder of the folders of jobs."""
GONE = frozenset({"forget", "delete", "expire"})
"""The ends of records that reach what was made from them; what is merged or archived is kept."""


class AdapterStatistics(msgspec.Struct, frozen=True):
    """Figures of adapters."""

    versions: VersionsStatistics
    attached: int
    """Attachments of live processes."""
    applied: int
    """Generations with an adapter."""
    spoiled: int
    """Versions that became stale since the start."""


class Adapters:
    """The adapters of all spaces, and who uses them."""

    def __init__(self, kernel: Kernel, root: Path) -> None:
        """``root`` is the folder of the weights."""
        self._kernel = kernel
        self.root = root
        self.versions = Versions(kernel.machine.store, kernel.clock)
        self.ended: list[Ended] = []
        """Told of versions that can never be used again: jobs are ended, others made."""
        self._standing: dict[tuple[int, bytes], tuple[list[tuple[int, int]], float]] = {}
        """Versions that stand in a space: how it was then, and until when that holds."""
        self._applied = self._spoiled = 0

    # --- what may be used

    async def usable(self, space: int, ref: Reference) -> Version:
        """The version that a reference means, if it may be used.

        Raises ENOENT; ECONFLICT for one that was refused, is stale or was dropped, or whose
        files are lost.
        """
        version = self.versions.find(space, ref)
        if version.usable and await self.stands(version):
            return self._there(version)
        now = self.versions.find(space, Reference(version.name, version.number))
        because = f": {now.why}" if now.why else ""
        raise ECONFLICT(
            f"version {now.number} of adapter {now.name} is {now.state}{because}",
            hint="`engram lora list` shows which version is live",
            state=now.state,
        )

    def _there(self, version: Version) -> Version:
        """Raises ECONFLICT for one whose weights are not on the disk any more."""
        if (self.root / version.folder / WEIGHTS).is_file():
            return version
        raise ECONFLICT(
            f"the files of {version.identity} are lost",
            hint="go back a version, put them back from a backup, or train it again",
            state="lost",
        )

    async def stands(self, version: Version) -> bool:
        """Whether all that a version was made from is there; else it is stale from now on."""
        known = self._kernel.memory.known(version.space) is not None
        if known and self._in(version.space, version):
            return True
        await self.spoil([version])
        return False

    def _in(self, space: int, version: Version) -> bool:
        """Whether a space has all that a version was made from."""
        now, seen = self._kernel.clock.now(), self._layers(space)
        known = self._standing.get((space, version.key))
        if known is not None and known[0] == seen and now < known[1]:
            return True
        gone, until = standing(self._kernel.memory.view(space), version, now)
        if gone:
            return False
        if len(self._standing) >= STANDING:
            self._standing.clear()
        self._standing[space, version.key] = seen, until
        return True

    def _layers(self, space: int) -> list[tuple[int, int]]:
        """What is the same as long as nothing was changed in a space."""
        layers = self._kernel.memory.view(space).stack.layers
        return [(layer, self._kernel.machine.store.last(layer)) for layer in layers]

    def doubt(self, version: Version) -> str:
        """Why a version may be out of date; empty for one that nobody uses any more."""
        if not version.usable or self._kernel.memory.known(version.space) is None:
            return ""
        return doubt(self._kernel.memory.view(version.space), version)

    # --- attaching

    async def attach(self, owner: Process, target: Process, ref: Reference) -> Version:
        """Attach an adapter of the owner's space to a process. Raises ENOENT, ECONFLICT, EPERM."""
        version = await self.usable(owner.space, ref)
        if target.space != owner.space and not monitor.owns(self._kernel, owner, owner.space):
            raise EPERM(
                f"apid {owner.apid} has space {owner.space} only by a share: it cannot give its "
                "adapters away",
                object=f"space/{owner.space}",
            )
        self._fit(version, self.engine(version.base))
        target.adapters[version.base] = Worn(owner.space, str(_followed(ref)))
        self._kernel.log(
            "info", "lora", f"apid {target.apid} uses {version.identity} from its next request on"
        )
        return version

    async def wear(self, space: int, ref: Reference) -> Version:
        """Attach an adapter to all that work in its space. Raises ENOENT, ECONFLICT."""
        version = await self.usable(space, ref)
        self._fit(version, self.engine(version.base))
        await self.versions.wear(space, version.base, str(_followed(ref)))
        return version

    async def rollback(self, space: int, ref: Reference, number: int) -> Version:
        """Make an earlier version the live one. Raises ENOENT, ECONFLICT."""
        while True:
            version = self.versions.earlier(space, ref.name, number or ref.number)
            if version.usable and await self.stands(version):
                return await self._back_to(self._there(version))
            if number or ref.number:
                await self.usable(space, Reference(ref.name, version.number))  # says why not

    async def _back_to(self, version: Version) -> Version:
        """Make a version the live one; what was computed under a later one is let go of."""
        number = self.versions.named(version.space, version.name).live
        live = await self.versions.restore(version)
        if number > live.number:
            before = self.versions.find(version.space, Reference(version.name, number))
            if not self.attached(before) and not self.worn(before):
                await self._kernel.pins.renounce(before)
        return live

    def fork(self, parent: Process, child: Process) -> None:
        """Have the fork of a process use what the process uses; its space is another one."""
        ours = self.versions.worn(parent.space) if self._may(parent, parent.space) else {}
        worn = {base: Worn(parent.space, ref) for base, ref in ours.items()}
        child.adapters = {
            base: self._fixed(held, parent) for base, held in {**worn, **parent.adapters}.items()
        }

    def _fixed(self, held: Worn, parent: Process) -> Worn:
        """An attachment as a fork has it: the version of this moment, as its view of memory is."""
        inherited = held.inherited or held.space == parent.space
        try:
            version = self.versions.find(held.space, reference(held.ref))
        except ENOENT:
            return msgspec.structs.replace(held, inherited=inherited)
        return Worn(held.space, f"{version.name}@{version.number}", inherited)

    def engine(self, base: str) -> LLM:
        """The engine of a base. Raises EINVAL."""
        if base not in ("nano", "model"):
            raise EINVAL(f"there is no base {base!r}", hint="it is `nano` or `model`")
        return self._kernel.machine.nano if base == "nano" else self._kernel.llm

    def _fit(self, version: Version, engine: LLM) -> None:
        """Refuse a version for other weights than the engine's. Raises ECONFLICT."""
        info = engine.info
        if info is not None and version.fingerprint not in ("", info.fingerprint):
            raise ECONFLICT(
                f"{version.identity} was trained on another model than {info.name}",
                hint="train it again on this one, or detach it",
                base=version.fingerprint,
            )

    def attached(self, version: Version) -> list[int]:
        """The processes whose next request uses a version."""
        return [
            process.apid
            for process in self._kernel.processes.live()
            if (held := process.adapters.get(version.base)) and self._means(held, version)
        ]

    def worn(self, version: Version) -> bool:
        """Whether all that work in its space use a version."""
        ref = self.versions.worn(version.space).get(version.base)
        return ref is not None and self._means(Worn(version.space, ref), version)

    def _means(self, held: Worn, version: Version) -> bool:
        ref = reference(held.ref)
        if (held.space, ref.name) != (version.space, version.name):
            return False
        return ref.number == version.number if ref.number else version.state == "live"

    # --- using

    async def apply(self, caller: Process, request: GenerateRequest, engine: LLM) -> None:
        """Set the adapter of a request: the one that it names, else the one that is attached.

        Raises ENOENT, ECONFLICT for one that is named and cannot be used, or is for another
        model than ``engine``.
        """
        if request.adapter == BARE:
            request.adapter = ""
            return
        base = "nano" if engine is self._kernel.machine.nano else "model"
        if request.adapter:
            version: Version | None = await self._named(caller, request.adapter)
            if version is not None and version.base != base:
                raise ECONFLICT(f"{version.identity} is for {version.base}, not for {base}")
        else:
            version = await self._attached(caller, base)
        if version is None:
            return
        if engine.info is None:
            await engine.ready()  # which model it is, is known then
        self._fit(version, engine)
        request.adapter = version.identity
        request.adapter_path = str(self.root / version.folder)
        self._applied += 1

    async def _named(self, caller: Process, text: str) -> Version:
        """What a caller names: of its own space."""
        if not caller.space or not self._may(caller, caller.space):
            raise ENOENT(f"there is no adapter {text!r}", hint="`engram lora list`")
        return await self.usable(caller.space, reference(text))

    async def _attached(self, caller: Process, base: str) -> Version | None:
        """What is attached to a caller, if it can be used: a request does not fail for it."""
        held = caller.adapters.get(base)
        if held is None:
            ref = self.versions.worn(caller.space).get(base) if caller.space else None
            if ref is None:
                return None
            held = Worn(caller.space, ref)
        if held.space == caller.space and not self._may(caller, caller.space):
            return None
        try:
            version = await self.usable(held.space, reference(held.ref))
        except (ENOENT, ECONFLICT) as error:
            self._kernel.log("debug", "lora", f"apid {caller.apid} goes without: {error.message}")
            return None
        if held.inherited and not self._in(caller.space, version):
            caller.adapters.pop(base, None)
            why = "its own view of memory lacks a record that it was made from"
            self._kernel.log("info", "lora", f"apid {caller.apid} has {held.ref} no more: {why}")
            return None
        return version

    def _may(self, caller: Process, space: int) -> bool:
        """Whether a caller that works in a space still has it, where it has it by a share."""
        sharing = self._kernel.memory.sharing
        return (
            not sharing.lent(caller.apid, space)
            or sharing.access(caller.apid, 0, space) is not None
        )

    # --- the end of versions

    async def gone(self, rids: Sequence[str], event: str) -> None:
        """Records are gone: what was made from them is stale. A hook of ``Memory.keeper``."""
        if event not in GONE:
            return
        touched = {one.key: one for rid in rids for one in self.versions.made_from(rid)}
        if touched:
            await self.spoil([one for one in touched.values() if self._missing(one)])

    def _missing(self, version: Version) -> str:
        memory = self._kernel.memory
        if memory.known(version.space) is None:
            return "all of it"
        return standing(memory.view(version.space), version, self._kernel.clock.now())[0]

    async def spoil(self, found: Sequence[Version]) -> None:
        """Make versions stale, for ever: detached, erased, by policy trained again."""
        again = self._kernel.settings.stale_adapters == "retrain"
        for version in found:
            rid = self._missing(version)
            now = partial(self._now, version)
            spoiled = await self.versions.spoil(now, f"its source {rid} is gone", again=again)
            self._spoiled += len(spoiled)
            for one in spoiled:
                self._kernel.log("info", "lora", f"{one.name}@{one.number} is stale: {one.why}")
            await self._over(spoiled, keep=again)

    def _now(self, version: Version) -> list[Version]:
        return [self.versions.find(version.space, Reference(version.name, version.number))]

    async def drop(self, which: Callable[[], Sequence[Version]], why: str) -> list[Version]:
        """Drop versions, and erase their weights."""
        dropped = await self.versions.drop(which, why)
        await self._over(dropped, keep=False)
        return dropped

    async def _over(self, ended: Sequence[Version], *, keep: bool) -> None:
        """Versions can never be used again. ``keep``: who follows the name gets the next one."""
        for version in ended:
            for process in self._kernel.processes.live():
                self._take_off(process.adapters, version, keep=keep)
            worn = self.versions.worn(version.space).get(version.base)
            if worn is not None and _over(worn, version, self._live(version), keep=keep):
                await self.versions.wear(version.space, version.base, None)
        for hook in self.ended:
            await hook(ended)
        await self._kernel.pins.review()
        for version in ended:
            await self.erase(version)
            if version.digest:
                self._kernel.start_soon(self._unload, version)

    async def _unload(self, version: Version) -> None:
        """Have an engine that holds it let go of a version, once no request has it any more."""
        engine = self.engine(version.base)
        unload = getattr(engine, "unload_adapter", None)
        if unload is None or engine.info is None:
            return  # an engine that holds none, or was never started
        for _ in range(TRIES):
            try:
                await unload(version.identity)
            except EBUSY:
                await trio.sleep(PAUSE)
            except ENOENT:
                return
            except EngramError as error:
                self._kernel.log("debug", "lora", f"{version.identity}: {error.message}")
                return
            else:
                return

    def _take_off(self, adapters: dict[str, Worn], version: Version, *, keep: bool) -> None:
        held = adapters.get(version.base)
        if held is None or held.space != version.space:
            return
        if _over(held.ref, version, self._live(version), keep=keep):
            del adapters[version.base]

    def _live(self, version: Version) -> int:
        return self.versions.named(version.space, version.name).live

    async def erase(self, version: Version) -> None:
        """Erase the files of a version and of its job. Raises nothing for what is not there."""
        await self._erase([self.root / version.folder, self.job_folder(version)])

    async def _erase(self, folders: Sequence[Path]) -> None:
        for why in await self._kernel.machine.offload(partial(_erased, folders)):
            self._kernel.log("error", "lora", f"not erased, it is tried again at boot: {why}")

    def job_folder(self, version: Version) -> Path:
        """Where the training of a version is at work."""
        return self.root / JOBS / f"{version.space}-{version.name}-{version.number}"

    async def tidy(self, live: Version) -> None:
        """After a version went live: erase its job, drop the oldest of the retired ones."""
        await self._erase([self.job_folder(live)])
        keep = self._kernel.settings.adapter_versions

        def old() -> list[Version]:
            known = self.versions.all(live.space, live.name)
            retired = [one for one in known if one.state == "retired"]
            return retired[: max(0, len(retired) - keep)]

        await self.drop(old, f"only {keep} earlier versions are kept")

    async def review(self) -> None:
        """Look at all versions: what does not stand is stale from now on."""
        for version in self.versions.all():
            if version.usable or version.state == "training":
                await self.stands(version)
                await trio.lowlevel.checkpoint()

    async def sweep(self) -> None:
        """Erase the files that no version needs: of those that are over, or left by a crash.

        A folder is made after its version is in the table, and so it is looked up.
        """
        folders = await self._kernel.machine.offload(partial(_folders, self.root))
        wanted: set[Path] = set()
        for version in self.versions.all():
            if version.usable or version.state == "training":
                wanted |= {self.root / version.folder, self.job_folder(version)}
        await self._erase([folder for folder in folders if folder not in wanted])

    # --- figures

    def info(self, version: Version) -> lora.AdapterInfo:
        """A version as it is shown."""
        return lora.AdapterInfo(
            name=version.name,
            version=version.number,
            base=version.base,
            state=version.state,
            identity=version.identity if version.digest else "",
            why=version.why,
            doubt=self.doubt(version),
            rank=version.rank,
            examples=version.examples,
            figures=version.figures,
            sources=version.sources,
            attached=self.attached(version) if version.usable else [],
            everyone=version.usable and self.worn(version),
            bytes=version.size if version.usable else 0,
            created=version.created,
        )

    def statistics(self) -> AdapterStatistics:
        """Figures for ``sys.stats``."""
        held = sum(len(process.adapters) for process in self._kernel.processes.live())
        return AdapterStatistics(self.versions.statistics(), held, self._applied, self._spoiled)


def _followed(ref: Reference) -> Reference:
    """A reference as it is kept: without the digest, which a number has for ever."""
    return Reference(ref.name, ref.number)


def _over(held: str, version: Version, live: int, *, keep: bool) -> bool:
    """Whether an attachment ends with a version.

    One that follows the name goes on if another version is live, or (``keep``) will be.
    """
    ref = reference(held)
    if ref.name != version.name:
        return False
    return ref.number == version.number if ref.number else not live and not keep


def _erased(folders: Sequence[Path]) -> list[str]:
    """Erase folders; what could not be erased, and why."""
    failed: list[str] = []

    def note(_function: object, path: str, error: tuple[object, BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            failed.append(f"{path}: {error[1]}")

    for folder in folders:
        shutil.rmtree(folder, onerror=note)
    return failed


def _folders(root: Path) -> list[Path]:
    """The folders of versions and of jobs."""
    if not root.is_dir():
        return []
    return [*root.glob("[0-9]*/*/*"), *root.glob(f"{JOBS}/*")]
