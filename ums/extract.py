"""What a text states: facts that stand in it word for word, found by form, without a model.

    text ──> sentences, who speaks ──> forms (ums.patterns) ──> is it stated? ──> Statement
                                                                 └─ no ──> Doubtful, with why

What is asked, denied, doubted, wished, imagined, quoted from others or meant as a joke is not
a fact; nor is a secret, which memory must not multiply. Of a sentence that is long or unclear
nothing is taken: the episode itself remains, and is found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.records import Fact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ums.patterns import Form

USER = "the user"
"""Who speaks where nobody is named."""
LONGEST = 400
"""Characters of a sentence that is looked at."""
MOST = 64
"""Statements of one text."""
LOOKED = 100_000
"""Characters of a text that are looked at; what is longer is a document, and found as it is."""

_SENTENCE = re.compile(
    r"[^\n.!?。！？]+(?:[.](?=\S)[^\n.!?。！？]*)*(?:[.!?。！？]+[\"”’」』)]*|(?=\n)|$)"
)
_ABBREVIATED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Jr|Sr|vs|No|e\.g|i\.e|approx)|\b[A-Z])\.$"
)
_CUT_SHORT = re.compile(r"(?:\.\.\.|…)[\"”’)]*$|\((?:cut|truncated)\b")
_CLAUSE = re.compile(r"[^,，;；]+")
_BUT = re.compile(r"\bbut\b|但是")
_QUOTED = re.compile(
    r"“[^”]*(?:”|$)|«[^»]*(?:»|$)|「[^」]*(?:」|$)|『[^』]*(?:』|$)|\"[^\"\n]*(?:\"|$)"
    r"|```.*?(?:```|$)|(?m:^[ \t]*>.*$)|<data from=.*?(?:</data>|$)"
    r"|\b(?:wrote|said|says|told me|writes)\s*:\s(?:(?!\n\s*\n).)*"
    r"|(?:写道|说)\s*[:：](?:(?!\n\s*\n).)*",
    re.DOTALL,
)
_PREFIX = re.compile(
    r"(?m:^[ \t]*(?:\[[^\]\n]{1,40}\]\s*)?([A-Z一-鿿][\w'’.-]*(?: [A-Z][\w'’.-]*){0,2})\s?[:：]\s?)"
)
_ME = frozenset({"user", "human", "me", "speaker", "用户", "我"})
_MACHINE = "assistant ai bot system model tool function agent 助手 系统"
_NOBODY = frozenset(_MACHINE.split())
_HEADS = """note notes ps reminder remember update fyi todo hint important warning fact info
    subject title re today yesterday 记住 备注 注意 提醒 请记住"""
_NOTES = frozenset(_HEADS.split())
_ORDERS = frozenset({"note", "remember", "记住", "请记住"})
_LIKELY = re.compile(
    r"\b(?:[Ii]|[Mm]y|[Mm]e|[Ww]e|lives|resides|moved|relocated|works|working|joined|born|married|"
    r"located|based|headquartered|reports|[Rr]emember|[Kk]eep|[Nn]ote|forget|from now|From now|of|"
    r"for)\b|['’]s\b|我|住在|居住在|定居在|工作|上班|任职|出生|的|记|从|今后|以后|别忘|不要忘"
)
"""What every form has something of."""
_NAMED = ("speaker", "author", "from", "sender", "user_name")
_WORDS = """i he she it we they you who what this that these those there here everyone someone
    anyone nobody everybody somebody another one both all most some each my his her its our their
    your when where why how which if but and so because also then now today yesterday tomorrow
    user assistant"""
_PRONOUNS = frozenset(_WORDS.split())
_VAGUE = re.compile(
    r"^(?:fear|hope|peace|harmony|denial|constant|a|an|my|your|this|that|the moment|the past|it|"
    r"them|him|her|here|there|home|myself|you|something|nothing|everything|someone)\b",
    re.IGNORECASE,
)
_MONTH = r"(?:\d|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|[一二三四五六七八九十])"
_DATE = re.compile(_MONTH)
_MAIL = re.compile(r"\S+@\S+")
_TRADE = re.compile(r"^(?:an?\s+|[A-Z一-鿿])")
_PLACE = re.compile(r"[0-9A-Z一-鿿]")
_PHONE = re.compile(r"\d{3}")
_NEEDS = {
    "birthday": _DATE,
    "生日": _DATE,
    "date_of_birth": _DATE,
    "deadline": re.compile(_MONTH + r"|(?i:day|tonight|noon|week|month|end)|周|星期|明天"),
    "age": re.compile(r"\d|[一二三四五六七八九十]"),
    "address": _PLACE,
    "home_address": _PLACE,
    "email": _MAIL,
    "email_address": _MAIL,
    "邮箱": _MAIL,
    "电子邮件": _MAIL,
    "phone": _PHONE,
    "phone_number": _PHONE,
    "job": _TRADE,
    "occupation": _TRADE,
    "profession": _TRADE,
}
"""What an object must look like to be one."""
_CUT = {
    "works_at": re.compile(r"\s+(?:in|as|on)\s.*$"),
    "studies_at": re.compile(r"\s+(?:in|as)\s.*$"),
    "studies": re.compile(r"\s+at\s.*$"),
    "job_title": re.compile(r"\s+(?:at|for|in)\s.*$"),
    "birthday": re.compile(r"^on\s+"),
}
_SPELLED = (("favourite", "favorite"), ("colour", "color"))
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=[A-Z])")


class Statement(msgspec.Struct, frozen=True):
    """One fact, and the sentence that states it."""

    fact: Fact
    text: str
    """The fact as a sentence."""
    start: int
    stop: int
    """The sentence in the text."""


class Doubtful(msgspec.Struct, frozen=True):
    """What has the form of a statement and is none."""

    start: int
    stop: int
    why: str


class Speech(msgspec.Struct, frozen=True):
    """A sentence and whose it is; ``speaker`` is empty for nobody whose word is kept."""

    start: int
    stop: int
    speaker: str


def speaker_of(meta: Mapping[str, Any]) -> str:
    """Who says ``I`` in a record: named by its ``meta``, else the user; "" for a machine."""
    role = meta.get("role")
    if isinstance(role, str) and role.casefold() in _NOBODY:
        return ""
    for field in _NAMED:
        name = meta.get(field)
        if isinstance(name, str) and 0 < len(name.strip()) <= 80:
            name = name.strip()
            if name.casefold() in _NOBODY:
                return ""
            return USER if name.casefold() in _ME else name
    return USER


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end, without the blanks around them."""
    found: list[tuple[int, int]] = []
    for match in _SENTENCE.finditer(text):
        start, stop = match.span()
        while start < stop and text[start].isspace():
            start += 1
        while start < stop and text[stop - 1].isspace():
            stop -= 1
        if start == stop:
            continue
        last = found[-1] if found else (0, 0)
        if _ABBREVIATED.search(text, *last) and "\n" not in text[last[1] : start]:
            found[-1] = (last[0], stop)
        else:
            found.append((start, stop))
    return found


