"""What is said about calls that were made: a short sentence each, by code.

For dialects that do not speak themselves, and for programs that were given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syscalls.calls import llm

LONG = 120
NOT_UNDERSTOOD = "I did not understand that as anything that I can do."
NOTHING = "There is nothing to do."
NO_MODEL = (
    "No general model is attached, so I cannot answer that: only the small model that turns "
    "words into system calls is loaded. Attach one with `engram boot --model FOLDER_OR_NAME`."
)


def reply(results: Sequence[llm.Step]) -> str:
    """One line a call."""
    return "\n".join(sentence(step) for step in results) if results else NOTHING


def sentence(step: llm.Step) -> str:
    """What one call did, or why it did not."""
    value = step.value if isinstance(step.value, dict) else {}
    if not step.ok:
        return _failure(step, value)
    say = SENTENCES.get(step.call)
    return say(step.args, value) if say is not None else f"{step.call}: done."


def left_out(planned: llm.Planned) -> str:
    """That a destructive call was not taken from a quotation."""
    words = ", ".join(f"{name} {value}" for name, value in planned.args.items())
    return f"I left out {planned.call} ({words}): only quoted text speaks of it."


def _failure(step: llm.Step, error: dict[str, Any]) -> str:
    name, message = error.get("name", "EIO"), error.get("message", "it failed")
    if step.call == "llm.generate" and name == "ENODEV":
        return NO_MODEL
    candidates = error.get("detail", {}).get("candidates")
    hint = error.get("hint", "")
    more = f" ({hint})" if hint and (candidates or name in ("ENOSYS", "ENODEV", "EIO")) else ""
    return f"{step.call} failed: {name}: {message}{more}."


def _short(text: Any) -> str:
    plain = " ".join(str(text).split())
    return plain if len(plain) <= LONG else plain[: LONG - 3] + "..."


def _count(number: int, thing: str) -> str:
    plural = thing + ("es" if thing.endswith("s") else "s")
    return f"{number} {thing if number == 1 else plural}"


def _hits(_args: dict[str, Any], value: dict[str, Any]) -> str:
    hits = value.get("hits", [])
    if not hits:
        return "Nothing found."
    lines = [f"  - {_short(hit['content'])}" for hit in hits[:5]]
    more = [f"  ... and {len(hits) - 5} more"] if len(hits) > 5 else []
    return "\n".join([f"Found {_count(len(hits), 'record')}:", *lines, *more])


def _processes(_args: dict[str, Any], value: dict[str, Any]) -> str:
    found = value.get("processes", [])
    lines = [f"  {p['apid']} {p['name']} {p['state'].lower()}" for p in found[:20]]
    return "\n".join([f"{_count(len(found), 'process')}:", *lines])


def _info(_args: dict[str, Any], value: dict[str, Any]) -> str:
    goal = f", goal: {_short(value['goal'])}" if value.get("goal") else ""
    return (
        f"Process {value['apid']} ({value['name']}) is {value['state'].lower()}; "
        f"{_count(value['calls'], 'call')} made{goal}."
    )


def _system(_args: dict[str, Any], value: dict[str, Any]) -> str:
    return (
        f"EngramOS {value['version']}, up {value['uptime']:.0f} s, "
        f"{_count(value['processes'], 'process')}, boot {value['boot']}."
    )


def _stats(_args: dict[str, Any], value: dict[str, Any]) -> str:
    stats = value.get("stats", {})
    alive = stats.get("processes", {}).get("alive", 0)
    kernel = stats.get("kernel", {})
    return (
        f"Up {kernel.get('uptime', 0):.0f} s, {_count(kernel.get('calls', 0), 'call')} served, "
        f"{_count(alive, 'process')} alive."
    )


def _exit(_args: dict[str, Any], value: dict[str, Any]) -> str:
    result = f" with {_short(value['value'])}" if value.get("value") is not None else ""
    reason = value.get("reason", "")
    return f"Process {value['apid']} ended{result}: status {value['status']} ({reason})."


def _forgot(_args: dict[str, Any], value: dict[str, Any]) -> str:
    kept = value.get("kept", [])
    spared = f" {_count(len(kept), 'record')} pinned and kept: unpin first." if kept else ""
    return f"Forgot {_count(len(value.get('rids', [])), 'record')}.{spared}"


SENTENCES: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "mem.write": lambda a, v: f"Noted in {a.get('segment')} memory: {_short(a.get('content'))}",
    "mem.search": _hits,
    "mem.forget": _forgot,
    "mem.pin": lambda a, v: f"Pinned {_count(len(v.get('records', [])), 'record')}.",
    "proc.spawn": lambda a, v: f"Started {a.get('program')} as process {v.get('apid')}.",
    "proc.fork": lambda a, v: f"Forked {a.get('target')} as process {v.get('apid')}.",
    "proc.signal": lambda a, v: f"Sent {a.get('signal', 'TERM')} to {a.get('target')}.",
    "proc.list": _processes,
    "proc.info": _info,
    "proc.wait": _exit,
    "proc.nice": lambda a, v: f"Set the nice value of {a.get('target')} to {a.get('nice')}.",
    "proc.checkpoint": lambda a, v: f"Wrote an image of {a.get('target')}.",
    "ipc.send": lambda a, v: f"Sent to {a.get('to')}: {_short(a.get('body'))}",
    "ipc.publish": lambda a, v: (
        f"Published on {a.get('topic')}: {_count(v.get('delivered', 0), 'process')} took it."
    ),
    "lora.attach": lambda a, v: f"Attached the adapter {a.get('adapter')}.",
    "lora.detach": lambda a, v: "Detached the adapter.",
    "lora.list": lambda a, v: f"{_count(len(v.get('adapters', [])), 'adapter')}.",
    "kv.pin": lambda a, v: f"Pinned a prefix of {_count(v.get('tokens', 0), 'token')}.",
    "kv.list": lambda a, v: f"{_count(len(v.get('prefixes', [])), 'pinned prefix')}.",
    "tool.list": lambda a, v: f"{_count(len(v.get('tools', [])), 'tool')}.",
    "tool.call": lambda a, v: (
        f"{a.get('name')} answered: {_short(v.get('value'))}"
        if v.get("ok", True)
        else f"{a.get('name')} failed: {_short(v.get('error'))}"
    ),
    "sys.stats": _stats,
    "sys.info": _system,
    "sys.alarm": lambda a, v: f"In {a.get('after'):g} s I shall say: {_short(a.get('message'))}",
    "llm.generate": lambda a, v: str(v.get("text", "")).strip(),
}
