"""What every vector index promises (``drivers.contracts.VectorIndex``), on each there is."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drivers.indexes import DiskIndexes, MemoryIndexes
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from drivers.contracts import IndexFactory, VectorIndex, Vectors

DIMENSION = 8
Entry = tuple[str, int, list[float]]


def units(count: int, seed: int = 1) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


NO_ROWS = np.empty((0, DIMENSION), np.float32)


@pytest.fixture(params=["disk", "memory"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> IndexFactory:
    return DiskIndexes(tmp_path) if request.param == "disk" else MemoryIndexes()


@pytest.fixture
def index(factory: IndexFactory) -> Iterator[VectorIndex]:
    opened = factory.vectors(1, DIMENSION, "f")
    yield opened
    opened.close()


def rids(index: VectorIndex, vector: Vectors, k: int, tags: frozenset[int] | None) -> list[str]:
    return [hit.rid for hit in index.search(vector, k, tags)]


def test_it_begins_empty_at_0(index: VectorIndex) -> None:
    assert index.position == 0
    assert index.search(units(1)[0], 5, None) == []
    assert index.scores(units(1)[0], ["a"]) == [None]
    figures = index.statistics()
    assert (figures.entries, figures.position, figures.rebuilt) == (0, 0, "")


def test_the_nearest_come_best_first(index: VectorIndex) -> None:
    rows = units(200)
    index.apply(7, [(f"r{n}", n % 5) for n in range(200)], rows, [])
    query = units(1, seed=9)[0]
    expected = rows @ query
    order = np.argsort(-expected)[:10]
    hits = index.search(query, 10, None)
    assert [hit.rid for hit in hits] == [f"r{n}" for n in order]
    assert [hit.score for hit in hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
    assert index.position == 7
    assert index.statistics().entries == 200


def test_a_narrowed_search_still_finds_k(index: VectorIndex) -> None:
    """A few far entries of one tag are found among many near ones of others."""
    query = units(1)[0]
    near = np.repeat(query[None], 500, axis=0)
    index.apply(1, [(f"near{n}", n % 2) for n in range(500)], near, [])
    index.apply(2, [(f"far{n}", 63) for n in range(5)], -near[:5], [])
    assert sorted(rids(index, query, 5, frozenset({63}))) == [f"far{n}" for n in range(5)]
    assert len(rids(index, query, 10, frozenset({63, 40}))) == 5
    assert len(rids(index, query, 10, frozenset({1, 63}))) == 10
    assert rids(index, query, 10, frozenset()) == []
    assert rids(index, query, 10, frozenset({7})) == []


def test_k_may_be_anything(index: VectorIndex) -> None:
    index.apply(1, [("a", 0), ("b", 1)], units(2), [])
    assert len(index.search(units(1)[0], 1000, None)) == 2
    assert index.search(units(1)[0], 0, None) == []


def test_an_upsert_replaces_row_and_tag(index: VectorIndex) -> None:
    one, two = units(2)
    index.apply(1, [("a", 0), ("b", 0)], np.stack([one, two]), [])
    index.apply(2, [("a", 0)], two[None], [])
    assert index.scores(two, ["a"])[0] == pytest.approx(1)
    index.apply(3, [("a", 5)], one[None], [])
    assert rids(index, one, 9, frozenset({5})) == ["a"]
    assert rids(index, one, 9, frozenset({0})) == ["b"]
    assert index.scores(one, ["a"])[0] == pytest.approx(1)
    assert index.statistics().entries == 2


def test_of_two_upserts_of_one_rid_the_later_counts(index: VectorIndex) -> None:
    one, two = units(2)
    index.apply(1, [("a", 0), ("a", 1)], np.stack([one, two]), [])
    assert rids(index, one, 9, None) == ["a"]
    assert rids(index, one, 9, frozenset({1})) == ["a"]
    assert index.scores(two, ["a"])[0] == pytest.approx(1)
    index.apply(2, [("b", 2), ("c", 2), ("b", 2)], np.stack([one, one, two]), [])
    assert index.scores(two, ["b"])[0] == pytest.approx(1)
    assert index.statistics().entries == 3


def test_deletes_are_gone_at_once_and_of_the_unknown_are_nothing(index: VectorIndex) -> None:
    rows = units(50)
    index.apply(1, [(f"r{n}", n % 3) for n in range(50)], rows, [])
    index.apply(2, [], NO_ROWS, [f"r{n}" for n in range(0, 50, 2)] + ["unknown"])
    assert set(rids(index, rows[0], 99, None)) == {f"r{n}" for n in range(1, 50, 2)}
    assert index.scores(rows[0], ["r0", "r1"])[0] is None
    for n in range(1, 50, 2):  # whoever moved into a gap is still itself
        assert index.scores(rows[n], [f"r{n}"])[0] == pytest.approx(1)
    index.apply(3, [("r0", 0)], rows[:1], [])
    assert rids(index, rows[0], 1, None) == ["r0"]


def test_a_rid_in_both_lists_is_deleted(index: VectorIndex) -> None:
    index.apply(1, [("a", 0)], units(1), ["a"])
    assert rids(index, units(1)[0], 9, None) == []
    assert index.position == 1


def test_an_empty_change_moves_the_position(index: VectorIndex) -> None:
    index.apply(9, [], NO_ROWS, [])
    assert index.position == 9


def test_scores_answer_in_order(index: VectorIndex) -> None:
    rows = units(4)
    index.apply(1, [(f"r{n}", n) for n in range(4)], rows, [])
    scores = index.scores(rows[2], ["r3", "none", "r2", "r2"])
    assert scores[1] is None
    assert scores[2:] == pytest.approx([1, 1])
    assert scores[0] == pytest.approx(float(rows[3] @ rows[2]), abs=1e-5)
    assert index.scores(rows[0], []) == []


def test_what_does_not_fit_is_refused_and_changes_nothing(index: VectorIndex) -> None:
    with pytest.raises(ValueError, match="dimension"):
        index.apply(1, [("a", 0)], np.zeros((1, DIMENSION + 1), np.float32), [])
    with pytest.raises(ValueError, match="upserts"):
        index.apply(1, [("a", 0)], units(2), [])
    with pytest.raises(ValueError, match="tag"):
        index.apply(1, [("a", 64)], units(1), [])
    with pytest.raises(ValueError, match="dimension"):
        index.search(np.zeros(3, np.float32), 1, None)
    assert (index.position, index.statistics().entries) == (0, 0)


def test_spaces_are_apart(factory: IndexFactory) -> None:
    one, two = factory.vectors(1, DIMENSION, "f"), factory.vectors(2, DIMENSION, "f")
    one.apply(1, [("a", 0)], units(1), [])
    assert two.search(units(1)[0], 1, None) == []
    one.close()
    two.close()


# --- the one on disk


def contents(index: VectorIndex) -> set[tuple[str, float]]:
    """Everything that is there, by rid and its product with one vector."""
    hits = index.search(units(1, seed=77)[0], 100_000, None)
    return {(hit.rid, round(hit.score, 4)) for hit in hits}


def fill(index: VectorIndex) -> dict[int, set[tuple[str, float]]]:
    """Some batches; what is there at each position."""
    states = {0: contents(index)}
    rows = units(60)
    for n in range(12):
        upserts = [(f"r{n * 5 + m}", m) for m in range(5)]
        deletes = [f"r{n * 3}"] if n % 2 else []
        index.apply(10 * (n + 1), upserts, rows[n * 5 : n * 5 + 5], deletes)
        states[10 * (n + 1)] = contents(index)
    return states


def test_it_is_the_same_after_reopening(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    index.close()
    index.close()
    again = disk.vectors(1, DIMENSION, "f")
    assert (again.position, contents(again), again.statistics().rebuilt) == (120, states[120], "")
    again.close()


def test_what_was_applied_survives_a_killed_process(tmp_path: Path) -> None:
    """Nothing is held back in memory: the file is whole after each apply."""
    index = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
    states = fill(index)
    other = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
    assert (other.position, contents(other)) == (120, states[120])
    other.close()
    index.close()


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_takes_it_back_to_a_state_that_was(tmp_path: Path, data: st.DataObject) -> None:
    """Bits turned, bytes cut off or added, anywhere: then fed again it is whole."""
    disk = DiskIndexes(tmp_path)
    disk.remove(1)
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    index.close()
    file = tmp_path / "1" / "vectors.log"
    whole = file.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "flip":
        file.write_bytes(
            whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
        )
    elif kind == "cut":
        file.write_bytes(whole[:at])
    else:
        file.write_bytes(whole + data.draw(st.binary(min_size=1, max_size=50)))
    index = disk.vectors(1, DIMENSION, "f")
    position = index.position
    assert position in states
    assert contents(index) == states[position]
    if kind == "add":
        assert position == 120
    if file.stat().st_size < len(whole) and kind != "cut":
        assert index.statistics().rebuilt
    index.close()
    again = disk.vectors(1, DIMENSION, "f")
    assert (again.position, again.statistics().rebuilt) == (position, "")
    fill(again)
    assert contents(again) == states[120]
    again.close()


@pytest.mark.parametrize(("dimension", "fingerprint"), [(DIMENSION, "other"), (4, "f")])
def test_of_another_embedder_it_opens_empty(
    tmp_path: Path, dimension: int, fingerprint: str
) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.vectors(1, DIMENSION, "f")
    fill(index)
    index.close()
    other = disk.vectors(1, dimension, fingerprint)
    assert (other.position, other.statistics().entries) == (0, 0)
    assert other.statistics().rebuilt
    other.apply(1, [("a", 0)], np.ones((1, dimension), np.float32), [])
    other.close()
    same = disk.vectors(1, dimension, fingerprint)
    assert (same.position, same.statistics().rebuilt) == (1, "")
    same.close()


def test_what_is_no_log_opens_empty(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for content in (b"x", b"not a log at all" * 100, b"ENGRAMv\0" + b"\xff" * 100):
        (tmp_path / "1" / "vectors.log").write_bytes(content)
        index = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
        assert index.position == 0
        assert index.statistics().rebuilt
        index.close()


def test_dead_rows_are_compacted(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.vectors(1, DIMENSION, "f")
    rows = units(100)
    for n in range(60):
        index.apply(n + 1, [(f"r{m}", m % 4) for m in range(100)], rows, [])
    assert index.statistics().bytes_disk < 2000 * (4 * DIMENSION + 10)
    assert not (tmp_path / "1" / "vectors.new").exists()
    before = contents(index)
    index.close()
    again = disk.vectors(1, DIMENSION, "f")
    assert (again.position, contents(again)) == (60, before)
    again.close()


def test_a_damaged_compacted_log_is_fed_from_the_beginning(tmp_path: Path) -> None:
    """Part of a snapshot is no state that ever was: its position must not be believed."""
    disk = DiskIndexes(tmp_path)
    index = disk.vectors(1, DIMENSION, "f")
    rows = units(6000)
    for n in range(4):
        index.apply(n + 1, [(f"r{m}", 0) for m in range(6000)], rows, [])
    index.close()
    file = tmp_path / "1" / "vectors.log"
    damaged = bytearray(file.read_bytes())
    damaged[5000 * 4 * DIMENSION] ^= 1
    file.write_bytes(damaged)
    index = disk.vectors(1, DIMENSION, "f")
    assert index.position == 0
    assert "damaged" in index.statistics().rebuilt
    index.close()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    index = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
    states = fill(index)
    size = index.statistics().bytes_disk
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        with pytest.raises(EIO) as caught:
            index.apply(130, [(f"x{n}", 0) for n in range(60)], units(60), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.detail["driver"] == "vectors"
    assert (index.position, contents(index)) == (120, states[120])
    assert (tmp_path / "1" / "vectors.log").stat().st_size == size
    index.apply(130, [("x", 0)], units(1), [])
    index.close()
    again = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
    assert (again.position, again.statistics().rebuilt) == (130, "")
    again.close()


def test_remove_deletes_the_files_and_nothing_else(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    for space in (1, 11):
        disk.vectors(space, DIMENSION, "f").close()
    disk.remove(1)
    disk.remove(1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["11"]


# --- against numpy

small = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=3)
names = st.sampled_from([f"r{n}" for n in range(12)])


class VectorMachine(RuleBasedStateMachine):
    """Random histories; whole numbers, so that products are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.index: VectorIndex = MemoryIndexes().vectors(1, 3, "f")
        self.model: dict[str, tuple[int, list[float]]] = {}
        self.seq = 0

    @rule(
        upserts=st.lists(st.tuples(names, st.integers(0, 3), small), max_size=8),
        deletes=st.lists(names, max_size=4),
    )
    def apply(self, upserts: list[Entry], deletes: list[str]) -> None:
        self.seq += 1
        rows = np.array([row for _, _, row in upserts], np.float32).reshape(-1, 3)
        self.index.apply(self.seq, [(rid, tag) for rid, tag, _ in upserts], rows, deletes)
        for rid, tag, row in upserts:
            self.model[rid] = (tag, row)
        for rid in deletes:
            self.model.pop(rid, None)

    @rule(vector=small, k=st.integers(1, 13), tags=st.none() | st.frozensets(st.integers(0, 4)))
    def search(self, vector: list[float], k: int, tags: frozenset[int] | None) -> None:
        query = np.array(vector, np.float32)
        expected = {
            rid: float(np.dot(row, vector))
            for rid, (tag, row) in self.model.items()
            if tags is None or tag in tags
        }
        hits = self.index.search(query, k, tags)
        assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)[:k]
        assert len({hit.rid for hit in hits}) == len(hits)
        assert all(expected[hit.rid] == hit.score for hit in hits)
        scores = self.index.scores(query, [f"r{n}" for n in range(12)])
        for n, score in enumerate(scores):
            entry = self.model.get(f"r{n}")
            assert score == (None if entry is None else float(np.dot(entry[1], vector)))

    @invariant()
    def counts(self) -> None:
        figures = self.index.statistics()
        assert (figures.entries, figures.position) == (len(self.model), self.seq)


