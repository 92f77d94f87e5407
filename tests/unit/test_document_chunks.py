"""Chunks cover a text, overlap, end where it hurts least; readers never fail in another way."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userland.documents.chunk import chunks, spans
from userland.documents.extract import Part, Unreadable, extract

HEADS = [b"", b"%PDF-1.4\n", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"<html>", b"GIF89a"]
TEXTS = st.text(st.sampled_from("ab。！. \n中文é"), max_size=600)


@given(TEXTS, st.integers(3, 80), st.integers(0, 60))
def test_spans_cover_everything_in_order_and_none_is_too_long(
    text: str, size: int, overlap: int
) -> None:
    found = list(spans(text, size, min(overlap, size // 3)))
    assert found[0][0] == 0 and found[-1][1] == len(text)
    for (start, stop), (later, end) in pairwise(found):
        assert start < later <= stop < end
        assert stop - start <= size


@given(st.lists(TEXTS, max_size=4), st.integers(10, 80))
def test_offsets_are_those_of_the_whole_text(texts: list[str], size: int) -> None:
    whole = "\n\n".join(texts)
    for chunk in chunks([Part(text) for text in texts], size, size // 4):
        assert whole[chunk.offset : chunk.offset + len(chunk.text)] == chunk.text
        assert chunk.text == chunk.text.strip() != ""


def test_borders_are_paragraphs_then_lines_then_sentences() -> None:
    text = "One two three four. Five six\nseven eight.\n\n" + "x" * 80
    assert text[slice(*next(spans(text, 48, 0)))].endswith("eight.\n\n")
    text = "第一句话很长很长。第二句话也很长很长。" * 10
    assert all(text[b - 1] == "。" for _, b in spans(text, 50, 0))


def test_rows_of_a_table_are_never_cut_or_repeated() -> None:
    rows = [f"name: n{number}; role: a role of some length" for number in range(100)]
    cut = chunks([Part("\n".join(rows), whole=True)], 300, 100)
    assert [line for chunk in cut for line in chunk.text.split("\n")] == rows


@given(
    st.sampled_from(["a.txt", "a.md", "a.html", "a.csv", "a.pdf", "a.docx", "a.png", "a"]),
    st.sampled_from(
        [b"", b"%PDF-1.4\n", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"<html>", b"GIF89a"]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, name: str, head: bytes, body: bytes
) -> None:
    path = Path(tmp_path_factory.mktemp("any")) / name
    path.write_bytes(head + body)
    try:
        found = extract(path)
    except Unreadable as error:
        assert name in error.message or "needs" in error.message
    else:
        assert any(part.text.strip() for part in found.parts)