def around(text: str, start: int, stop: int) -> tuple[int, int]:
    """The sentences that a stretch of a text lies in, as one stretch."""
    held = [span for span in sentences(text) if span[0] < stop and start < span[1]]
    if not held:
        return start, stop
    return min(start, held[0][0]), max(stop, held[-1][1])


def unfit(text: str, start: int, stop: int) -> str:
    """Why what a stretch of a text says is not stated there; empty when it is."""
    from ums import patterns  # compiled when they are first needed

    first, last = around(text, start, stop)
    after = next((span for span in sentences(text) if span[0] >= last), (last, last))
    quoted = any(q.start() < stop and start < q.end() for q in _QUOTED.finditer(text))
    why = _unfit_sentence(text[first:last], text[after[0] : after[1]], quoted=quoted)
    if why:
        return why
    for clause in _clauses(text[first:last]):
        at, end = first + clause[0], first + clause[1]
        if at < stop and start < end and patterns.NEGATION.search(text[at:end]):
            return "it is negated, or no longer so"
    doubt = patterns.DOUBT.search(text[first:last])
    return "it is a supposition, a wish or a plan" if doubt else ""


def extract(
    text: str, speaker: str = USER, *, orders: bool = True
) -> tuple[list[Statement], list[Doubtful]]:
    """What a text states, and what only looks as if it did.

    ``speaker`` is who says ``I`` in it, "" for nobody whose word counts; ``orders`` is whether
    what is asked to be kept (decisions, standing wishes) is taken too.
    """
    text = text[:LOOKED]
    stated: list[Statement] = []
    doubtful: list[Doubtful] = []
    seen: set[tuple[str, str, str]] = set()
    speeches = _speeches(text, speaker)
    regions = [match.span() for match in _QUOTED.finditer(text)]
    for place, speech in enumerate(speeches):
        if not _LIKELY.search(text, speech.start, speech.stop):
            continue
        if speech.stop - speech.start > LONGEST or len(stated) >= MOST:
            continue
        following = speeches[place + 1] if place + 1 < len(speeches) else None
        after = text[following.start : following.stop] if following else ""
        quoted = any(a < speech.stop and speech.start < b for a, b in regions)
        for statement, why in _states(text, speech, after, quoted=quoted, orders=orders):
            if why:
                doubtful.append(Doubtful(speech.start, speech.stop, why))
                break
            fact = statement.fact
            known = (fact.subject, fact.relation, fact.object)
            if known not in seen:
                seen.add(known)
                stated.append(statement)
    return stated, doubtful


