"""Whether a program is right: the same calls in order, names exact, free text nearly so.

The rule of the project's development set: F1 of at least 0.75 over the words of a free text
(characters where there is Chinese), equality of everything else.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

EXACT = frozenset(
    ("segment", "signal", "target", "to", "program", "adapter", "topic", "nice", "after", "name")
)
FLOOR = 0.75
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")

Program = Sequence[Mapping[str, Any]]


def accepted(accept: Sequence[Program], program: Program) -> bool:
    """Whether ``program`` is one of those that are accepted."""
    return any(
        [step["call"] for step in gold] == [step["call"] for step in program]
        and all(_same(g["args"], p["args"]) for g, p in zip(gold, program, strict=True))
        for gold in accept
    )


def _same(gold: Mapping[str, Any], args: Mapping[str, Any]) -> bool:
    if gold.keys() != args.keys():
        return False
    for key, want in gold.items():
        if isinstance(want, dict):
            if not isinstance(args[key], dict) or not _same_pairs(want, args[key]):
                return False
        elif key in EXACT:
            if _plain(want) != _plain(args[key]):
                return False
        elif not _close(want, args[key]):
            return False
    return True


def _same_pairs(gold: Mapping[str, Any], pairs: Mapping[str, Any]) -> bool:
    left = {key.casefold(): value for key, value in gold.items()}
    right = {key.casefold(): value for key, value in pairs.items()}
    return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)


def _plain(value: Any) -> str:
    return str(value).strip().casefold()


def _words(text: str, *, single: bool) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    plain = re.sub(r"[^\w]+", " ", re.sub(r"'s\b|'", "", plain)).strip()
    plain = re.sub(r"^(?:(?:that|to|about)\s+|关于)+", "", plain) or plain
    return [c for c in plain if not c.isspace()] if single else plain.split()


def _close(gold: Any, said: Any) -> bool:
    if _plain(gold) == _plain(said):
        return True
    single = bool(_CJK.search(str(gold)) or _CJK.search(str(said)))
    left, right = _words(str(gold), single=single), _words(str(said), single=single)
    same = sum((Counter(left) & Counter(right)).values())
    return bool(left and right) and 2 * same / (len(left) + len(right)) >= FLOOR - 1e-9
