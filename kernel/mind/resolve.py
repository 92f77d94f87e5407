"""From planned calls to structs of the table: by code, the same every time.

A model writes names as the user said them. What they stand for is looked up here, at the
moment of the call: nobody is ESRCH, several are ECONFLICT with the candidates.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from syscalls.calls import llm
from syscalls.errors import ECONFLICT, EINVAL, ESRCH
from syscalls.shapes import ChatMessage
from syscalls.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procs.process import Process
    from syscalls.table import Call

TARGETS = frozenset({"target", "to"})
OTHERS = frozenset({"mem.graph"})
"""Calls whose ``to`` is no process."""
SELF = frozenset({"me", "myself", "self", "this shell", "我", "自己", "我自己"})
ANSWER = 1024
"""Tokens of an answer to a person's question."""
_NUMBERED = re.compile(r"(?:apid|pid|process|进程)?\s*#?\s*([1-9][0-9]{0,18})", re.IGNORECASE)


class Processes(Protocol):
    """What is asked of the process table."""

    def find(self, target: int | str) -> Process:
        """A process by number or exact name. Raises ESRCH, ECONFLICT."""

    def live(self) -> Sequence[Process]:
        """Those that have not ended."""


def to_call(planned: llm.Planned, processes: Processes, caller: int) -> Call:
    """The struct of a planned call, with names resolved. Raises EINVAL, ESRCH, ECONFLICT."""
    call = checked(planned)
    changes: dict[str, Any] = {}
    if planned.call not in OTHERS:
        for field in TARGETS:
            ref = getattr(call, field, None)
            if isinstance(ref, str) and field in planned.args:
                changes[field] = resolve(ref, processes, caller)
    if isinstance(call, llm.Generate) and call.prompt is not None:
        # A person's words are a turn of a conversation, not the beginning of a text.
        changes = {"prompt": None, "messages": [ChatMessage("user", call.prompt)]}
        if "max_tokens" not in planned.args:
            changes["max_tokens"] = ANSWER
    return msgspec.structs.replace(call, **changes) if changes else call


def checked(planned: llm.Planned) -> Call:
    """The struct of a planned call as it is. Raises EINVAL."""
    entry = TABLE.by_name.get(planned.call)
    if entry is None:
        raise EINVAL(f"there is no syscall {planned.call!r}", call=planned.call)
    if entry.name == "llm.intent":
        raise EINVAL("a program holds no llm.intent", call=planned.call)
    try:
        return msgspec.convert(planned.args, entry.call)
    except msgspec.ValidationError as error:
        raise EINVAL(f"{planned.call}: {error}", call=planned.call) from error


def resolve(name: str, processes: Processes, caller: int) -> int:
    """The APID that a user means by a name. Raises ESRCH, ECONFLICT.

    In this order: the exact name, a number however it is written, the caller itself, the name
    without regard to capitals.
    """
    plain = name.strip()
    try:
        return processes.find(plain).apid
    except ESRCH as error:
        missing = error
    numbered = _NUMBERED.fullmatch(plain)
    if numbered:
        return processes.find(int(numbered[1])).apid
    if plain.casefold() in SELF:
        return caller
    folded = _folded(plain)
    fitting = [process.apid for process in processes.live() if _folded(process.name) == folded]
    if len(fitting) > 1:
        raise ECONFLICT(
            f"{len(fitting)} processes are named {plain!r}: "
            + ", ".join(str(apid) for apid in fitting[:10]),
            hint="give the number instead",
            candidates=fitting,
        )
    if not fitting:
        raise missing
    return fitting[0]


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.casefold())
