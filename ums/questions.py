"""Questions made from records: what an adapter is taught, and what it is asked afterwards.

    record                  questions                                         answer
    a fact                  its relation in several wordings                  the object
    a tool call             how to call the tool for this                     the call, as JSON
    a program (meta)        the words that were said                          the program, as JSON
    any other text          each sentence begun, at several places            how it goes on

Made by rules and in a fixed order: the same records give the same questions. Of each thing that
is asked in more than one way at least one way is set aside (``held_out``): whoever learnt the
others, and the thing itself, answers it; whoever learnt the words only does not.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.errors import EINVAL
from syscalls.shapes import Rid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syscalls.records import Record

SHORTEST, LONGEST = 12, 600
"""Characters of a sentence that is taken."""
MOST = 40
"""Sentences of one record."""
CUTS = (0.4, 0.55, 0.7)
"""Shares of a sentence that are shown."""

ENGLISH: dict[str, tuple[str, ...]] = {
    "lives_in": ("Where does {s} live?", "In which place does {s} live?", "What is {s}'s home?"),
    "works_at": ("Where does {s} work?", "Who does {s} work for?", "Who employs {s}?"),
    "studies_at": ("Where does {s} study?", "At which school is {s}?", "Which school is {s} at?"),
    "born_in": ("Where was {s} born?", "In which place was {s} born?", "Where is {s} from?"),
    "born_on": ("When was {s} born?", "On which day was {s} born?", "What is {s}'s birth date?"),
    "married_to": ("Who is {s} married to?", "Who is {s}'s spouse?", "Who did {s} marry?"),
    "reports_to": ("Who does {s} report to?", "Who is {s}'s boss?", "Who is above {s}?"),
    "located_in": ("Where is {s}?", "In which place is {s}?", "Where can {s} be found?"),
}
PLAIN = (
    "What is {s}'s {r}?",
    "What is the {r} of {s}?",
    "Tell me the {r} of {s}.",
    "{s}: {r}?",
)
VERBAL = (
    "{s} {r} what?",
    "What does the record say: {s} {r} ...?",
    "Complete: {s} {r}",
    "{s} {r} whom or what?",
)
CHINESE = ("{s}的{r}是什么？", "请说出{s}的{r}。", "{s}，{r}？", "我想知道{s}的{r}。")
CHINESE_RELATIONS = {
    "lives_in": "居住地", "works_at": "工作单位", "job_title": "职位", "email": "邮箱",
    "phone": "电话", "address": "地址", "age": "年龄", "birthday": "生日", "born_in": "出生地",
    "born_on": "出生日期", "married_to": "配偶", "spouse": "配偶", "name": "名字",
    "favorite_color": "最喜欢的颜色", "studies_at": "学校", "located_in": "位置",
}  # fmt: skip

_CJK = re.compile(r"[\u3400-\u9fff]")
_SENTENCE = re.compile(r"[^\n.!?。！？]+(?:[.](?=\S)[^\n.!?。！？]*)*[.!?。！？]*")
_VERB = re.compile(r"(?:s|ed|_(?:to|in|at|on|of|by|with|for|from))$")


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is asked, in one wording."""

    prompt: str
    answer: str
    sources: list[str] = []
    """Rids of the records that it was made from."""
    group: str = ""
    """The same for all wordings of one thing."""
    held_out: bool = False
    """Never taught: it shows whether more than words was learnt."""
    accept: list[str] = []
    """Other right answers."""
    raw: bool = False
    """Whether the prompt is taken as it is, and not as what a user says in a conversation."""


