"""How nano reads an intent and writes a program. Pure Python: the kernel imports it.

    prompt   <|user|> remind me in 10 minutes to take the bread out<|plan|>
    program  <|sys.alarm|> 10 minutes<|arg|> take the bread out<|end|>

Calls, segments, signals and a few constants are single tokens. Every other argument is a
stretch of the user's own text, copied token by token; the grammar masks whatever is not.
What can be counted (seconds, nice values, numbers of processes) is counted here, by code, from
the copied words. What looks like a token of the dialect in the user's text is broken up
first, so text can never speak for the user's program.

    argument        written as
    segment,signal  <|semantic|>, <|KILL|>, before the other arguments
    nice            a span ("minus five"), or a constant <|19|> for "as low as possible"
    after           a span ("half an hour"), counted by ``durations``
    prompt          <|all|>, the whole text, or a span
    args            <|key|> span <|arg|> span, or <|key:city|> span where the key is not said
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from drivers.nano import durations, numerals

USER, PLAN, END, ARG, KEY, ALL = "user", "plan", "end", "arg", "key", "all"
PAD = "pad"

CALLS: dict[str, tuple[str, ...]] = {
    "mem.write": ("segment", "content"),
    "mem.search": ("query",),
    "mem.forget": ("query",),
    "mem.pin": ("query",),
    "proc.spawn": ("program", "goal?"),
    "proc.signal": ("signal", "target"),
    "proc.list": (),
    "proc.info": ("target",),
    "proc.wait": ("target",),
    "proc.nice": ("target", "nice"),
    "proc.checkpoint": ("target",),
    "proc.fork": ("target", "goal?"),
    "ipc.send": ("to", "body"),
    "ipc.publish": ("topic", "body"),
    "lora.attach": ("adapter", "target"),
    "lora.detach": ("target",),
    "lora.list": (),
    "kv.pin": ("query",),
    "kv.list": (),
    "tool.list": (),
    "tool.call": ("name", "args?"),
    "sys.stats": (),
    "sys.info": (),
    "sys.alarm": ("after", "message"),
    "llm.generate": ("prompt",),
}
"""The calls that nano knows, with the order of their arguments; ``?`` marks what may be absent."""

SEGMENTS = ("semantic", "episodic", "procedural")
SIGNALS = ("TERM", "KILL", "STOP", "CONT", "INT")
NICES = ("19", "10", "5", "0", "-5", "-10", "-20")
KEYS = ("query", "text", "path", "to", "from", "city", "expression", "url", "date", "title", "word")
"""Keys of tool arguments that may be said without being named ("translate: good night")."""
CONSTANTS = frozenset((*SEGMENTS, *SIGNALS, *NICES, ALL, *(f"key:{key}" for key in KEYS)))

NAMES = frozenset(("target", "to", "program", "adapter", "topic", "name"))
"""Arguments that are names: one word, looked up by the kernel and never understood here."""

SPECIAL = (
    PAD, END, USER, PLAN, ARG, KEY, ALL, *CALLS, *SEGMENTS, *SIGNALS, *NICES,
    *(f"key:{key}" for key in KEYS),
)  # fmt: skip
"""The tokens that are more than text, in the order of their ids."""

MOST_STEPS = 8
MOST_WORDS = 200
"""Distinct words of a text up to which names are held to be single words."""
MOST_TOKENS = 400
"""A program of more tokens is no use to anybody; the limit for a generation."""

_ATOM = re.compile(r"[0-9]+|[^\W0-9_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+|.", re.DOTALL)
"""What is copied whole: a number, a word (not where words are written without spaces)."""
_TOKEN = re.compile(r"<\|([A-Za-z0-9_.:-]+)\|>")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "`": "`", "«": "»",
           "《": "》"}  # fmt: skip
_BOUNDS = " \t\r\n,;:，；：、"


class Malformed(ValueError):
    """What the model wrote is no program of the dialect, or has a value that nobody can count."""


def token(name: str) -> str:
    """A token as it is written in prompts, outputs and grammars."""
    return f"<|{name}|>"


STOP = token(END)


def harmless(text: str) -> str:
    """``text`` without anything that the tokenizer would take for a token of the dialect."""
    return text.replace("<|", "< |")


def render(text: str) -> str:
    """The prompt for an intent."""
    return f"{token(USER)} {harmless(text)}{token(PLAN)}"


def grammar(text: str, calls: Collection[str]) -> str:
    """A Lark grammar (llguidance) of the programs over ``calls`` that copy from ``text``.

    Calls that nano does not know are left out. With no call at all only the empty program
    is left.
    """
    known = [call for call in CALLS if call in calls]
    if not known:
        return "start: \n"
    rules = [f"start: step{{0,{MOST_STEPS}}}", "step: " + " | ".join(map(_rule, known))]
    rules += [f"{_rule(call)}: {_body(call)}" for call in known]
    used = "\n".join(rules)
    shared = {
        "segment": _either(SEGMENTS),
        "signal": _either(SIGNALS),
        "nice": f"{token(ARG)} span | {_either(NICES)}",
        "prompt": f"span | {token(ALL)}",
        "pair": f"( {token(KEY)} span {token(ARG)} | {_either(f'key:{k}' for k in KEYS)} ) span",
    }
    rules += [f"{name}: {body}" for name, body in shared.items() if re.search(rf"\b{name}\b", used)]
    rules += ["span: SPAN", f"SPAN: {_stretch(' ' + harmless(text))}", *_names(harmless(text))]
    return "\n".join(rules) + "\n"


def parse(output: str | Sequence[str], text: str) -> list[dict[str, Any]]:
    """The program of an output, as ``[{"call": ..., "args": {...}}, ...]``.

    ``output`` is the model's text with its tokens, or the list of them; what follows the end
    token does not count. Raises Malformed.
    """
    joined = output if isinstance(output, str) else "".join(output)
    joined = joined.partition(STOP)[0]
    marks = list(_TOKEN.finditer(joined))
    if joined[: marks[0].start() if marks else len(joined)].strip():
        raise Malformed("the program does not start with a call")
    steps = list[list[tuple[str, str]]]()
    for at, mark in enumerate(marks):
        stop = marks[at + 1].start() if at + 1 < len(marks) else len(joined)
        if mark[1] in CALLS:
            steps.append([])
        elif not steps:
            raise Malformed("an argument without a call")
        steps[-1].append((mark[1], joined[mark.end() : stop]))
    return [_step(parts, text) for parts in steps]


def _rule(call: str) -> str:
    return call.replace(".", "_")


def _stretch(text: str) -> str:
    """The terminal of any stretch of ``text`` that cuts no word and no number."""
    chunks = json.dumps(_ATOM.findall(text), ensure_ascii=False)
    return '%regex { "substring_chunks": ' + chunks + " }"


def _names(text: str) -> list[str]:
    """Rules of a name: a stretch of one word. In a text of very many words, of any."""
    words = [w for w in dict.fromkeys(text.split()) if any(c.isalnum() for c in w)]
    if not words or len(words) > MOST_WORDS:
        return ["NAME: SPAN"]
    either = " | ".join(f"W{at}" for at in range(len(words)))
    return [f'NAME: " "? ( {either} )', *(f"W{n}: {_stretch(w)}" for n, w in enumerate(words))]


def _either(names: Iterable[str]) -> str:
    return "( " + " | ".join(token(name) for name in names) + " )"


def _body(call: str) -> str:
    """The grammar of one call: the enumeration first, then spans with separators."""
    out = [token(call)]
    separate = False
    for name in CALLS[call]:
        if name in {"segment", "signal"}:
            out.append(name)
        elif name == "args?":
            out.append("pair*")
        elif name == "nice":
            out.append("nice")
        else:
            plain = name.rstrip("?")
            kind = "NAME" if plain in NAMES else "prompt" if plain == "prompt" else "span"
            term = f"{token(ARG)} {kind}" if separate else kind
            out.append(f"( {term} )?" if name.endswith("?") else term)
            separate = True
    return " ".join(out)


def _step(parts: list[tuple[str, str]], text: str) -> dict[str, Any]:
    """One call from its tokens and the text after each."""
    call, first = parts[0]
    wanted = list(CALLS[call])
    args = dict[str, Any]()
    if call == "tool.call":
        args = {"name": _text("name", first), "args": _pairs(parts[1:])}
        if not args["name"]:
            raise Malformed("tool.call: lacks name")
        return {"call": call, "args": {key: value for key, value in args.items() if value != {}}}
    values = [value for value in [first] if value.strip()]
    for name, after in parts[1:]:
        if name in SEGMENTS or name in SIGNALS:
            args["segment" if name in SEGMENTS else "signal"] = name
            values += [after] if after.strip() else []
        elif name in NICES:
            args["nice"] = int(name)
        elif name == ALL:
            args["prompt"] = text
        elif name == ARG:
            values.append(after)
        else:
            raise Malformed(f"{token(name)} has no place in {call}")
    for name in (name.rstrip("?") for name in wanted if name.rstrip("?") not in args):
        if values:
            args[name] = _value(name, values.pop(0))
    missing = [name for name in wanted if not name.endswith("?") and args.get(name) in (None, "")]
    if missing or values:
        raise Malformed(f"{call}: {'lacks ' + missing[0] if missing else 'too many arguments'}")
    order = [name.rstrip("?") for name in wanted]
    return {"call": call, "args": {n: args[n] for n in order if args.get(n) not in (None, "")}}


def _value(name: str, span: str) -> Any:
    """An argument from the words that say it."""
    plain = _text(name, span)
    if name == "after":
        value = durations.seconds(plain)
        if value is None:
            raise Malformed(f"no duration: {plain!r}")
        return value
    if name == "nice":
        number = numerals.integer(plain)
        if number is None or not -20 <= number <= 19:
            raise Malformed(f"no nice value from -20 to 19: {plain!r}")
        return number
    if name in {"target", "to"} and re.fullmatch(r"[1-9][0-9]{0,9}", plain):
        return int(plain)
    return plain


def _text(name: str, span: str) -> str:
    """The span without what only surrounds it: spaces, separators, one pair of quotes."""
    plain = span.strip(_BOUNDS)
    if len(plain) > 2 and _QUOTES.get(plain[0]) == plain[-1] and plain[0] not in plain[1:-1]:
        plain = plain[1:-1].strip()
    if name in NAMES:
        plain = plain.lstrip("#@").rstrip(".,!?。，！？") or plain
    return plain or span.strip()


def _pairs(parts: list[tuple[str, str]]) -> dict[str, Any]:
    """Tool arguments; a value that is a JSON number or a truth value becomes one."""
    pairs = dict[str, Any]()
    key = None
    for name, after in parts:
        if name == KEY:
            key = _text("key", after)
        elif name.startswith("key:"):
            pairs[name.removeprefix("key:")] = _scalar(_text("value", after))
            key = None
        elif name == ARG and key:
            pairs[key] = _scalar(_text("value", after))
            key = None
        else:
            raise Malformed(f"{token(name)} has no place in the arguments of a tool")
    return pairs


def _scalar(text: str) -> Any:
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,14})", text):
        return int(text)
    if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,8})\.[0-9]{1,6}", text) and not text.endswith("0"):
        return float(text)
    return text
