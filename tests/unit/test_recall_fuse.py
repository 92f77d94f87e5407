"""Fusion and filters, without any index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syscalls.calls.mem import Search
from syscalls.errors import EINVAL
from syscalls.records import Filter, Parts
from ums.recall.fuse import Candidate, cjk_share, fuse
from ums.recall.query import words_of
from ums.recall.sieve import Sieve
from ums.records import Stored
from ums.settings import SIGNALS, Weights, weighted

WEIGHTS = Weights()
similarities = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 1), max_size=8)
said = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 40), max_size=8)


def ranking(
    dense: dict[str, float],
    lexical: dict[str, float],
    ceiling: float = 0.0,
    query: str = "q",
    weights: Weights = WEIGHTS,
) -> list[Candidate]:
    ceilings = dict.fromkeys(lexical, ceiling)
    return fuse(dense, lexical, ceilings, query, weights)[0]


@given(similarities, said, st.floats(0, 20))
def test_parts_sum_to_the_score_and_order_is_total(
    dense: dict[str, float], lexical: dict[str, float], ceiling: float
) -> None:
    ranked = ranking(dense, lexical, ceiling)
    assert {c.rid for c in ranked} == dense.keys() | lexical.keys()
    assert len(ranked) == len({c.rid for c in ranked})
    for candidate in ranked:
        assert candidate.score == candidate.base == candidate.dense + candidate.lexical
        if candidate.rid not in dense:
            assert candidate.dense == 0
        if candidate.rid not in lexical:
            assert candidate.lexical == 0
    assert [(c.score, c.rid) for c in ranked] == sorted(
        ((c.score, c.rid) for c in ranked), reverse=True
    )


def test_equals_go_newest_first() -> None:
    assert [c.rid for c in ranking(dict.fromkeys("abc", 0.5), {})] == ["c", "b", "a"]


def test_how_much_better_counts() -> None:
    """One that is far ahead in meaning beats one that is a bit ahead in words."""
    dense = {"a": 0.9, "b": 0.3, "c": 0.31, "d": 0.29}
    lexical = {"b": 5.0, "c": 4.9, "d": 4.8, "a": 4.7}
    assert ranking(dense, lexical, 9.0)[0].rid == "a"


def test_noise_among_few_is_not_blown_up() -> None:
    ranked = ranking({"a": 0.300, "b": 0.301}, {"a": 3.0}, 6.0)
    assert ranked[0].rid == "a"
    assert abs(ranked[1].dense) < 0.1


def test_a_record_without_a_vector_is_not_punished() -> None:
    dense = {"a": 0.1, "b": 0.2, "c": 0.15}
    lexical = {"new": 5.0, "a": 1.0}
    assert ranking(dense, lexical, 5.0)[0].rid == "new"


def test_a_common_word_in_a_long_query_counts_for_little() -> None:
    """The same word scores, out of words worth 5 or worth 50."""
    dense = {"a": 0.5, "b": 0.2, "c": 0.3, "d": 0.25}
    few, many = (ranking(dense, {"b": 4.6}, ceiling) for ceiling in (5.0, 50.0))
    assert few[0].rid == "b"
    assert many[0].rid == "a"


def test_a_weight_of_zero_turns_a_signal_off() -> None:
    dense, lexical = {"a": 0.9, "b": 0.1}, {"b": 9.0}
    assert ranking(dense, lexical, 9.0, weights=weighted("dense=0"))[0].dense == 0
    assert {c.lexical for c in ranking(dense, lexical, 9.0, weights=weighted("lexical=0"))} == {0}


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("!?", 0), ("hello", 0), ("代码", 1), ("代码ab", 0.5), ("カナ 한글", 1)],
)
def test_share_of_cjk(text: str, share: float) -> None:
    assert cjk_share(text) == share


def test_words_weigh_more_in_chinese() -> None:
    dense = {"a": 0.9, "b": 0.1}
    english, chinese = (ranking(dense, {}, query=text)[0] for text in ("code style", "代码风格"))
    assert 0 < chinese.dense < english.dense


def test_weights_as_text() -> None:
    assert weighted("") == Weights()
    assert weighted("voice=0,cjk_dense=1") == Weights(voice=0, cjk_dense=1)
    assert weighted("context=0") == Weights(context=0, context_dense=0)
    for wrong in ("wisdom=1", "voice", "voice=loud", "voice=0,"):
        with pytest.raises(EINVAL):
            weighted(wrong)


def test_every_signal_is_a_part_with_weights() -> None:
    fields = Weights.__struct_fields__
    assert set(SIGNALS) == set(Parts.__struct_fields__)
    assert all(name in fields for names in SIGNALS.values() for name in names)


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
        ("I don't sing", ["sing"]),
        ("I'm ill. What should I eat? Could you suggest soup", ["ill.", "eat", "soup"]),
        ("Is it in the US. Where", ["US."]),
        ("What happened in May", ["happened", "May"]),
        ("?!", []),
    ],
)
def test_function_words_are_not_looked_for(query: str, left: list[str]) -> None:
    assert [word.strip("?!") for word in words_of(query).split() if word.strip("?!")] == left