class DiskVectorMachine(VectorMachine):
    """The same with a log, opened again from time to time."""

    open: Callable[[], VectorIndex]

    def __init__(self) -> None:
        super().__init__()
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        self.open = lambda: DiskIndexes(Path(self.folder.name)).vectors(1, 3, "f")
        self.index = self.open()

    @rule(close=st.booleans())
    def reopen(self, close: bool) -> None:
        if close:
            self.index.close()
        again = self.open()
        self.index.close()
        self.index = again

    def teardown(self) -> None:
        self.index.close()
        self.folder.cleanup()


TestVectorMemory = VectorMachine.TestCase
TestVectorDisk = DiskVectorMachine.TestCase
TestVectorMemory.settings = settings(max_examples=40, stateful_step_count=25)
TestVectorDisk.settings = settings(max_examples=30, stateful_step_count=25)


def test_the_figures_say_what_it_takes(index: VectorIndex) -> None:
    rows = units(1000)
    names: Sequence[tuple[str, int]] = [(f"r{n}", 0) for n in range(1000)]
    index.apply(1, names, rows, [])
    figures = index.statistics()
    assert rows.nbytes < figures.bytes_memory < 20 * rows.nbytes
    assert figures.bytes_disk == 0 or figures.bytes_disk > rows.nbytes