class Given(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An example as a caller gives it. ``program`` stands for ``completion`` where it is one, and
    ``intent`` for ``prompt``, as records have them."""

    prompt: str = ""
    intent: str = ""
    completion: str = ""
    program: list[dict[str, Any]] | None = None
    sources: list[Rid] = []
    accept: list[str] = []
    group: str = ""
    held_out: bool = False
    raw: bool = False


def given(examples: Sequence[dict[str, Any]]) -> list[Question]:
    """The questions in a caller's own examples. Raises EINVAL naming the one that is wrong."""
    found = []
    for at, each in enumerate(examples):
        try:
            one = msgspec.convert(each, Given)
        except msgspec.ValidationError as error:
            raise EINVAL(
                f"example {at}: {error}",
                hint='{"prompt": ..., "completion": ...} or {"intent": ..., "program": [...]}',
            ) from error
        answer = one.completion if one.program is None else _json(one.program)
        prompt = one.prompt or one.intent
        twice = (one.completion and one.program is not None) or (one.prompt and one.intent)
        if not prompt or not answer or twice:
            raise EINVAL(f"example {at} needs a prompt and a completion or a program")
        group = one.group or _kind(one.program)
        found.append(
            Question(prompt, answer, one.sources, group, one.held_out, one.accept, one.raw)
        )
    return found


def _kind(program: Any) -> str:
    """What programs of the same calls have in common."""
    steps = program if isinstance(program, list) else []
    return "+".join(str(step.get("call")) for step in steps if isinstance(step, dict))


def questions(records: Iterable[Record], seed: int = 0, share: float = 0.25) -> list[Question]:
    """What can be asked about records, in their order; of each thing ``share`` is held out."""
    return [one for record in records for one in _asked(record, seed, share)]


def _asked(record: Record, seed: int, share: float) -> Iterator[Question]:
    """The questions of one record, thing by thing."""
    for number, ways in enumerate(_things(record)):
        group = f"{record.rid}/{number}"
        aside = _aside(group, len(ways), seed, share)
        if len(ways) == 1:
            group = _kind(record.meta.get("program"))  # nothing of it alone can be set aside
        for at, (prompt, answer, accept) in enumerate(ways):
            yield Question(prompt, answer, [record.rid], group, at in aside, accept)


Way = tuple[str, str, list[str]]
"""Prompt, answer, other answers that are right."""


def _things(record: Record) -> Iterator[list[Way]]:
    """What a record has to say: for each thing the ways to ask for it."""
    meta = record.meta
    if record.fact is not None:
        fact = record.fact
        accept = [record.content] if fact.object in record.content else []
        yield [(prompt, fact.object, accept) for prompt in _wordings(fact.subject, fact.relation)]
    elif isinstance(meta.get("intent"), str) and isinstance(meta.get("program"), list):
        yield [(meta["intent"], _json(meta["program"]), [])]
    elif record.kind == "tool_call" and isinstance(meta.get("tool"), str):
        yield from _tool(meta)
    else:
        sentences = [found.strip() for found in _SENTENCE.findall(record.content)]
        fit = [one for one in sentences if SHORTEST <= len(one) <= LONGEST]
        for sentence in fit[:MOST]:
            ways = _begun(sentence)
            if ways:
                yield ways


def _wordings(subject: str, relation: str) -> list[str]:
    """The ways to ask for the object of a fact; English, and Chinese where it is of Chinese."""
    words = relation.replace("_", " ").strip()
    if _CJK.search(subject) or _CJK.search(relation):
        name = CHINESE_RELATIONS.get(relation, words)
        return [form.format(s=subject, r=name) for form in CHINESE]
    own = ENGLISH.get(relation)
    forms = (*own, VERBAL[2]) if own else VERBAL if _VERB.search(relation) else PLAIN
    return [form.format(s=subject, r=words) for form in forms]


def _tool(meta: dict[str, Any]) -> Iterator[list[Way]]:
    """How to call a tool: as it worked, or as it worked in the end."""
    args = meta.get("args") if meta.get("ok", True) else meta.get("cure")
    if not isinstance(args, dict):
        return
    tool, asked = meta["tool"], meta.get("args")
    call = _json({"tool": tool, "args": args})
    said = ", ".join(f"{key} {value}" for key, value in asked.items()) if asked else "nothing"
    yield [
        (f"Call the tool {tool} with {said}.", call, []),
        (f"How is {tool} called for {said}?", call, []),
        (f"{tool}: {said}", call, []),
    ]


def _begun(sentence: str) -> list[Way]:
    """A sentence cut at several places: what is before, and how it goes on."""
    ways: list[Way] = []
    chinese = _CJK.search(sentence) is not None
    for cut in CUTS:
        at = int(len(sentence) * cut)
        if not chinese:
            at = sentence.find(" ", at)
        before, rest = sentence[:at].rstrip(), sentence[at:].strip()
        if at <= 0 or not before or not rest or any(way[1] == rest for way in ways):
            continue
        asked = f"接着说：{before}" if chinese else f"Continue: {before}"
        ways.append((asked, rest, []))
    return ways


def _aside(group: str, ways: int, seed: int, share: float) -> set[int]:
    """Which of the ways to ask for one thing are set aside: at least one of several, never all."""
    if ways < 2 or share <= 0:
        return set()
    count = min(ways - 1, max(1, round(ways * share)))
    order = sorted(range(ways), key=lambda at: _mix(f"{seed}/{group}/{at}"))
    return set(order[:count])


def _mix(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic", enc_hook=repr).decode()


def digest(asked: Iterable[Question]) -> str:
    """What names a set of questions, in hexadecimal."""
    hashed = blake2b(digest_size=16)
    for one in asked:
        hashed.update(msgspec.msgpack.encode(one))
    return hashed.hexdigest()


GENERAL = (
    "Name the four seasons.",
    "What is two plus three?",
    "Write one sentence about the sea.",
    "Translate to French: good morning.",
    "List three colours.",
    "What is the capital of Italy?",
    "Explain in one sentence what a computer does.",
    "Say the days of the week.",
    "What comes after seven?",
    "Write a short greeting.",
    "Name an animal that can fly.",
    "What do plants need to grow?",
    "用一句话介绍北京。",
    "一年有几个季节？",
    "请写一句问候语。",
    "一加二等于几？",
)
"""What a general model is asked before, to see afterwards whether it still says the same."""
