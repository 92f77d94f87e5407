"""Names in a text, found by rules: rather none than a wrong one.

    e-mail and @handles          as they stand
    quoted, 《》 「」            short ones that are no sentence
    Capitalised Runs             with the small words inside a name (University of Oxford);
                                 a single word that begins a sentence only where something
                                 shows that it is a name: it stands elsewhere within a
                                 sentence, or has 's, or what follows is what people do
    WordsLikeThis, GPT-4, NASA   anywhere
    Chinese                      after words that introduce a name (我叫, 联系人：), before a
                                 title (先生, 老师), and institutions by their last word

The same text gives the same names on every machine, so that a graph can be built again.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from ums.facts import entity_key

LONGEST = 80
"""Characters of a name."""
MOST = 64
"""Names taken from one text."""
READ = 20_000
"""Characters of a text that are looked at."""

_STOP_TEXT = """
    a about after again all also always am an and another any anyone are as at be because been
    before being but by can come congrats could day dear did do does each either even every
    everyone everything few first for from get glad go good goodbye great had happy has have
    having he hello her here hers hey hi him his how however i if in indeed instead is it its
    just last lately let like look lots love many maybe me might mine morning most much must my
    nah neither never next nice no nobody none nope not nothing now of oh ok okay on once
    one only or other our ours out over perhaps please really remember same say see several
    shall she should since so some someone something sometimes soon sorry still such sure take
    tell thank thanks that the their theirs them then there these they this those though thus to
    today together tomorrow tonight too totally two until up very was we welcome well were what
    when where whether which while who whom whose why will wish with without wow would yeah yep
    yes yesterday yet you your yours monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december mon
    tue wed thu fri sat sun jan feb mar apr jun jul aug sep sept oct nov dec pm mr mrs ms dr
    prof sir madam user assistant system note todo re fwd ps fyi lol omg
    btw idk imo tbh asap
"""
_STOP = frozenset(_STOP_TEXT.split())
"""Capitalised, these are no names by themselves."""
_TITLES = frozenset(["mr", "mrs", "ms", "dr", "prof", "professor", "sir", "madam"])
_LEADS = _TITLES | {"i", *_STOP_TEXT[_STOP_TEXT.index("monday") :].split()}
"""Within a sentence too these are no part of the name that follows."""
_INSIDE_TEXT = """
    of the de da di do del della van von der den la le el al bin ibn y and
"""
_INSIDE = frozenset(_INSIDE_TEXT.split())
"""Small words that may stand inside a name, between two capitalised ones."""
_DOES_TEXT = """
    says said asks asked tells told lives lived works worked moved likes liked loves loved hates
    hated met meets married wants wanted knows thinks thought plays played studies studied went
    joined left bought called wrote visited prefers hired owns runs
