"""Tool memory: what earlier calls of a tool say of the next one. Pure: no store, no clock.

    Trace        one distinct call (tool, schema, arguments) and how it went so far
    Episode      what one caller has called since it began: what it has seen and not yet mended
    Experience   the traces of a space, counted by what the calls had in common
    Verdict      of a call that is about to be made: how likely it fails, and what is known

A call is compared with earlier ones by features: a value of an argument, an identifier that no
result of the episode has shown, an argument that is absent, another tool that was not called
before, an error of the same tool that is not mended yet. Each has a failure rate, drawn to the
tool's own by a few virtual calls (the m-estimate, Cestnik 1990); the most telling one counts.
The very same call, where it was made before, counts more than any of them.
"""

from __future__ import annotations

import re
from collections import deque
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED_AFTER = 2
"""Failures in a row, of one kind, after which the very same call is refused."""
VIRTUAL = 4.0
"""Calls at the tool's own rate that each feature is taken to have had besides."""
LIKELY = 0.5
"""Risk from which on a call is expected to fail."""
SIMILAR = 0.3
"""Share of the arguments that two calls must have in common to be compared in words."""
ADVICE = 3
"""Earlier failures that advice names."""
COMPARED = 200
"""Failures of a tool that a call is compared with: the last ones."""
BEFORE = "before "
EPISODE = 256
"""Calls of an episode that are remembered."""
SEEN = 20_000
"""Identifiers of an episode that are remembered."""
LONGEST = 200
"""Characters of an error, or of a value in advice, that are kept."""

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_VARIABLE = re.compile(r"[\w#.@/-]*\d[\w#.@/-]*")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{4,}")
_TRANSIENT = re.compile(
    r"\b(time[ds]?[ -]?out|unavailable|temporar\w*|try again|retry|busy|rate.?limit\w*|"
    r"too many requests|overload\w*|not ready|pending|in progress|locked|deadlock|"
    r"connection|reset by peer|E(TIME|AGAIN|BUSY|CANCELED|IO|SRCH|DQUOT|NODEV|KERNEL)|"
    r"429|50[0234])\b",
    re.I,
)


class Trace(msgspec.Struct):
    """One distinct call and how it went; the ``meta`` of a procedural record."""

    tool: str
    schema: str
    """Fingerprint of the tool's schema when it was called: of another schema it says nothing."""
    args: dict[str, Any]
    ok: bool = True
    """How it went the last time."""
    error: str = ""
    kind: str = ""
    """The error without its numbers, names and quotations."""
    transient: bool = False
    """Whether the last error may pass by itself."""
    row: int = 0
    """Failures of this kind since the last success."""
    failed: int = 0
    worked: int = 0
    at: float = 0.0
    duration: float = 0.0
    """Seconds, of the last call."""
    unseen: list[str] = []
    """Paths of arguments with an identifier that the caller had not been shown."""
    before: list[str] = []
    """Tools that had answered the caller before."""
    after: str = ""
    """Kind of this tool's error that the caller had not mended when it called."""
    cure: dict[str, Any] | None = None
    """The arguments that then worked."""
    cured_by: str = ""
    """Digest of that call."""

    @property
    def digest(self) -> str:
        """What identifies the call."""
        return digest(self.tool, self.schema, self.args)

    def happened(self, ok: bool, error: str, at: float, duration: float) -> None:
        """Count one more call of it."""
        kind = "" if ok else error_kind(error)
        same = kind == self.kind and not self.ok
        self.row = 0 if ok else self.row + 1 if same else 1
        self.failed += not ok
        self.worked += ok
        self.ok, self.error, self.kind = ok, error[:LONGEST], kind
        self.transient = not ok and is_transient(error)
        self.at, self.duration = at, duration


class Verdict(msgspec.Struct):
    """What is known of a call that is about to be made."""

    risk: float
    """How likely it fails, 0 to 1."""
    base: float
    """The tool's own failure rate."""
    because: str = ""
    """The feature that counted, in words."""
    refused: str = ""
    """Why it should not be made at all; empty where it may."""
    advice: str = ""
    similar: list[str] = []
    """Digests of the earlier failures that the advice is of."""

    @property
    def fails(self) -> bool:
        """Whether it is expected to fail."""
        return self.risk >= LIKELY


# --- calls in a form that can be compared


