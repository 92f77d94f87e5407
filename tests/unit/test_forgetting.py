"""What is used, what is worth keeping, what says the same."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.store.memory import MemoryStore
from syscalls.records import Fact
from ums.activation import DAY, DECAY, KEPT, Use, Uses, base_level, used
from ums.forgetting import Reader, Standing, idle, least, score, tier
from ums.merge import exact, mergeable, normal, same, survivor
from ums.records import Stored
from ums.rid import RidMaker, to_text


class Clock:
    at = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


# --- activation


def level(written: float, times: list[float], now: float) -> float:
    """The base level by its definition, every use counted."""
    return math.log(sum(max(1.0, now - t) ** -DECAY for t in (written, *times)))


@given(st.lists(st.floats(0, 1e7), max_size=60))
def test_the_approximation_is_near_the_equation(gaps: list[float]) -> None:
    times = sorted(gaps)
    use = Use()
    for at in times:
        use = used(use, at)
    now = 1.1e7
    assert len(use.recent) <= KEPT
    got, wanted = base_level(0.0, use, now), level(0.0, times, now)
    if len(times) <= KEPT:
        assert got == pytest.approx(wanted)
    else:
        assert abs(got - wanted) < 1.5


@given(st.integers(1, 50), st.floats(10, 1e6))
def test_more_use_is_more_and_more_time_is_less(count: int, ago: float) -> None:
    now = 1e8
    use = used(None, now - ago, count)
    assert base_level(0.0, used(use, now - ago), now) > base_level(0.0, use, now)
    assert base_level(0.0, use, now + ago) < base_level(0.0, use, now)


async def test_uses_are_stored_in_batches_and_a_search_commits_nothing() -> None:
    import random

    store, clock = MemoryStore(), Clock()
    uses = Uses(store, clock)
    maker = RidMaker(7, random.Random(1))
    rids = [to_text(maker.make(clock.now() - n * DAY)) for n in range(100)]
    before = store.statistics().batches
    for _ in range(20):
        clock.at += 60
        uses.note(7, rids)
    assert store.statistics().batches == before
    await uses.flush()
    assert store.statistics().batches == before + 1
    await uses.flush()
    assert store.statistics().batches == before + 1
    again = Uses(store, clock)
    assert again.activation(7, rids) == pytest.approx(uses.activation(7, rids))
    assert again.activation(8, rids[:1]) < again.activation(7, rids[:1])


async def test_what_is_not_stored_yet_counts_already_and_few_are_held() -> None:
    import random

    store, clock = MemoryStore(), Clock()
    uses = Uses(store, clock, kept=10)
    maker = RidMaker(7, random.Random(1))
    rids = [to_text(maker.make(clock.now())) for _ in range(50)]
    clock.at += DAY
    low = uses.activation(7, rids[:1])[0]
    uses.note(7, rids)
    assert uses.activation(7, rids[:1])[0] > low
    await uses.flush()
    assert uses.statistics().pending == 0
    assert uses.activation(7, rids[:1])[0] > low


# --- worth


CHATTER = [
    "Hey! How are you doing?",
    "Thanks so much!",
    "Wow, that's great. What do you think?",
    "Yeah, totally, you should!",
    "谢谢！你呢？",
]
MATTER = [
    "My sister Elena moved to Lisbon on 3 March 2021 and works at a bakery called Sol there.",
    "Last week I adopted a greyhound named Pixel from the shelter in Hamburg, he is 4 years old.",
    'I finished reading "The Dispossessed" in June and started a pottery class in Trieste.',
    "我妹妹去年三月搬到了成都，在一家叫《小满》的书店工作，每个月回家两次。",
]


def test_what_says_something_is_worth_more_than_chatter() -> None:
    reader = Reader()
    for text in ("It is cold.", "We had soup.", "The train is late."):
        reader.worth(text)
    chatter = [reader.worth(text) for text in CHATTER]
    matter = [reader.worth(text) for text in MATTER]
    assert min(matter) > max(chatter)


def test_what_was_said_before_is_worth_less() -> None:
    reader = Reader()
    text = "My dog Pixel was born in Hamburg in 2019."
    assert reader.worth(text) > reader.worth(text)


@given(st.text(max_size=300))
def test_any_text_has_a_worth(text: str) -> None:
    assert 0 <= Reader().worth(text) <= 1


def standing(rid: str, worth: float = 0.3, **fields: object) -> Standing:
    """A record of 100 days that nobody used."""
    age = 100 * DAY
    figures = {"importance": 0.5, "activation": -DECAY * math.log(age), "age": age} | fields
    return Standing(rid, worth, **figures)  # type: ignore[arg-type]


def test_the_least_goes_first_and_what_is_protected_never() -> None:
    used_much = standing("c", 0.1, activation=base_level(0, Use(5, [99 * DAY] * 4), 100 * DAY))
    all_of_them = [
        standing("a", 0.2),
        standing("b", 0.1, protected=True),
        used_much,
        standing("d", 0.1, importance=0.9),
        standing("e", 0.1),
    ]
    assert next(one.rid for one in least(all_of_them, 9)) == "e"
    assert "b" not in {one.rid for one in least(all_of_them, 9)}
    assert score(used_much) > score(standing("e", 0.1))
    assert idle(standing("a")) == pytest.approx(100 * DAY)
    assert idle(used_much) < 2 * DAY


def test_tiers() -> None:
    assert tier("frozen", "semantic", -9) == "hot"
    assert tier("generated", "working", -9) == "hot"
    assert tier("activated", "semantic", -1) == "hot"
    assert tier("activated", "semantic", -9) == "warm"
    assert tier("activated", "semantic", -9, cold=True) == "cold"
    assert tier("archived", "semantic", 0) == "archive"


# --- merging


def stored(content: str, **fields: object) -> Stored:
    """A record as it is stored."""
    return Stored(content, 1, 1000.0, 1000.0, 7, "mem.write", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The quarterly report is due to the finance team on 3 May at noon",
         "The quarterly report is due to the finance team on 3 May, at noon."),
        ("The weekly planning meeting for the garden project happens in room 12 downstairs",
         "The weekly planning meeting for the garden project takes in room 12 downstairs"),
    ],
)  # fmt: skip
def test_what_says_the_same(one: str, other: str) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the door code is 4711", "the door code is 4712"),
        ("Ann likes tea", "Bob likes tea"),
        ("I like tea", "You like tea"),
        ("Ann likes tea", "Ann does not like tea"),
        ("Ann likes tea", "Ann hates tea"),
        ("Ann paid Bob for the lunch", "Bob paid Ann for the lunch"),
        ("the meeting is before lunch", "the meeting is after lunch"),
        ("the meeting is on Monday", "the meeting is on Tuesday"),
        ("she has two cats", "she has three cats"),
        ("is the shop open", "is the shop open?"),
        ("我喜欢茶", "我不喜欢茶"),
        ("the long and winding plan of the team says that the server room opens at dawn today",
         "the long and winding plan of the team says that the server room opens at dusk, never"),
    ],
)  # fmt: skip
def test_what_differs_in_what_matters(one: str, other: str) -> None:
    assert not same(one, other)
    assert not same(other, one)


@given(st.text(max_size=80))
def test_a_text_says_the_same_as_itself(text: str) -> None:
    assert same(text, text)
    assert normal(normal(text)) == normal(text)


def test_only_like_records_are_merged() -> None:
    assert mergeable(stored("a"), stored("a"))
    assert not mergeable(stored("a", key="k"), stored("a"))
    assert not mergeable(stored("a", valid_from=1.0), stored("a"))
    assert not mergeable(stored("a", fact=Fact("x", "is", "y")), stored("a"))
    assert not mergeable(stored("a", meta={"speaker": "Ann"}), stored("a"))
    assert not mergeable(stored("a", superseded_by="r"), stored("a"))


def test_exact_duplicates_are_grouped_but_events_of_two_days_are_two() -> None:
    late = stored("I ran.")
    late.created += 5 * DAY
    facts = [("a", 2, stored("I ran.")), ("b", 2, stored("i ran")), ("c", 2, late)]
    events = [("d", 1, stored("I ran.")), ("e", 1, stored("I ran!")), ("f", 1, late)]
    groups = {group.survivor: group.rids for group in exact(facts + events)}
    assert groups == {"a": ["b", "c"], "d": ["e"]}


def test_the_survivor_is_pinned_then_trusted_then_oldest() -> None:
    told = stored("a", taint="user")
    assert survivor([("b", told), ("a", stored("a", taint="model"))]) == "b"
    assert survivor([("b", told), ("a", stored("a", taint="model", state="frozen"))]) == "a"
    assert survivor([("b", told), ("a", stored("a"))]) == "a"