"""
_DOES = frozenset(_DOES_TEXT.split())
"""What follows a name that begins a sentence."""

_MAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
_HANDLE = re.compile(r"(?<![\w@.])@[A-Za-z_][\w.-]{1,38}\w")
_QUOTED = re.compile(
    r"\"([^\"\n]{2,60})\"|“([^”\n]{2,60})”|«([^»\n]{2,60})»|「([^」\n]{1,40})」|『([^』\n]{1,40})』"
    r"|《([^》\n]{1,40})》|〈([^〉\n]{1,40})〉"
)
_WORD = re.compile(
    r"[^\W_]+(?:[-'’.&+/][^\W_]+)*\+*(?:['’](?=\s|$|[,.;:!?]))?|[.!?。！？\n:;,()\"“”]"
)
_POSSESSIVE = re.compile(r"['’]s?$")
_SENTENCE = frozenset('.!?。！？\n:;"“”')
_HAN = r"[\u4e00-\u9fff]"
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蔡蒋余于杜叶程魏苏"
    "吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱"
    "严武戴莫孔向汤"
)
_ENDS = (
    "的是在今住说想很也来去有和跟与及了呢吗吧啊就都还要会能把被给对从到不没我你他她它们这那"
    "，。、；：！？年岁"
)
_INTRODUCED = re.compile(
    rf"(?:叫做|名叫|我叫|他叫|她叫|全名是|名字是|名字叫|姓名[:：]?|联系人[:：是]?|同事|朋友|老板|@)\s*"
    rf"([{_SURNAMES}](?:(?![{_ENDS}]){_HAN}){{1,2}})"
)
_TITLED = re.compile(
    rf"(?<!{_HAN})?([{_SURNAMES}](?:(?![{_ENDS}]){_HAN}){{0,2}})"
    r"(先生|女士|小姐|老师|医生|教授|经理|总监|主任|博士|同学|律师|师傅)"
)
_PLACED = re.compile(
    rf"(?:(?<=[在于去到从自入了])|^|(?<=[，。、；：！？\s]))"
    rf"((?:(?![{_ENDS}]){_HAN}){{2,8}}?(?:公司|大学|学院|银行|医院|集团|研究所|研究院|中学|小学|有限公司))"
)


def entities(text: str) -> dict[str, str]:
    """Key and spelling of each name in a text, in order of appearance; at most ``MOST``."""
    text = text[:READ]
    found: dict[str, str] = {}
    for name in _names(text):
        key = entity_key(name)
        if 1 < len(key) <= LONGEST or _is_han(key):
            found.setdefault(key, name)
            if len(found) == MOST:
                break
    return found


def _names(text: str) -> Iterator[str]:
    rest = text
    for pattern in (_MAIL, _HANDLE):
        for match in pattern.finditer(rest):
            yield match[0]
        rest = pattern.sub(" , ", rest)
    for match in _QUOTED.finditer(rest):
        name = next(group for group in match.groups() if group is not None).strip()
        if _is_quoted_name(name, match[0][0]):
            yield name
    yield from _runs(rest)
    if re.search(_HAN, rest):
        yield from _han_names(rest)


def _is_quoted_name(name: str, mark: str) -> bool:
    """Whether what is quoted is a name and not speech."""
    if not name or any(character in ".!?。！？，；" for character in name):
        return False
    if mark in "《〈":
        return True
    words = name.split()
    if any(map(_is_han, name)):
        return len(name) <= 12
    capital = sum(word[0].isupper() for word in words)
    return len(words) <= 5 and words[0][0].isupper() and capital * 2 >= len(words)


def _is_han(text: str) -> bool:
    return "\u4e00" <= text[:1] <= "\u9fff"


# --- capitalised runs


def _runs(text: str) -> Iterator[str]:
    tokens = [match[0] for match in _WORD.finditer(text)]
    words = [token for token in tokens if token[0].isalnum()]
    capitals = sum(token[0].isupper() for token in words)
    if len(words) > 6 and capitals > 0.7 * len(words):
        return  # a headline, or shouting: capitals say nothing here
    inside = _within_sentences(tokens)
    at = 0
    while at < len(tokens):
        if not _is_capital(tokens[at]):
            at += 1
            continue
        end = _end_of_run(tokens, at)
        first = at == 0 or tokens[at - 1] in _SENTENCE
        following = tokens[end] if end < len(tokens) else ""
        name = _trimmed(tokens[at:end], first=first, known=inside, following=following)
        if name:
            yield name
        at = end


def _end_of_run(tokens: list[str], at: int) -> int:
    """After the last word of the run that begins at ``at``."""
    end = at + 1
    if _POSSESSIVE.search(tokens[at]):
        return end
    while end < len(tokens):
        skip = end
        while skip < len(tokens) and tokens[skip] in _INSIDE and skip - end < 2:
            skip += 1
        if skip >= len(tokens) or not (_is_capital(tokens[skip]) or tokens[skip].isdigit()):
            break
        if skip > end and (tokens[end] == "and" or not _is_capital(tokens[skip])):
            break
        if tokens[skip].lower() in _STOP and tokens[skip].lower() not in _TITLES:
            break
        end = skip + 1
        if _POSSESSIVE.search(tokens[skip]):
            break
    return end


def _within_sentences(tokens: list[str]) -> set[str]:
    """Capitalised words that stand somewhere within a sentence."""
    return {
        _POSSESSIVE.sub("", token)
        for before, token in pairwise(tokens)
        if _is_capital(token) and before not in _SENTENCE
    }


def _trimmed(run: list[str], *, first: bool, known: set[str], following: str) -> str:
    """The run as a name, without what does not belong to it; empty when it is none."""
    while run and (first or run[0].lower() in _LEADS) and _plain(run[0]).lower() in _STOP:
        run = run[1:]
        first = False  # what follows a word of the sentence is within it
    if not run or (len(run) == 1 and _plain(run[0]).lower() in _STOP):
        return ""
    word = _plain(run[-1])
    shown = (
        len(run) > 1
        or not first
        or run[0] != word  # has 's
        or word in known
        or following.lower() in _DOES
        or following == ":"
        or _is_marked(word)
    )
    if not shown or (len(run) == 1 and len(word) < 2):
        return ""
    return " ".join([*run[:-1], word])


def _plain(word: str) -> str:
    return _POSSESSIVE.sub("", word)


def _is_capital(token: str) -> bool:
    return token[0].isupper() or _is_marked(token)


def _is_marked(word: str) -> bool:
    """Whether a word shows by itself that it is a name: iPhone, McDonald, GPT-4, NASA."""
    if not any(character.isupper() for character in word[1:]):
        return any(character.isdigit() for character in word) and word[0].isupper()
    return "'" not in word and "’" not in word


# --- Chinese


def _han_names(text: str) -> Iterator[str]:
    for match in _INTRODUCED.finditer(text):
        yield match[1]
    for match in _TITLED.finditer(text):
        yield match[1] + match[2] if len(match[1]) == 1 else match[1]
    for match in _PLACED.finditer(text):
        yield match[1]