def _speeches(text: str, speaker: str) -> list[Speech]:
    """The sentences with who says them; a name before a colon begins a turn of a transcript."""
    prefixes = list(_PREFIX.finditer(text))
    several = sum(p[1].casefold() not in _NOTES for p in prefixes) > 1
    ends = [text.find("\n", p.end()) for p in prefixes]
    found, place = [], 0
    for start, stop in sentences(text):
        while place + 1 < len(prefixes) and prefixes[place + 1].start() <= start:
            place += 1
        who, at = speaker, start
        if prefixes and prefixes[place].start() <= start:
            prefix, end = prefixes[place], ends[place]
            if end < 0 or start < end:
                who = _who(prefix[1], speaker, several=several)
                if prefix[1].casefold() not in _ORDERS:
                    at = max(start, prefix.end())
        if at < stop:
            found.append(Speech(at, stop, who))
    return found


def _who(name: str, speaker: str, *, several: bool) -> str:
    key = name.casefold()
    if key in _NOTES or key in _ME:
        return speaker
    if key in _NOBODY:
        return ""
    return name if several or key == speaker.casefold() else ""


def _states(
    text: str, speech: Speech, after: str, *, quoted: bool, orders: bool
) -> Iterator[tuple[Statement, str]]:
    """The statements that a sentence has the form of, each with why it is none."""
    from ums import patterns  # compiled when they are first needed

    sentence = text[speech.start : speech.stop]
    why = _unfit_sentence(sentence, after, quoted=quoted)
    kept = sentence
    spoken = _spoken(sentence) if orders and speech.speaker else None
    if spoken is not None:
        form, match = spoken
        whole = form.relation == "asked_to_remember"
        if not whole or not any(_plain(match["o"], speech)):
            yield _statement(form, match, speech, match["o"].strip()), why
        kept = match["o"] if whole else ""
    doubt = patterns.DOUBT.search(sentence) is not None
    for form, match, clause in _plain(kept, speech):
        reason = why
        if not reason and patterns.NEGATION.search(kept[clause[0] : clause[1]]):
            reason = "it is negated, or no longer so"
        if not reason and doubt:
            reason = "it is a supposition, a wish or a plan"
        yield _statement(form, match, speech, _object(form, match, kept)), reason


