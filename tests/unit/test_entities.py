"""Names found in texts: those that are there, and no others."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ums.entities import LONGEST, MOST, entities


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I met Caroline at the LGBTQ group. Melanie said hi.", ["Caroline", "LGBTQ", "Melanie"]),
        ("Hey Mel! Good to see you! How have you been?", ["Mel"]),
        ("Running is fun. Thanks. Great!", []),
        ("Alice lives in New York City.", ["Alice", "New York City"]),
        ("He works for the University of Oxford", ["University of Oxford"]),
        ('Dr. Smith\'s "The Name of the Wind" is good', ["The Name of the Wind", "Smith"]),
        ('He said "I will go home."', []),
        ("to ann.lee@example.com or @bob_smith", ["ann.lee@example.com", "@bob_smith"]),
        ("about GPT-4 and NASA and iPhone 15 Pro", ["GPT-4", "NASA", "iPhone 15 Pro"]),
        ("Caroline: Thanks, Mel! I love it.", ["Caroline", "Mel"]),
        ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", []),
        ("to Rome and Paris on Monday with I", ["Rome", "Paris"]),
        ("It's Anna's turn, isn't it? LOL", ["Anna"]),
        ("Jean-Luc Picard and Ludwig van Beethoven", ["Jean-Luc Picard", "Ludwig van Beethoven"]),
        ("we saw O'Brien in May", ["O'Brien"]),
        ("我叫王小明，今年五岁，住在北京。", ["王小明"]),
        ("我在清华大学读书，李老师很好。", ["李老师", "清华大学"]),
        ("联系人：张伟，电话123。", ["张伟"]),
        ("他读了《红楼梦》，在「老地方」吃饭", ["红楼梦", "老地方"]),
        ("今天天气很好，我们去公园散步", []),
        ("", []),
        ("plain words without any name", []),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert list(entities(text).values()) == names


def test_one_entity_once_under_its_first_spelling() -> None:
    assert entities('I saw Ann Lee. Then ANN LEE\'s dog, and "Ann Lee".') == {"ann lee": "Ann Lee"}


def test_many_and_long() -> None:
    many = " and ".join(f"Name{number}" for number in range(500))
    assert len(entities(many)) == MOST
    assert all(len(key) <= LONGEST for key in entities(" ".join(["Xy"] * 500) + " a b c d e f"))


@pytest.mark.parametrize("unit", ["A", "Ab ", "王", '"', "a.b-", "@a.", "在中", "Ab of ", "a@b."])
def test_hostile_texts_take_no_time(unit: str) -> None:
    began = time.process_time()
    entities(unit * 200_000)
    assert time.process_time() - began < 20


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    found = entities(text)
    assert found == entities(text)
    assert all(key and name for key, name in found.items())
