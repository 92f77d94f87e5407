"""The development set measures the model, so nothing of it may be in what the model learns from."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.nano import corpus

DEVELOPMENT = Path(__file__).parents[3] / "shared" / "data" / "intents" / "dev.jsonl"
GRAM = 6
# What anybody says who asks for something. A 6-gram made of these and of words of the
# system's own commands tells nothing about a particular item.
_ENGLISH = (
    "a an the and or then to in of on for at is it that this with from my me i you your we our "
    "please pls can could would will do does did be are was have has if so first now as what who "
    "how when which whats what's up not no all any one remind minutes minute hours hour seconds "
    "send message tell remember memory process agent priority make set s t"
)
COMMON_EN = frozenset(_ENGLISH.split())
COMMON_ZH = (
    "的了吗呢吧啊一下个我你它是在有把给让帮请麻烦记住提醒发消息告诉进程任务工具现在什么怎么"
    "这那和跟就都也先再然后看查说用到上里分钟小时"
)
_CJK = re.compile(r"[\u3400-\u9fff]")


def words(text: str) -> list[str]:
    """Words, or characters where the text is Chinese."""
    plain = text.casefold()
    if _CJK.search(plain):
        return re.findall(r"[\u3400-\u9fff]|[a-z0-9]+", plain)
    return re.findall(r"[a-z0-9']+", plain)


def grams(text: str) -> Iterator[tuple[str, ...]]:
    """The 6-grams of a text that are not made of common phrases."""
    row = words(text)
    for at in range(len(row) - GRAM + 1):
        gram = tuple(row[at : at + GRAM])
        if not all(word in COMMON_EN or word in COMMON_ZH for word in gram):
            yield gram


def corpus_texts() -> Iterator[tuple[str, str]]:
    """Every line of the corpus that is language, with where it stands."""
    for language in corpus.LANGUAGES:
        for path in sorted((corpus.HERE / language).rglob("*.txt")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if line.strip() and not line.startswith(("#", "%")):
                    yield f"{language}/{path.name}:{number}", line


@pytest.fixture(scope="module")
def intents() -> list[str]:
    if not DEVELOPMENT.exists():
        pytest.skip(f"no development set at {DEVELOPMENT}")
    lines = DEVELOPMENT.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["intent"] for line in lines]


def test_no_development_intent_is_in_the_corpus(intents: list[str]) -> None:
    held = {tuple(words(text)) or (text.strip(),) for text in intents}
    found = [  # only where: who writes phrasings must not be shown the development set
        where for where, line in corpus_texts() if (tuple(words(line)) or (line.strip(),)) in held
    ]
    if found:
        pytest.fail(f"is in it: {', '.join(found)}", pytrace=False)


def test_no_stretch_of_a_development_intent_is_in_the_corpus(intents: list[str]) -> None:
    held = {gram for text in intents for gram in grams(text)}
    found = [where for where, line in corpus_texts() if held & set(grams(line))]
    if found:
        pytest.fail(f"shares six words in a row with it: {', '.join(found)}", pytrace=False)


def test_the_check_sees_a_copied_stretch(intents: list[str]) -> None:
    longest = max(intents, key=lambda text: len(words(text)))
    copied = "well, " + " ".join(words(longest)[1:9])
    assert set(grams(copied)) & set(grams(longest))
