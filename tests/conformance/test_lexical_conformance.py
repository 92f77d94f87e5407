"""What every lexical index promises (``drivers.contracts.LexicalIndex``), on each there is."""

from __future__ import annotations

import math
import random
import resource
import shutil
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from drivers.indexes import DiskIndexes, MemoryIndexes
from drivers.lexical import fts5
from drivers.lexical.words import Words
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drivers.contracts import IndexFactory, LexicalIndex


@pytest.fixture(params=["disk", "memory"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> IndexFactory:
    return DiskIndexes(tmp_path) if request.param == "disk" else MemoryIndexes()


@pytest.fixture
def index(factory: IndexFactory) -> Iterator[LexicalIndex]:
    opened = factory.lexical(1)
    yield opened
    opened.close()


def rids(
    index: LexicalIndex, query: str, k: int = 1000, tags: frozenset[int] | None = None
) -> list[str]:
    return [hit.rid for hit in index.search(query, k, tags)]


def test_it_begins_empty_at_0(index: LexicalIndex) -> None:
    assert index.position == 0
    assert index.search("anything", 5, None) == []
    figures = index.statistics()
    assert (figures.entries, figures.position, figures.rebuilt) == (0, 0, "")


def test_any_of_the_words_finds_and_rare_ones_weigh_more(index: LexicalIndex) -> None:
    texts = [f"the user said something about topic{n}" for n in range(20)]
    texts.append("the user bought a zeppelin")
    index.apply(3, [(f"r{n}", 0, text) for n, text in enumerate(texts)], [])
    hits = index.search("did the user see a Zeppelin?", 5, None)
    assert hits[0].rid == "r20"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score > hits[1].score > 0
    assert len(hits) == 5
    assert rids(index, "nothing matches") == []
    assert (index.position, index.statistics().entries) == (3, 21)


def test_inflections_case_and_accents_do_not_matter(index: LexicalIndex) -> None:
    index.apply(1, [("a", 0, "Alice's cafés were RUNNING late"), ("b", 0, "unrelated")], [])
    for query in ("cafe", "CAFÉ", "run", "runs", "alice", "Ａｌｉｃｅ"):
        assert rids(index, query) == ["a"], query


def test_chinese_and_mixed_text_are_found(index: LexicalIndex) -> None:
    texts = [f"今天第{n}次讨论了天气和晚饭的安排，还有 project{n}" for n in range(100)]
    index.apply(1, [(f"r{n}", 0, text) for n, text in enumerate(texts)], [])
    index.apply(
        2, [("style", 1, "喜欢简洁代码风格"), ("mixed", 1, "用Python写的猫咪识别程序v2")], []
    )
    assert rids(index, "代码风格偏好")[0] == "style"
    assert rids(index, "python 程序")[0] == "mixed"
    assert rids(index, "猫") == ["mixed"]
    assert rids(index, "project42")[0] == "r42"
    assert len(rids(index, "天气")) == 100


def test_identifiers_addresses_and_numbers_are_found(index: LexicalIndex) -> None:
    texts = {
        "mail": "write to bob.smith@example.com about it",
        "name": "call parse_http_header in net/http.py",
        "date": "due on 2023-05-07, costs 3.14 or 1234567",
    }
    index.apply(1, [(rid, 0, text) for rid, text in texts.items()], [])
    for query, rid in [
        ("bob.smith@example.com", "mail"),
        ("example.com", "mail"),
        ("parse_http_header", "name"),
        ("header", "name"),
        ("http.py", "name"),
        ("2023-05-07", "date"),
        ("3.14", "date"),
        ("1234567", "date"),
    ]:
        assert rids(index, query)[0] == rid, query


def test_a_narrowed_search_still_finds_k(
    index: LexicalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the documents of other tags alone would use up what a search may read."""
    monkeypatch.setattr(fts5, "BUDGET", 50)
    index.apply(1, [(f"many{n}", n % 3, "common words here") for n in range(500)], [])
    index.apply(2, [(f"few{n}", 9, "common also") for n in range(5)], [])
    index.apply(3, [("one", 8, "words")], [])
    assert sorted(rids(index, "common words", 5, frozenset({9}))) == [f"few{n}" for n in range(5)]
    assert len(rids(index, "common words", 6, frozenset({8, 9}))) == 6
    assert len(rids(index, "common words", 700)) == 506
    assert rids(index, "common", 5, frozenset()) == []
    assert rids(index, "common", 5, frozenset({63})) == []


def test_an_upsert_replaces_text_and_tag(index: LexicalIndex) -> None:
    index.apply(1, [("a", 0, "apples"), ("b", 0, "pears")], [])
    index.apply(2, [("a", 4, "bananas")], [])
    assert rids(index, "apples") == []
    assert rids(index, "bananas", tags=frozenset({4})) == ["a"]
    assert rids(index, "bananas", tags=frozenset({0})) == []
    assert index.statistics().entries == 2
    index.apply(3, [("c", 0, "one"), ("c", 1, "two")], [])
    assert (rids(index, "one"), rids(index, "two", tags=frozenset({1}))) == ([], ["c"])


def test_deletes_are_gone_at_once_and_of_the_unknown_are_nothing(index: LexicalIndex) -> None:
    index.apply(1, [(f"r{n}", 0, "some words") for n in range(10)], [])
    index.apply(2, [], [f"r{n}" for n in range(0, 10, 2)] + ["unknown"])
    assert sorted(rids(index, "words")) == [f"r{n}" for n in range(1, 10, 2)]
    index.apply(3, [("r0", 0, "words again")], [])
    assert "r0" in rids(index, "words")
    index.apply(4, [("x", 0, "words"), ("r1", 0, "words")], ["x", "r1"])
    assert sorted(rids(index, "words")) == ["r0", "r3", "r5", "r7", "r9"]
    assert (index.position, index.statistics().entries) == (4, 5)


def test_texts_without_words_are_kept_and_not_found(index: LexicalIndex) -> None:
    index.apply(1, [("a", 0, ""), ("b", 0, "!? ... 🙂")], [])
    index.apply(2, [("b", 0, "words")], ["a"])
    assert rids(index, "words") == ["b"]
    assert index.statistics().entries == 1


@given(query=st.text(max_size=60), text=st.text(max_size=60))
@example(query='" OR * NEAR(', text="AND NOT x")
@example(query="a" * 10_000, text="a" * 10_000)
@example(query=" ".join(f"w{n}" for n in range(2000)), text="w0")
@example(query="\0\ud800'\";--", text="\ud800")
def test_any_text_is_valid(query: str, text: str) -> None:
    index = MemoryIndexes().lexical(1)
    index.apply(1, [("a", 0, text), ("b", 0, "x")], [])
    index.search(query, 5, None)
    if Words()(text):
        assert "a" in rids(index, text)
    index.close()


def corpus(count: int, seed: int) -> list[str]:
    """Texts of a vocabulary with a few common and many rare words."""
    chance = random.Random(seed)
    words = [f"w{n}x" for n in range(400)]
    weights = [1 / (n + 1) for n in range(400)]
    return [" ".join(chance.choices(words, weights, k=chance.randint(5, 30))) for _ in range(count)]


def bm25(texts: list[str], query: str) -> list[float]:
    """BM25 by its definition."""
    documents = [Counter(text.split()) for text in texts]
    lengths = [sum(document.values()) for document in documents]
    mean = sum(lengths) / len(lengths)
    scores = [0.0] * len(texts)
    for word in set(query.split()):
        having = sum(word in document for document in documents)
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for n, document in enumerate(documents):
            count = document[word]
            scores[n] += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[n] / mean))
    return scores


def test_scores_are_bm25(index: LexicalIndex) -> None:
    texts = corpus(300, seed=1)
    for start in range(0, 300, 50):
        part = range(start, start + 50)
        index.apply(start + 50, [(f"r{n}", 0, texts[n]) for n in part], [])
    for query in corpus(20, seed=2):
        expected = sorted(bm25(texts, query), reverse=True)
        scores = [hit.score for hit in index.search(query, 10, None)]
        assert scores == pytest.approx(expected[:10], rel=1e-6)


def test_reading_less_loses_little(index: LexicalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on what a search reads keeps most of the best ten, and all scores right."""
    texts = corpus(2000, seed=3)
    index.apply(1, [(f"r{n}", 0, text) for n, text in enumerate(texts)], [])
    monkeypatch.setattr(fts5, "BUDGET", 400)
    kept = total = 0
    for query in corpus(30, seed=4):
        scores = bm25(texts, query)
        best = sorted(scores, reverse=True)[9]
        for hit in index.search(query, 10, None):
            assert hit.score == pytest.approx(scores[int(hit.rid[1:])], rel=0.2)
            kept += scores[int(hit.rid[1:])] >= best - 1e-9
            total += 1
    assert total == 300
    assert kept > 0.75 * total


def test_spaces_are_apart(factory: IndexFactory) -> None:
    one, two = factory.lexical(1), factory.lexical(2)
    one.apply(1, [("a", 0, "words")], [])
    assert rids(two, "words") == []
    one.close()
    two.close()


# --- the one on disk


def fill(index: LexicalIndex) -> None:
    for n, text in enumerate(corpus(200, seed=5)):
        deletes = [f"r{n - 3}"] if n % 10 == 0 else []
        index.apply(n + 1, [(f"r{n}", n % 4, text)], deletes)


def answers(index: LexicalIndex) -> list[list[tuple[str, float]]]:
    return [
        [(hit.rid, round(hit.score, 6)) for hit in index.search(query, 20, None)]
        for query in corpus(20, seed=6)
    ]


def test_it_is_the_same_after_reopening(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.lexical(1)
    fill(index)
    before = answers(index)
    index.close()
    index.close()
    again = disk.lexical(1)
    assert (again.position, answers(again), again.statistics().rebuilt) == (200, before, "")
    again.apply(201, [("more", 0, "zebra")], [])
    assert rids(again, "zebra") == ["more"]
    again.close()


def test_what_was_applied_survives_a_killed_process(tmp_path: Path) -> None:
    """The files as they are in the middle of work are whole."""
    index = DiskIndexes(tmp_path / "a").lexical(1)
    fill(index)
    before = answers(index)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    index.close()
    again = DiskIndexes(tmp_path / "b").lexical(1)
    assert (again.position, answers(again), again.statistics().rebuilt) == (200, before, "")
    again.close()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_after_closing_is_seen(tmp_path: Path, data: st.DataObject) -> None:
    """Any change to the file of a closed index empties it; then fed again it is whole."""
    disk = DiskIndexes(tmp_path)
    file = tmp_path / "1" / "words.db"
    if not (tmp_path / "whole").exists():
        index = disk.lexical(1)
        fill(index)
        index.close()
        shutil.copytree(tmp_path / "1", tmp_path / "whole")
        index = disk.lexical(1)
        (tmp_path / "answers").write_text(repr(answers(index)))
        index.close()
    disk.remove(1)
    shutil.copytree(tmp_path / "whole", tmp_path / "1")
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    index = disk.lexical(1)
    assert (index.position, index.statistics().entries) == (0, 0)
    assert index.statistics().rebuilt
    fill(index)
    assert repr(answers(index)) == (tmp_path / "answers").read_text()
    index.close()


@pytest.mark.parametrize("page", range(0, 16, 2))
def test_damage_after_a_kill_is_seen_or_harmless(tmp_path: Path, page: int) -> None:
    """Without the seal of a clean end a page of rubbish is found by checking."""
    disk = DiskIndexes(tmp_path)
    index = disk.lexical(1)
    fill(index)
    before = answers(index)
    index.close()
    folder = tmp_path / "1"
    (folder / "words.crc").unlink()
    content = bytearray((folder / "words.db").read_bytes())
    start = page * 4096
    if start >= len(content):
        pytest.skip("the file has fewer pages")
    content[start : start + 4096] = random.Random(page).randbytes(4096)
    (folder / "words.db").write_bytes(content)
    index = disk.lexical(1)
    if index.position:
        assert answers(index) == before
    else:
        assert index.statistics().rebuilt
    index.close()


def test_damage_while_open_empties_it_and_is_an_error(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.lexical(1)
    for start in range(0, 20_000, 2000):
        texts = corpus(2000, seed=start)
        index.apply(start + 1, [(f"r{start + n}", 0, text) for n, text in enumerate(texts)], [])
    index.close()
    index = disk.lexical(1)
    file = tmp_path / "1" / "words.db"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(random.Random(1).randbytes(size - 4096))
    with pytest.raises(EIO) as caught:
        for query in corpus(50, seed=8):
            index.search(query, 10, None)
    assert caught.value.detail["driver"] == "lexical"
    assert (index.position, index.statistics().entries) == (0, 0)
    assert index.statistics().rebuilt
    index.apply(1, [("a", 0, "fed again")], [])
    assert rids(index, "fed") == ["a"]
    index.close()


def test_what_is_no_index_opens_empty(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for content in (b"", b"x", b"not a database at all" * 1000, b"SQLite format 3\0" + b"\0" * 500):
        (tmp_path / "1" / "words.db").write_bytes(content)
        index = DiskIndexes(tmp_path).lexical(1)
        assert index.position == 0
        index.apply(1, [("a", 0, "words")], [])
        assert rids(index, "words") == ["a"]
        index.close()
        (tmp_path / "1" / "words.crc").unlink()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    index = DiskIndexes(tmp_path).lexical(1)
    fill(index)
    before = answers(index)
    index.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(file.stat().st_size for file in (tmp_path / "1").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
    try:
        with pytest.raises(EIO) as caught:
            index.apply(201, [(f"x{n}", 0, "words " * 2000) for n in range(100)], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.detail["driver"] == "lexical"
    assert (index.position, answers(index)) == (200, before)
    index.apply(201, [("more", 0, "zebra")], [])
    index.close()
    again = DiskIndexes(tmp_path).lexical(1)
    assert (again.position, rids(again, "zebra")) == (201, ["more"])
    again.close()


def test_scores_are_those_of_the_search(index: LexicalIndex) -> None:
    texts = [f"common words number{n} " + "filler " * (n % 7) for n in range(300)]
    index.apply(1, [(f"r{n}", n % 3, text) for n, text in enumerate(texts)], [])
    query = "common number5 number77 nothing"
    found = {hit.rid: hit.score for hit in index.search(query, 300, None)}
    rids = [f"r{n}" for n in range(299, -1, -1)] + ["unknown"]
    scores = index.scores(query, rids * 3)
    assert len(scores) == 3 * len(rids)
    assert dict(zip(rids, scores, strict=False)) == {**dict.fromkeys(rids, 0.0), **found}
    assert index.scores("nothing of it", ["r1"]) == [0.0]
    assert index.scores(query, []) == []


def test_the_ceiling_is_what_the_words_of_a_query_are_worth(index: LexicalIndex) -> None:
    assert index.ceiling("") == index.ceiling("!?") == 0
    index.apply(1, [(f"r{n}", 0, f"common word{n}") for n in range(100)], [])
    assert 0 < index.ceiling("common") < 0.1
    assert index.ceiling("word7") == pytest.approx(index.scores("word7", ["r7"])[0], rel=0.2)
    rare, none = index.ceiling("word7"), index.ceiling("nothing")
    assert none > rare
    assert index.ceiling("common word7 nothing") == pytest.approx(
        index.ceiling("common") + rare + none
    )
    before = index.ceiling("common")
    index.apply(2, [(f"s{n}", 0, "another") for n in range(100)], [])
    assert index.ceiling("common") > before
