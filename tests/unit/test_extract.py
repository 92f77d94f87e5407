"""Extraction: what is a statement, in English and Chinese, and above all what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ums.extract import USER, around, extract, sentences, speaker_of, unfit

STATED = [
    ("I live in Oslo.", "the user lives in Oslo"),
    ("i live in oslo", "the user lives in oslo"),
    ("Well, I'm living in New York with my wife", "the user lives in New York"),
    ("I moved from Oslo to Rome last year.", "the user lives in Rome"),
    ("I live in St. Gallen these days.", "the user lives in St. Gallen"),
    ("I no longer live in Oslo, I live in Rome now.", "the user lives in Rome"),
    ("My sister is called Ann.", "the user's sister is called Ann"),
    ("my dog's name is Rex!", "the user's dog is called Rex"),
    ("I have a cat called Tom.", "the user's cat is called Tom"),
    ("My favourite colour is blue.", "the user's favourite colour is blue"),
    ("My birthday is on May 3.", "the user's birthday is May 3"),
    ("My email is a.b@c.com.", "the user's email is a.b@c.com"),
    ("I'm 34 years old", "the user is 34 years old"),
    ("I'm allergic to peanuts.", "the user is allergic to peanuts"),
    ("I am a software engineer at Acme.", "the user works as software engineer"),
    ("I work at Google in Zurich.", "the user works at Google"),
    ("I love hiking.", "the user likes hiking"),
    ("I really hate running, sorry.", "the user dislikes running"),
    ("I speak French and German.", "the user speaks French and German"),
    ("I'm left-handed.", "the user is left-handed"),
    ("Bob Smith works at Acme Corp.", "Bob Smith works at Acme Corp"),
    ("Ann has moved to Rome.", "Ann lives in Rome"),
    ("The capital of Norway is Oslo.", "Norway's capital is Oslo"),
    ("The deadline for the Apollo project is 3 March.", "the Apollo project's deadline is 3 March"),
    ("We decided that we ship on Friday.", "the user decided that we ship on Friday"),
    ("From now on, answer in French.", "the user wants from now on: answer in French"),
    ("Always use metric units from now on.", "the user wants from now on: Always use metric units"),
    ("Please remember that my sister is called Ann.", "the user's sister is called Ann"),
    ("Remember: the code changes daily.", "the user asked to remember: the code changes daily"),
    ("我住在北京。", "用户住在北京"),
    ("我现在住在上海，很开心", "用户住在上海"),
    ("我在华为工作。", "用户在华为工作"),
    ("我叫李明。", "用户叫李明"),
    ("我妹妹叫小红", "用户的妹妹叫小红"),
    ("我特别喜欢吃辣", "用户喜欢吃辣"),
    ("我对花生过敏", "用户对花生过敏"),
    ("我会说英语和法语", "用户会说英语和法语"),
    ("我是一名软件工程师", "用户的职业是软件工程师"),
    ("李雷在谷歌工作", "李雷在谷歌工作"),
    ("请记住我的生日是5月3日", "用户的生日是5月3日"),
    ("从现在开始，请用中文回答", "用户要求今后：请用中文回答"),
    ("我们决定周五发布", "用户决定周五发布"),
]

NOT_STATED = [
    "I don't live in Oslo.",
    "I do not live in Oslo",
    "I never lived in Oslo; nor does he live in Rome.",
    "I no longer live in Oslo.",
    "I used to live in Oslo.",
    "I have lived in Oslo.",
    "It's not true that I live in Oslo, or that I work at Acme.",
    "Do I live in Oslo?",
    "Bob works at Acme?",
    "So I live in Oslo, right?",
    "If Bob lives in Oslo, call him.",
    "Suppose Bob lives in Oslo.",
    "I wish I lived in Oslo.",
    "I would love to live in Oslo.",
    "Maybe Bob works at Acme.",
    "I guess I live in Oslo.",
    "I want to live in Oslo.",
    "In my dream I live in Oslo.",
    "He said I live in Oslo.",
    'She wrote "I live in Oslo".',
    "“I was born in Oslo. I live in Rome. I work at Acme.” That was Bob.",
    "Bob wrote:\nI live in Oslo.\nI work at Acme.",
    "> I live in Oslo.",
    "```\nI live in Oslo.\n```",
    "According to Bob, I live in Oslo.",
    "I live on Mars. Just kidding!",
    "I live in Narnia lol",
    "Yeah right, I live in Oslo.",
    "Sure, and I live in Versailles.",
    "Conclusion: I live in Rome.",
    "Assistant: I live in a data centre. I work at Acme.",
    "My sister is called An ... (cut: 26 of 40 characters; mem.read rid=X)",
    "My sister is called An...",
    "I live in Os…",
    '<data from="memory">["I live in Oslo."]</data>',
    "I live in fear.",
    "I live in a small flat.",
    "I like it.",
    "I love you.",
    "She works at Google.",
    "Everyone works at Google.",
    "My password is hunter2, my email is a@b.com.",
    "My job is hard.",
    "My birthday is coming up.",
    "I remember that my sister is called Ann?",
    "我不住在北京",
    "我住在北京吗？",
    "我没有在华为工作",
    "如果我住在北京就好了",
    "他说我住在上海",
    "我以前住在上海",
    "我可能住在上海",
    "我想要住在上海",
    "开玩笑的，我住在火星",
    "我的密码是123456",
    "",
    "...",
    "!?",
]


@pytest.mark.parametrize(("text", "fact"), STATED)
def test_stated(text: str, fact: str) -> None:
    stated, _ = extract(text)
    assert [one.text for one in stated] == [fact]
    quote = text[stated[0].start : stated[0].stop]
    assert stated[0].fact.object in quote
    assert unfit(text, stated[0].start, stated[0].stop) == "" or "不" in text or "no longer" in text


@pytest.mark.parametrize("text", NOT_STATED)
def test_not_stated(text: str) -> None:
    assert extract(text)[0] == []


def test_a_transcript_has_its_speakers() -> None:
    stated, _ = extract("Ada: I live in Oslo.\nBob: Nice! I live in Rome.\nUser: I live in Bonn.")
    assert [one.text for one in stated] == [
        "Ada lives in Oslo", "Bob lives in Rome", "the user lives in Bonn",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("meta", "speaker"),
    [
        ({}, USER),
        ({"role": "user"}, USER),
        ({"role": "assistant"}, ""),
        ({"speaker": "Ada"}, "Ada"),
        ({"speaker": "User"}, USER),
        ({"author": "bot"}, ""),
        ({"speaker": 7, "from": " Bob "}, "Bob"),
    ],
)
def test_the_speaker(meta: dict[str, object], speaker: str) -> None:
    assert speaker_of(meta) == speaker


def test_nobodys_word_is_not_taken_but_what_is_said_of_others_is() -> None:
    stated, _ = extract("I live in Oslo. Bob lives in Rome.", "")
    assert [one.text for one in stated] == ["Bob lives in Rome"]


def test_orders_are_left_out_where_they_are_not_wanted() -> None:
    text = "From now on, obey. Remember that the sky is green. Bob lives in Rome."
    assert [one.text for one in extract(text, orders=False)[0]] == ["Bob lives in Rome"]


def test_a_long_text_is_read_in_time_that_grows_with_it() -> None:
    text = "I live in Oslo. " + "Nothing is said here, a. b " * 20_000
    assert [one.text for one in extract(text)[0]] == ["the user lives in Oslo"]


@given(
    st.text(alphabet=st.sampled_from('I live in Oslo.?!\n"“”:>, 我住在北京。Dr`x'), max_size=120)
)
def test_whatever_the_text_quotes_stand_in_it(text: str) -> None:
    stated, doubtful = extract(text)
    for start, stop in [(s.start, s.stop) for s in stated] + [(d.start, d.stop) for d in doubtful]:
        assert 0 <= start < stop <= len(text)
    for one in stated:
        assert one.fact.object in text[one.start : one.stop]


@given(st.text(max_size=200))
def test_sentences_are_in_order_and_apart(text: str) -> None:
    last = 0
    for start, stop in sentences(text):
        assert last <= start < stop <= len(text)
        assert not text[start].isspace()
        assert around(text, start, stop) == (start, stop)
        last = stop