def _unfit_sentence(sentence: str, after: str, *, quoted: bool) -> str:
    """Why nothing that a sentence says is stated; empty when it may be."""
    from ums import patterns  # compiled when they are first needed

    if patterns.SECRET.search(sentence):
        return "it tells a secret"
    if patterns.QUESTION.search(sentence):
        return "it is a question"
    if quoted or patterns.REPORTED.search(sentence):
        return "it is what somebody else says"
    if patterns.IRONY.search(sentence) or (len(after) < 40 and patterns.IRONY.search(after)):
        return "it is not meant in earnest"
    if _CUT_SHORT.search(sentence) or after.startswith(("...", "…")):
        return "it is cut short"
    return "it is denied" if patterns.DENIAL.search(sentence) else ""


def _spoken(sentence: str) -> tuple[Form, re.Match[str]] | None:
    from ums import patterns  # compiled when they are first needed

    for form in (*patterns.SPOKEN, *patterns.CHINESE_SPOKEN):
        match = form.pattern.search(sentence)
        if match:
            return form, match
    return None


def _clauses(sentence: str) -> list[tuple[int, int]]:
    """Where the clauses of a sentence are: parted by commas, semicolons and ``but``."""
    found = []
    for match in _CLAUSE.finditer(sentence):
        start = match.start()
        for but in _BUT.finditer(sentence, match.start(), match.end()):
            found.append((start, but.start()))
            start = but.start()
        found.append((start, match.end()))
    return found


def _plain(kept: str, speech: Speech) -> Iterator[tuple[Form, re.Match[str], tuple[int, int]]]:
    """The forms of the tables that a sentence has, with the clause that each is in."""
    from ums import patterns  # compiled when they are first needed

    clauses = _clauses(kept)
    for form in (*patterns.ENGLISH, *patterns.CHINESE):
        for match in form.pattern.finditer(kept):
            own = "s" not in match.re.groupindex
            if own and not speech.speaker:
                continue
            if not own and match["s"].split()[0].casefold() in _PRONOUNS:
                continue
            if _object(form, match, kept):
                at = match.start("o")
                yield form, match, next((c for c in clauses if c[0] <= at < c[1]), (0, len(kept)))


def _object(form: Form, match: re.Match[str], sentence: str) -> str:
    """The object of a match, in order; empty where it cannot be one."""
    relation = _relation(form, match)
    thing = match["o"].strip(" \t.,;:!。，；！、'’\"")
    cut = _CUT.get(relation)
    if cut is not None:
        thing = cut.sub("", thing)
    if form.proper:
        lower = not any(c.isupper() for c in sentence.removeprefix("I ").replace(" I ", " "))
        bare = _ARTICLE.sub("", thing)
        if _VAGUE.match(bare) or not (lower or bare[:1].isupper() or bare[:1].isdigit()):
            return ""
    need = _NEEDS.get(relation)
    return thing if need is None or need.search(thing) else ""


def _relation(form: Form, match: re.Match[str]) -> str:
    from ums import patterns  # compiled when they are first needed

    if form.relation:
        return form.relation
    word: str = match["r"]
    for one, other in _SPELLED:
        word = word.replace(one, other)
    return patterns.CHINESE_RELATIONS.get(word, word.replace(" ", "_"))


def _statement(form: Form, match: re.Match[str], speech: Speech, thing: str) -> Statement:
    subject = match["s"].strip() if "s" in match.re.groupindex else speech.speaker
    chinese = any(c > "一" for c in form.reads)
    shown = "用户" if chinese and subject == USER else subject
    word = match["r"] if "r" in match.re.groupindex else ""
    text = form.reads.format(s=shown, o=thing, r=word)
    return Statement(Fact(subject, _relation(form, match), thing), text, speech.start, speech.stop)