def normal(value: Any) -> Any:
    """Arguments in one form: keys in order, whole floats as integers."""
    if isinstance(value, dict):
        return {str(key): normal(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def digest(tool: str, schema: str, args: dict[str, Any]) -> str:
    """32 hexadecimal digits that stand for a call."""
    text = msgspec.json.encode([tool, schema, normal(args)], order="deterministic", enc_hook=repr)
    return blake2b(text, digest_size=16).hexdigest()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each argument; items of a list share a path."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from leaves(value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item, f"{path}[]")
    else:
        yield path, normal(value)


def identifiers(text: str) -> set[str]:
    """The words of a text that look like identifiers: at least four characters, a digit."""
    return {word for word in _IDENTIFIER.findall(text) if any(map(str.isdigit, word))}


def error_kind(error: str) -> str:
    """An error without what differs from one call to the next."""
    line = (error.strip() or "error").splitlines()[0].lower().removeprefix("error:").strip()
    return _VARIABLE.sub("#", _QUOTED.sub('"#"', line))[:LONGEST]


def is_transient(error: str) -> bool:
    """Whether an error may pass by itself, as far as its words tell."""
    return _TRANSIENT.search(error) is not None


def similarity(one: dict[str, Any], other: dict[str, Any]) -> float:
    """0 to 1: how much the arguments of two calls have in common; like words count in part."""
    ours, theirs = _grouped(one), _grouped(other)
    paths = ours.keys() | theirs.keys()
    if not paths:
        return 1.0
    total = 0.0
    for path in paths:
        mine, its = ours.get(path, []), theirs.get(path, [])
        if mine == its:
            total += 1.0
        elif mine and its:
            ratio = SequenceMatcher(None, _short(mine), _short(its)).ratio()
            total += ratio if ratio >= 0.6 else 0.0
    return total / len(paths)


def difference(failed: dict[str, Any], worked: dict[str, Any]) -> str:
    """In words: what the call that worked had differently."""
    ours, theirs = _grouped(failed), _grouped(worked)
    parts = []
    for path in sorted(ours.keys() | theirs.keys()):
        mine, its = ours.get(path), theirs.get(path)
        if mine != its:
            parts.append(
                f"{path} = {_short(its)} instead of {_short(mine)}"
                if mine is not None and its is not None
                else f"with {path} = {_short(its)}"
                if its is not None
                else f"without {path}"
            )
    return "; ".join(parts) or "the same arguments, later"


def _grouped(args: dict[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path, value in leaves(args):
        found.setdefault(path, []).append(value)
    return found


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = msgspec.json.encode(value, enc_hook=repr).decode()
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


# --- one caller


class Episode:
    """What one caller has called so far, as far as the next call may depend on it."""

    def __init__(self) -> None:
        self._calls: deque[Trace] = deque(maxlen=EPISODE)
        self._seen: dict[str, None] = {}
        self._answered: dict[str, None] = {}
        self._unmended: dict[str, list[Trace]] = {}

    def begin(self, tool: str, schema: str, args: dict[str, Any]) -> Trace:
        """The trace of a call that is about to be made, with what it may depend on."""
        unseen = {
            path
            for path, value in leaves(args)
            if isinstance(value, str) and identifiers(value) == {value} and value not in self._seen
        }
        failures = self._unmended.get(tool, [])
        return Trace(
            tool,
            schema,
            normal(args),
            unseen=sorted(unseen),
            before=[name for name in self._answered if name != tool],
            after=failures[-1].kind if failures else "",
        )

    def end(self, trace: Trace, result: str) -> list[Trace]:
        """Take in how a call went; the failed calls that it mended, if it worked."""
        self._calls.append(trace)
        if not trace.ok:
            failures = self._unmended.setdefault(trace.tool, [])
            failures.append(trace)
            del failures[:-8]
            return []
        self._answered[trace.tool] = None
        for word in identifiers(result):
            self._seen.pop(word, None)
            self._seen[word] = None
        while len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]
        failures = self._unmended.pop(trace.tool, [])
        return [each for each in failures if similarity(each.args, trace.args) >= SIMILAR]


# --- everything that a space remembers of a tool


class Experience:
    """The traces of a space. ``learn`` may be told of one again: the last word counts."""

    def __init__(self, refused_after: int = REFUSED_AFTER) -> None:
        self._refused_after = refused_after
        self._traces: dict[str, Trace] = {}
        self._by_tool: dict[str, dict[str, None]] = {}
        self._counts: dict[str, dict[str, list[int]]] = {}
        """Of each tool (with its schema), by feature: failures, calls."""

    def __len__(self) -> int:
        return len(self._traces)

    def get(self, digest: str) -> Trace | None:
        """What is known of a call."""
        return self._traces.get(digest)

    def learn(self, digest: str, trace: Trace) -> None:
        """Know this of a call from now on."""
        self.unlearn(digest)
        tool = _known_as(trace.tool, trace.schema)
        self._traces[digest] = trace
        self._by_tool.setdefault(tool, {})[digest] = None
        self._count(tool, trace, 1)

    def unlearn(self, digest: str) -> None:
        """Know nothing of a call any more."""
        trace = self._traces.pop(digest, None)
        if trace is not None:
            tool = _known_as(trace.tool, trace.schema)
            self._by_tool[tool].pop(digest)
            self._count(tool, trace, -1)

    def _count(self, tool: str, trace: Trace, sign: int) -> None:
        counts = self._counts.setdefault(tool, {})
        for feature in ("", *_features(trace)):
            pair = counts.setdefault(feature, [0, 0])
            pair[0] += sign * trace.failed
            pair[1] += sign * (trace.failed + trace.worked)
            if not pair[1]:
                del counts[feature]

    def base(self, tool: str, schema: str) -> float:
        """The failure rate of a tool, drawn to that of all tools."""
        failed = sum(pair[""][0] for pair in self._counts.values() if "" in pair)
        calls = sum(pair[""][1] for pair in self._counts.values() if "" in pair)
        overall = (failed + 0.5) / (calls + 5)
        mine = self._counts.get(_known_as(tool, schema), {}).get("", [0, 0])
        return float((mine[0] + VIRTUAL * overall) / (mine[1] + VIRTUAL))

    def judge(self, trace: Trace) -> Verdict:
        """What is known of a call that ``Episode.begin`` has prepared."""
        base = self.base(trace.tool, trace.schema)
        same = self._traces.get(trace.digest)
        verdict = Verdict(base, base)
        for feature, failed, calls in self._evidence(trace):
            rate = (failed + VIRTUAL * base) / (calls + VIRTUAL)
            if failed and rate > verdict.risk:
                verdict.risk = rate
                verdict.because = f"{failed} of {calls} calls failed {_words(feature)}"
        if same is not None:
            self._same(same, verdict)
        self._advise(trace, verdict)
        return verdict

    def _evidence(self, trace: Trace) -> Iterator[tuple[str, int, int]]:
        """Features of a call, with the failures and the calls that had them too."""
        counts = self._counts.get(_known_as(trace.tool, trace.schema), {})
        for feature in _features(trace):
            failed, calls = counts.get(feature, (0, 0))
            if not feature.startswith(BEFORE):
                yield feature, failed, calls
        all_failed, all_calls = counts.get("", (0, 0))
        for feature, (failed, calls) in counts.items():
            if feature.startswith(BEFORE) and feature[len(BEFORE) :] not in trace.before:
                yield f"without {feature[len(BEFORE) :]}", all_failed - failed, all_calls - calls

    def _same(self, same: Trace, verdict: Verdict) -> None:
        """The very same call was made before: that counts more than what is like it."""
        if same.ok:
            verdict.risk = verdict.base / 2
            verdict.because = "the same call worked the last time"
            return
        if same.transient:
            return
        verdict.risk = (same.row + verdict.base) / (same.row + 1)
        verdict.because = f"the same call failed {same.row} times in a row: {same.error}"
        if same.row >= self._refused_after:
            verdict.refused = verdict.because

    def _advise(self, trace: Trace, verdict: Verdict) -> None:
        """Name the most similar failures, one of each kind, and what then worked."""
        known = self._by_tool.get(_known_as(trace.tool, trace.schema), {})
        failed = [digest for digest in reversed(known) if self._traces[digest].failed]
        near = []
        for digest in failed[:COMPARED]:
            other = self._traces[digest]
            near.append((similarity(trace.args, other.args), other.at, digest))
        near.sort(reverse=True)
        lines: list[str] = []
        kinds: set[str] = set()
        for share, _, digest in near:
            other = self._traces[digest]
            if share < SIMILAR or len(lines) == ADVICE or other.kind in kinds:
                continue
            kinds.add(other.kind)
            verdict.similar.append(digest)
            lines.append(_told(trace, other, share))
        verdict.advice = "\n".join(lines)


def _told(trace: Trace, other: Trace, share: float) -> str:
    """One earlier failure in words."""
    same = "the same call" if share == 1.0 else f"a call with {share:.0%} of these arguments"
    failed = f"{same} failed {other.failed} of {other.failed + other.worked} times"
    line = f"{failed}: {other.error}" if other.error else failed
    if other.cure is not None:
        return f"{line}. What then worked: {difference(other.args, other.cure)}"
    return f"{line}. Nothing is known to have worked then"


def _known_as(tool: str, schema: str) -> str:
    return f"{tool} {schema}"


def _features(trace: Trace) -> Iterator[str]:
    """What a call has in common with others, as text."""
    if trace.after:
        yield f"after {trace.after}"
    for path in trace.unseen:
        yield f"unseen {path}"
    for path, value in set(_hashable(trace.args)):
        yield f"value {path}={value}"
    for name in trace.before:
        yield BEFORE + name


def _hashable(args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, value in leaves(args):
        text = _short(value)
        if len(text) <= LONGEST:
            yield path, text


def _words(feature: str) -> str:
    """A feature for people."""
    name, _, rest = feature.partition(" ")
    return {
        "after": f"after the error: {rest}",
        "unseen": f"with a {rest} that no result had shown",
        "value": f"with {rest}",
        "without": f"without a call of {rest} before",
    }[name]
