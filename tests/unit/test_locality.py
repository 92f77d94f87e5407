"""What is believed of an engine's cache."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.llm.contract import GenerateRequest
from kernel.turns.locality import BOUNDS, ENTRIES, Locality
from syscalls.shapes import ChatMessage, Usage


def ask(text: str, salt: str = "s") -> GenerateRequest:
    return GenerateRequest(prompt=text, salt=salt)


def seen(locality: Locality, request: GenerateRequest) -> None:
    chain, _ = locality.chain(request)
    locality.begin(chain, 10.0)
    locality.end(chain, 10.0)


def known(locality: Locality, request: GenerateRequest) -> int:
    return locality.match(locality.chain(request)[0])


def test_a_common_beginning_is_known_under_the_same_salt_only() -> None:
    locality = Locality()
    seen(locality, ask("a" * 2000 + "b" * 600))
    assert known(locality, ask("a" * 2000 + "c" * 600)) == 2000 // 256
    assert known(locality, ask("a" * 2000 + "b" * 600)) == 2600 // 256
    assert known(locality, ask("a" * 2000, salt="t")) == 0
    assert known(locality, ask("b" + "a" * 2000)) == 0
    assert known(locality, ask("a" * 100)) == 0, "less than a chunk"


def test_messages_are_a_text_too() -> None:
    locality = Locality()
    system = ChatMessage("system", "s" * 1000)
    first = GenerateRequest(messages=[system, ChatMessage("user", "x" * 1000)])
    seen(locality, first)
    other = GenerateRequest(messages=[system, ChatMessage("user", "y" * 1000)])
    assert known(locality, first) > known(locality, other) >= 3
    shown = GenerateRequest(messages=[ChatMessage("system", "s" * 1000, images=[b"picture"])])
    assert known(locality, shown) == 3


def test_the_least_recently_used_is_forgotten_and_parents_outlive_children() -> None:
    locality = Locality(1000)  # 4000 characters
    for number in range(3):
        seen(locality, ask("same" * 128 + str(number) * 2048))
    assert known(locality, ask("same" * 128 + "2" * 2048)) == 10
    assert known(locality, ask("same" * 128 + "0" * 2048)) == 2


def test_an_engine_that_reports_less_is_believed() -> None:
    locality = Locality()
    for letter in "abc":
        seen(locality, ask(letter * 4096))
    chain, tokens = locality.chain(ask("b" * 4096))
    chunks = locality.match(chain)
    expected, stamp = locality.tokens_of(chunks), locality.stamp_of(chain, chunks)
    locality.begin(chain, 0.0)
    locality.learn(4096, expected, stamp, Usage(prompt=int(tokens), cached=0))
    assert known(locality, ask("a" * 4096)) == 0, "it was used before what has been evicted"
    assert known(locality, ask("c" * 4096)) == 16
    assert known(locality, ask("b" * 4096)) == 16, "it is being computed now"


def test_what_runs_and_shares_a_beginning_needs_it_once() -> None:
    locality = Locality(2000)
    chain, tokens = locality.chain(ask("a" * 4096))
    own = tokens - locality.tokens_of(len(chain)) + 100
    locality.begin(chain, own)
    once = locality.used
    assert once >= 1024
    locality.begin(chain, own)
    assert locality.used - once == own
    assert locality.fits(chain, own)
    assert not locality.fits(locality.chain(ask("b" * 4096))[0], own)
    locality.end(chain, own)
    assert locality.used == once
    locality.end(chain, own)
    assert locality.used == 0
    assert locality.fits(locality.chain(ask("b" * 40960))[0], own), "alone anything may try"


def test_characters_of_a_token_are_learned() -> None:
    locality = Locality()
    for _ in range(100):
        locality.learn(1000.0, 0.0, 0, Usage(prompt=1000))
    assert 0.9 < locality.chars < 1.1


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3), st.booleans()),
        max_size=60,
    ),
    st.sampled_from([0, 300, 3000]),
)
@settings(max_examples=100, deadline=None)
def test_a_known_chunk_has_known_parents_and_nothing_is_left_over(
    events: list[tuple[int, int, int, bool]], tokens: int
) -> None:
    locality = Locality(tokens)
    running = []
    for first, length, second, ends in events:
        chain, _ = locality.chain(ask(str(first) * 256 * length + str(second) * 1024))
        locality.begin(chain, 5.0)
        running.append(chain)
        if ends:
            locality.end(running.pop(0), 5.0)
        for each in [*running, chain]:
            marks = [mark in locality._known for mark in each]
            assert locality.match(each) == sum(marks)
            assert marks == sorted(marks, reverse=True)
    for chain in running:
        locality.end(chain, 5.0)
    assert locality.used == 0
    assert not locality._pinned
    sizes = [BOUNDS[n + 1] - BOUNDS[n] for _, n in locality._known.values()]
    assert locality._size == sum(sizes)
    assert len(sizes) <= ENTRIES
