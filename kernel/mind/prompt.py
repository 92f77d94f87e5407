"""What a model is shown besides the manual: as data, marked and escaped.

    <data from="memory">["the user likes tea"]</data>

Everything that somebody wrote (notes, messages, results of calls, names of processes, the
intent itself) is inside such a block, as JSON in which ``<`` and ``>`` are escapes. So no text
can end its block, look like a block of its own, or spell a token of a chat template.
"""

from __future__ import annotations

from typing import Any

import msgspec

from syscalls.calls import llm

SHOWN = 2000
"""Characters of one block."""

_escapes = str.maketrans({"<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class Context(msgspec.Struct):
    """What is known when a program is asked for."""

    text: str
    """The intent: the words of the user."""
    calls: tuple[str, ...]
    """The calls that the caller may make."""
    processes: list[dict[str, Any]] = []
    memory: list[str] = []
    """Working memory, newest first."""
    observations: list[llm.Step] = []
    """What came of the calls so far."""


def escaped(value: Any) -> str:
    """``value`` as JSON that cannot end a block."""
    return msgspec.json.encode(value, enc_hook=repr).decode().translate(_escapes)


def block(source: str, value: Any, most: int = SHOWN) -> str:
    """``value`` as a block of data, cut at ``most`` characters. ``source`` is the kernel's word."""
    text = msgspec.json.encode(value, enc_hook=repr).decode()
    if len(text) > most:
        text = msgspec.json.encode(text[:most] + " ... (cut)").decode()
    return f'<data from="{source}">{text.translate(_escapes)}</data>'
