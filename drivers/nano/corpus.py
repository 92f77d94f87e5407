"""The seed corpus: hand-written phrasings with slots, and what fills the slots.

The format is in ``corpus/README.md``. A phrasing is cut into pieces; the pieces that are
arguments keep their slot, so that noise and composition can never lose track of them:

    "remind me in {after} to {message}"
     [remind me in ] [{after}] [ to ] [{message}]      after={after} message={message}
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from drivers.nano import durations
from drivers.nano.dialect import CALLS, CONSTANTS

HERE = Path(__file__).parent / "corpus"
LANGUAGES = ("en", "zh")
SLOT = re.compile(r"\{([a-z]+)([2-9]?)\}")
_ARGUMENT = re.compile(r'([a-z_]+)=("[^"]*"|\S+)(?:\s+|$)')
_CJK = re.compile(r"[\u3400-\u9fff]")


class Piece(msgspec.Struct, frozen=True):
    """A stretch of an utterance; ``slot`` names the argument it is, "" for none."""

    text: str
    slot: str = ""


class Argument(msgspec.Struct, frozen=True):
    """``value`` is a slot when ``spanned``, else a constant of the dialect."""

    name: str
    value: str
    spanned: bool


class Step(msgspec.Struct, frozen=True):
    """One call of a program whose arguments point into the pieces."""

    call: str
    args: tuple[Argument, ...] = ()


class Seed(msgspec.Struct, frozen=True):
    """One phrasing and the program it stands for."""

    language: str
    source: str
    """File and line."""
    register: str
    pieces: tuple[Piece, ...]
    program: tuple[Step, ...]


class Unaligned(ValueError):
    """A fixed argument is no span of its phrasing."""


def outside(text: str, mark: str) -> list[str]:
    """Split ``text`` at ``mark`` with spaces around it, but not inside double quotes."""
    parts, start, quoted, at = list[str](), 0, False, 0
    wide = f" {mark} "
    while at < len(text):
        if text[at] == '"':
            quoted = not quoted
        elif not quoted and text.startswith(wide, at):
            parts.append(text[start:at])
            at += len(wide) - 1
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def program(text: str) -> list[tuple[str, dict[str, str]]]:
    """``'call k=v k="v v" ; call'`` as calls with their arguments; ``-`` is the empty program."""
    if text.strip() in {"", "-"}:
        return []
    steps = []
    for part in outside(text.strip(), ";"):
        call, _, rest = part.strip().partition(" ")
        rest, args, at = rest.strip(), dict[str, str](), 0
        if call not in CALLS:
            raise ValueError(f"unknown call: {call}")
        while at < len(rest):
            found = _ARGUMENT.match(rest, at)
            if not found:
                raise ValueError(f"cannot read arguments: {rest[at:]!r}")
            key, value = found.groups()
            args[key] = value[1:-1] if value.startswith('"') else value
            at = found.end()
        steps.append((call, args))
    return steps


Lines = Iterator[tuple[int, list[list[tuple[str, dict[str, str]]]], str, str]]


def lines(path: Path) -> Lines:
    """Line number, accepted programs, register and phrasing of each phrasing of a file."""
    programs: list[list[tuple[str, dict[str, str]]]] = []
    register = ""
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            programs = [program(part) for part in outside(line[1:].strip() + " ", "||")]
        elif line.startswith("%"):
            register = line[1:].strip()
        else:
            yield number, programs, register, line


def seeds(language: str) -> list[Seed]:
    """Every phrasing of a language. Raises Unaligned where an argument is no span of it."""
    found = []
    for path in sorted((HERE / language).glob("*.txt")):
        for number, programs, register, text in lines(path):
            source = f"{language}/{path.name}:{number}"
            try:
                found.append(_seed(language, source, register, text, programs[0]))
            except Unaligned as error:
                raise Unaligned(f"{source}: {error}") from error
    return found


def fillers(language: str) -> dict[str, list[str]]:
    """What may stand in each kind of slot."""
    return {path.stem: _plain(path) for path in sorted((HERE / language / "fillers").glob("*.txt"))}


def parts(language: str) -> dict[str, list[str]]:
    """Preambles, trailers and connectives; spaces at the ends of a line count when quoted."""
    folder = HERE / language / "parts"
    return {path.stem: _plain(path) for path in sorted(folder.glob("*.txt"))}


def _plain(path: Path) -> list[str]:
    rows = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row and not row.startswith("#")]


def _seed(
    language: str, source: str, register: str, text: str, steps: list[tuple[str, dict[str, str]]]
) -> Seed:
    pieces = _cut(text)
    built = []
    fixed = dict[str, str]()
    # longer texts first, so that a name inside a longer argument is not taken from it
    wanted = sorted(
        {(v, k == "after") for _, args in steps for k, v in args.items() if _needs_span(k, v)},
        key=lambda pair: -len(pair[0]),
    )
    whole = [call for call, _ in steps] == ["llm.generate"] and not SLOT.search(text)
    for value, is_duration in wanted:
        if not whole:
            pieces, fixed[value] = mark(pieces, value, len(fixed), is_duration=is_duration)
    for call, args in steps:
        arguments = []
        for key, value in args.items():
            if whole:
                arguments.append(Argument(key, "all", spanned=False))
            elif SLOT.fullmatch(value):
                arguments.append(Argument(key, value, spanned=True))
            elif value in fixed:
                arguments.append(Argument(key, fixed[value], spanned=True))
            else:
                arguments.append(Argument(key, value, spanned=False))
        built.append(Step(call, tuple(arguments)))
    return Seed(language, source, register, tuple(pieces), tuple(built))


def _needs_span(key: str, value: str) -> bool:
    if SLOT.fullmatch(value) or key in {"segment", "signal"}:
        return False
    return not (key == "nice" and value in CONSTANTS)


def _cut(text: str) -> list[Piece]:
    pieces, at = list[Piece](), 0
    for found in SLOT.finditer(text):
        pieces += [Piece(text[at : found.start()]), Piece(found[0], found[0])]
        at = found.end()
    return [piece for piece in [*pieces, Piece(text[at:])] if piece.text]


def mark(
    pieces: Sequence[Piece], value: str, number: int, *, is_duration: bool = False
) -> tuple[list[Piece], str]:
    """Make the first free stretch that says ``value`` a piece of its own; name its slot.

    Raises Unaligned where there is none.
    """
    for at, piece in enumerate(pieces):
        if piece.slot:
            continue
        where = _duration(piece.text, int(value)) if is_duration else _literal(piece.text, value)
        if where:
            name, (start, stop) = f"fixed{number}", where
            cut = [
                Piece(piece.text[:start]),
                Piece(piece.text[start:stop], name),
                Piece(piece.text[stop:]),
            ]
            kept = [part for part in cut if part.text]
            return [*pieces[:at], *kept, *pieces[at + 1 :]], name
    raise Unaligned(f"{value!r} is not in {''.join(piece.text for piece in pieces)!r}")


def _literal(text: str, value: str) -> tuple[int, int] | None:
    head = r"(?<![A-Za-z0-9_-])" if value[0].isascii() and value[0].isalnum() else ""
    tail = r"(?![A-Za-z0-9_]|-[A-Za-z0-9])" if value[-1].isascii() and value[-1].isalnum() else ""
    found = re.search(head + re.escape(value) + tail, text, re.IGNORECASE)
    return found.span() if found else None


def _duration(text: str, value: int) -> tuple[int, int] | None:
    """The longest stretch of ``text`` that says ``value`` seconds and starts with no filler."""
    chinese = bool(_CJK.search(text))
    units = [m.span() for m in re.finditer(r"[A-Za-z0-9.:/]+|[^\sA-Za-z0-9.:/，。,]", text)]
    best = None
    for i, (start, _) in enumerate(units):
        for _, stop in units[i : i + (10 if chinese else 8)]:
            span = text[start:stop]
            if span.split()[0].casefold() in durations.FILLERS or span[0] in "过過再":
                continue
            if span.endswith(("from", "now", "后", "後", "之")) or re.search(r"[^\w\s./:-]", span):
                continue
            if durations.seconds(span) == value and (not best or stop - start > best[1] - best[0]):
                best = (start, stop)
    return best
