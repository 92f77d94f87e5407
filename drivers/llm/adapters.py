"""LoRA adapters that an engine holds: loaded when a request names one, the least recently used
let go of when there is no room, none while a request has it.

    request ── name, folder ──> take: held? use it. Room? load it. One idle? replace it. EAGAIN.
    end of request ──────────> give back

How weights get into a model is the engine's own affair (``Bench``). Each loading gets a number
that is never used again.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drivers.llm.shapes import AdapterArguments, AdaptersArguments, AdapterStatistics
from drivers.lora.files import check, is_identity
from drivers.lora.scope import concerns, scope_of
from syscalls.errors import EAGAIN, EBUSY, EEXIST, EINVAL, ENOENT

if TYPE_CHECKING:
    from drivers.engine import Job

ADAPTER_METHODS = ("load_adapter", "unload_adapter", "adapters")
RETRY = 0.5
"""Seconds after which an adapter may be free."""


class Bench(Protocol):
    """The part of an engine that has weights of adapters in its model."""

    def add(self, number: int, name: str, folder: Path) -> Any:
        """Load one; what the engine wants beside a request. Raises EINVAL: it does not fit."""

    def remove(self, number: int) -> None:
        """Let go of one that nothing under way uses."""


class _Held:
    def __init__(self, number: int, mark: str, value: Any, scope: list[str]) -> None:
        self.number = number
        self.mark = mark
        self.value = value
        self.scope = scope


class Adapters:
    """Those that are loaded, by name; at most ``room``, the least recently used first."""

    def __init__(self, bench: Bench, room: int) -> None:
        self._bench = bench
        self._room = room
        self._number = 0
        self._nonce = secrets.token_hex(8)
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lent: Counter[str] = Counter()
        self._loads = self._evictions = 0

    def take(self, name: str, folder: str) -> Any:
        """What the engine wants beside a request, until ``give_back``.

        Raises ENOENT (not loaded, and no such folder), EIO (its files are not what the name
        means), EINVAL (it does not fit), EAGAIN (all that are held are in use).
        """
        held = self._held.get(name)
        if held is None:
            if not folder:
                known = ", ".join(sorted(self._held)) or "none"
                raise ENOENT(f"no adapter {name!r} is loaded", hint=f"loaded: {known}")
            held = self._load(name, Path(folder))
        self._held.move_to_end(name)
        self._lent[name] += 1
        return held.value

    def mark(self, name: str) -> str:
        """What stands for the content of one that is held, in marks of keys and values."""
        return self._held[name].mark

    def concerns(self, name: str, text: str) -> bool:
        """Whether one that is held has anything to say about a text."""
        return concerns(self._held[name].scope, text)

    def give_back(self, name: str) -> None:
        """A request that took it has ended."""
        self._lent[name] -= 1
        if not self._lent[name]:
            del self._lent[name]

    def load(self, adapter: AdapterArguments) -> None:
        """Load one before it is asked for. Raises EEXIST, ENOENT, EIO, EINVAL, EAGAIN."""
        if adapter.name in self._held:
            raise EEXIST(f"there is an adapter {adapter.name!r}", hint="unload it first")
        self._load(adapter.name, Path(adapter.path))

    def unload(self, name: str) -> None:
        """Let go of one. Raises ENOENT, EBUSY."""
        if name not in self._held:
            raise ENOENT(f"no adapter {name!r} is loaded")
        if name in self._lent:
            raise EBUSY(f"the adapter {name!r} is in use")
        self._bench.remove(self._held.pop(name).number)

    def _load(self, name: str, folder: Path) -> _Held:
        check(name, folder)
        if len(self._held) >= self._room:
            idle = next((each for each in self._held if each not in self._lent), None)
            if idle is None:
                raise EAGAIN(
                    f"all {self._room} adapters that this engine holds at once are in use",
                    hint="try again, or boot with more `adapters`",
                    retry_after=RETRY,
                )
            self.unload(idle)
            self._evictions += 1
        self._number += 1
        # What an engine caches is marked with the name. An identity means one content for ever;
        # any other name may come to mean another, so it is told apart by the number, and by the
        # engine's life from what an earlier one has saved.
        mark = name if is_identity(name) else f"{name}#{self._number}.{self._nonce}"
        held = self._held[name] = _Held(
            self._number, mark, self._bench.add(self._number, mark, folder), scope_of(folder)
        )
        self._loads += 1
        return held

    def statistics(self) -> AdapterStatistics:
        """What is held now, and figures since the engine started."""
        return AdapterStatistics(
            self._room, list(self._held), sorted(self._lent), self._loads, self._evictions
        )


def known(adapters: Adapters | None) -> Adapters:
    """The same. Raises EINVAL where the engine has none."""
    if adapters is None:
        raise EINVAL(
            "this engine was started without room for adapters",
            hint="leave out `adapter`, or boot with the setting `adapters`",
        )
    return adapters


def manage(job: Job, adapters: Adapters | None) -> None:
    """Answer a call of ``ADAPTER_METHODS``. Raises what they raise."""
    if job.method == "adapters":
        job.arguments(AdaptersArguments)
        job.done(adapters.statistics() if adapters is not None else AdapterStatistics())
        return
    adapter = job.arguments(AdapterArguments)
    if job.method == "load_adapter":
        known(adapters).load(adapter)
    else:
        known(adapters).unload(adapter.name)
    job.done(None)
