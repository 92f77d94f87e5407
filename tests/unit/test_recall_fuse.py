"""Fusion and filters, without any index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syscalls.calls.mem import Search
from syscalls.shapes import Filter
from ums.recall.fuse import balance, cjk_share, fuse
from ums.recall.query import words_of
from ums.recall.sieve import Sieve
from ums.records import Stored
from ums.settings import Weights

WEIGHTS = Weights()
scores = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 1), max_size=8)
words = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 40), max_size=8)


@given(scores, words)
def test_parts_sum_to_the_score_and_order_is_total(
    dense: dict[str, float], lexical: dict[str, float]
) -> None:
    ranked = fuse(dense, lexical, 1.0, 1.0, WEIGHTS)
    assert {c.rid for c in ranked} == dense.keys() | lexical.keys()
    assert len(ranked) == len({c.rid for c in ranked})
    for candidate in ranked:
        assert candidate.score == candidate.dense + candidate.lexical
        if candidate.rid not in dense:
            assert candidate.dense == 0
        if candidate.rid not in lexical:
            assert candidate.lexical == 0
    assert [(c.score, c.rid) for c in ranked] == sorted(
        ((c.score, c.rid) for c in ranked), reverse=True
    )


def test_equals_go_newest_first() -> None:
    dense = dict.fromkeys("abc", 0.5)
    assert [c.rid for c in fuse(dense, {}, 1.0, 1.0, WEIGHTS)] == ["c", "b", "a"]


def test_how_much_better_counts() -> None:
    """One that is far ahead in meaning beats one that is a bit ahead in words."""
    dense = {"a": 0.9, "b": 0.3, "c": 0.31, "d": 0.29}
    lexical = {"b": 5.0, "c": 4.9, "d": 4.8, "a": 4.7}
    assert fuse(dense, lexical, 1.0, 1.0, WEIGHTS)[0].rid == "a"


def test_noise_among_few_is_not_blown_up() -> None:
    ranked = fuse({"a": 0.300, "b": 0.301}, {"a": 3.0}, 1.0, 1.0, WEIGHTS)
    assert ranked[0].rid == "a"
    assert abs(ranked[1].dense) < 0.1


def test_a_record_without_a_vector_is_not_punished() -> None:
    dense = {"a": 0.1, "b": 0.2, "c": 0.15}
    lexical = {"new": 5.0, "a": 1.0}
    assert fuse(dense, lexical, 1.0, 1.0, WEIGHTS)[0].rid == "new"


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("!?", 0), ("hello", 0), ("代码", 1), ("代码ab", 0.5), ("カナ 한글", 1)],
)
def test_share_of_cjk(text: str, share: float) -> None:
    assert cjk_share(text) == share


def test_words_weigh_more_in_chinese() -> None:
    assert balance("code style", WEIGHTS) == (WEIGHTS.dense, WEIGHTS.lexical)
    dense, lexical = balance("代码风格", WEIGHTS)
    assert dense < WEIGHTS.dense
    assert lexical > WEIGHTS.lexical


def stored(**fields: object) -> Stored:
    base = {
        "content": "c",
        "version": 1,
        "created": 100.0,
        "updated": 100.0,
        "writer": 7,
        "call": "mem.write",
        "kind": "fact",
        "tags": ["a", "b"],
        "meta": {"x": 1, "y": None},
    }
    return Stored(**{**base, **fields})  # type: ignore[arg-type]


def passes(record: Stored, **fields: object) -> bool:
    return Sieve(Search(query="q", **fields), 1000.0).passes(record)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), True),
        (Filter(kind="fact"), True),
        (Filter(kind="other"), False),
        (Filter(tags=["b"]), True),
        (Filter(tags=["b", "c"]), False),
        (Filter(meta={"x": 1}), True),
        (Filter(meta={"y": None}), True),
        (Filter(meta={"z": None}), False),
        (Filter(meta={"x": 2}), False),
        (Filter(writer=7), True),
        (Filter(writer=8), False),
        (Filter(since=100.0), True),
        (Filter(since=100.1), False),
        (Filter(until=100.1), True),
        (Filter(until=100.0), False),
        (Filter(kind="fact", writer=8), False),
    ],
)
def test_filters(wanted: Filter, expected: bool) -> None:
    assert passes(stored(), filter=wanted) is expected


def test_life_and_time() -> None:
    assert passes(stored(expires=1000.1))
    assert not passes(stored(expires=1000.0))
    assert not passes(stored(state="forgotten"), include_archived=True)
    assert not passes(stored(state="archived"))
    assert passes(stored(state="archived"), include_archived=True)
    assert not passes(stored(), as_of=99.0)
    assert passes(stored(), as_of=100.0)
    assert not passes(stored(valid_from=200.0), as_of=150.0)
    assert passes(stored(valid_from=120.0, valid_to=200.0), as_of=150.0)
    assert not passes(stored(valid_to=150.0), as_of=150.0)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("Where is Alice's cat?", ["Alice's", "cat"]),
        ("what is it", ["what", "is", "it"]),
        ("US sales in IT", ["US", "sales", "IT"]),
        ("他的猫叫什么名字", ["他的猫叫", "名字"]),
        ("代码风格偏好", ["代码风格偏好"]),
        ("为什么", ["为什么"]),
        ("I don't tell", ["tell"]),
        ("What happened in May", ["happened", "May"]),
        ("?!", []),
    ],
)
def test_function_words_are_not_looked_for(query: str, left: list[str]) -> None:
    assert [word.strip("?!") for word in words_of(query).split() if word.strip("?!")] == left
