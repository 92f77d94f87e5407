"""What every vector index promises (``drivers.contracts.VectorIndex``), on each there is."""

from __future__ import annotations

import contextlib
import resource
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.indexes import DiskIndexes, MemoryIndexes
from drivers.vectors.build import Cancelled
from drivers.vectors.part import Corrupt, Part, encode
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from drivers.contracts import IndexFactory, Rebuild, VectorIndex, Vectors

DIMENSION = 8
Entry = tuple[str, int, list[float]]


def units(count: int, seed: int = 1) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


NO_ROWS = np.empty((0, DIMENSION), np.float32)


def log_of(folder: Path, fingerprint: str = "f") -> Path:
    """The vector log of space 1."""
    return folder / "1" / f"vectors-{blake2b(fingerprint.encode(), digest_size=8).hexdigest()}.log"


def rebuilt(index: VectorIndex) -> int:
    """Do what the index wants done; how often it did."""
    times = 0
    while index.wants_rebuild:
        work = index.rebuild()
        assert work is not None
        work.run()
        index.adopt(work)
        times += 1
    return times


class Rebuilding:
    """An index that is rebuilt after each change."""

    def __init__(self, inner: VectorIndex) -> None:
        self.inner = inner
        rebuilt(inner)

    def apply(self, *change: Any) -> None:
        self.inner.apply(*change)
        rebuilt(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class LargeIndexes(DiskIndexes):
    """Every few vectors are many: nearly all are in parts."""

    def __init__(self, root: Path, large: int = 4) -> None:
        super().__init__(root, large=large)

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        return cast("VectorIndex", Rebuilding(super().vectors(space, dimension, fingerprint)))


@pytest.fixture(params=["disk", "memory", "large"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> IndexFactory:
    if request.param == "memory":
        return MemoryIndexes()
    return DiskIndexes(tmp_path) if request.param == "disk" else LargeIndexes(tmp_path)


@pytest.fixture(params=["disk", "large"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> DiskIndexes:
    return DiskIndexes(tmp_path) if request.param == "disk" else LargeIndexes(tmp_path)


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


def test_a_record_may_have_several_vectors(index: VectorIndex) -> None:
    rows = units(40)
    index.apply(1, [("long", 1)] * 30 + [(f"r{n}", 1) for n in range(10)], rows, [])
    assert index.statistics().entries == 11
    for n in range(30):
        hit = index.search(rows[n], 1, None)[0]
        assert hit.rid == "long"
        assert hit.score == pytest.approx(1)
        assert index.scores(rows[n], ["long"])[0] == pytest.approx(1)
    best = float((rows[:30] @ rows[35]).max())
    found = {hit.rid: hit.score for hit in index.search(rows[35], 11, frozenset({1}))}
    assert set(found) == {"long", *(f"r{n}" for n in range(10))}
    assert found["long"] == pytest.approx(best, abs=1e-5)
    index.apply(2, [("long", 1), ("long", 1)], rows[:2], [])
    assert index.scores(rows[20], ["long"])[0] == pytest.approx(
        float((rows[:2] @ rows[20]).max()), abs=1e-5
    )
    index.apply(3, [], NO_ROWS, ["long"])
    assert rids(index, rows[0], 99, None).count("long") == 0
    assert index.statistics().entries == 10


def test_the_vectors_of_one_record_have_one_tag(index: VectorIndex) -> None:
    with pytest.raises(ValueError, match="one tag"):
        index.apply(1, [("a", 0), ("a", 1)], units(2), [])
    assert index.position == 0


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


def test_it_is_the_same_after_reopening(disk: DiskIndexes) -> None:
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    index.close()
    index.close()
    again = disk.vectors(1, DIMENSION, "f")
    assert (again.position, contents(again), again.statistics().rebuilt) == (120, states[120], "")
    again.close()


def test_what_was_applied_survives_a_killed_process(disk: DiskIndexes) -> None:
    """Nothing is held back in memory: the file is whole after each apply."""
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    other = disk.vectors(1, DIMENSION, "f")
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
    file = log_of(tmp_path)
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


@pytest.mark.parametrize(("dimension", "fingerprint"), [(DIMENSION, "other"), (4, "other")])
def test_each_embedder_has_its_own(disk: DiskIndexes, dimension: int, fingerprint: str) -> None:
    """A change of embedder destroys nothing before the new one's vectors are complete."""
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    index.close()
    other = disk.vectors(1, dimension, fingerprint)
    assert (other.position, other.statistics().entries) == (0, 0)
    other.apply(1, [("a", 0)], np.ones((1, dimension), np.float32), [])
    other.close()
    back = disk.vectors(1, DIMENSION, "f")
    assert (back.position, contents(back)) == (120, states[120])
    back.close()
    assert disk.retire(1, fingerprint)
    assert not disk.retire(1, fingerprint)
    again = disk.vectors(1, DIMENSION, "f")
    assert again.position == 0
    again.close()
    same = disk.vectors(1, dimension, fingerprint)
    assert (same.position, same.statistics().rebuilt) == (1, "")
    same.close()


def test_a_log_of_another_dimension_opens_empty(tmp_path: Path) -> None:
    disk = DiskIndexes(tmp_path)
    index = disk.vectors(1, DIMENSION, "f")
    fill(index)
    index.close()
    other = disk.vectors(1, 4, "f")
    assert (other.position, other.statistics().entries) == (0, 0)
    assert "dimension" in other.statistics().rebuilt
    other.close()


@pytest.mark.parametrize("same", [True, False])
def test_a_log_from_before_each_embedder_had_its_own(tmp_path: Path, same: bool) -> None:
    index = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f" if same else "older")
    states = fill(index)
    index.close()
    log_of(tmp_path, "f" if same else "older").rename(tmp_path / "1" / "vectors.log")
    index = DiskIndexes(tmp_path).vectors(1, DIMENSION, "f")
    assert (index.position, contents(index)) == ((120, states[120]) if same else (0, set()))
    index.close()
    assert DiskIndexes(tmp_path).retire(1, "f") != same
    assert [path.name for path in (tmp_path / "1").iterdir()] == [log_of(tmp_path).name]


def test_what_is_no_log_opens_empty(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for content in (b"x", b"not a log at all" * 100, b"ENGRAMv\0" + b"\xff" * 100):
        log_of(tmp_path).write_bytes(content)
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
    assert not list((tmp_path / "1").glob("*.new"))
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
    file = log_of(tmp_path)
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
    assert log_of(tmp_path).stat().st_size == size
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


# --- parts of large ones


def clustered(count: int, seed: int = 3) -> Vectors:
    """Unit vectors of dimension 32 in groups, as texts on some topics are."""
    centres = np.random.default_rng(5).standard_normal((40, 32))
    random = np.random.default_rng(seed)
    rows = centres[random.integers(0, 40, count)] + random.standard_normal((count, 32)) * 0.9
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def large_rows() -> Vectors:
    return clustered(12_000)


def recall(index: VectorIndex, rows: Vectors, alive: NDArray[np.bool_], queries: Vectors) -> float:
    """The part of the true ten nearest that are found; names are row numbers."""
    found = 0
    for query in queries:
        true = set(np.flatnonzero(alive)[np.argsort(-(rows[alive] @ query))[:10]].tolist())
        found += len(true & {int(hit.rid) for hit in index.search(query, 10, None)})
    return found / (10 * len(queries))


def test_a_large_one_finds_what_exact_search_finds(tmp_path: Path, large_rows: Vectors) -> None:
    """While it is built aside, changes and searches go on; nothing of them is lost."""
    count = len(large_rows)
    disk = DiskIndexes(tmp_path, large=5000)
    index = disk.vectors(1, 32, "f")
    names = [(str(n), n % 2) for n in range(count)]
    index.apply(1, names[: count - 1000], large_rows[: count - 1000], [])
    assert index.statistics().kind == "flat"
    queries = clustered(100, seed=4)
    alive = np.ones(count, np.bool_)
    while index.wants_rebuild:
        work = index.rebuild()
        assert work is not None
        gone = np.flatnonzero(alive)[:300]
        alive[gone] = False
        assert len(index.search(queries[0], 10, None)) == 10
        index.apply(index.position + 1, [], large_rows[:0], [str(n) for n in gone])
        work.run()
        index.adopt(work)
    index.apply(50, names[count - 1000 :], large_rows[count - 1000 :], [])
    figures = index.statistics()
    assert figures.kind == "ivf"
    assert figures.entries == alive.sum()
    assert figures.bytes_memory < 1000 * (4 * 32 + 220) + 12_000 * (32 + 5 + 40) + (1 << 16)
    assert recall(index, large_rows, alive, queries) >= 0.97
    index.close()
    again = disk.vectors(1, 32, "f")
    assert (again.position, again.statistics().entries) == (50, alive.sum())
    assert recall(again, large_rows, alive, queries) >= 0.97
    again.close()


@pytest.mark.parametrize("dimension", [8, 384, 1024])
def test_codes_say_where_a_row_lies(dimension: int) -> None:
    """To half a step in each dimension; in every block that a build encodes."""
    random = np.random.default_rng(dimension)
    scale = np.stack([np.full(dimension, -1), np.linspace(1, 3, dimension)]).astype(np.float32)
    for _ in range(20):
        rows = scale[0] + scale[1] * random.random((300, dimension), np.float32)
        decoded = scale[0] + scale[1] * ((encode(rows, scale) + 0.5) / 255)
        assert np.abs(decoded - rows).max() <= 0.502 * scale[1].max() / 255


def test_fewer_lists_than_all_are_probed(tmp_path: Path, large_rows: Vectors) -> None:
    """Else it would be exact, and slow."""
    index = DiskIndexes(tmp_path, large=5000).vectors(1, 32, "f")
    index.apply(1, [(str(n), 0) for n in range(len(large_rows))], large_rows, [])
    assert rebuilt(index) == 1
    part = Part(next((tmp_path / "1").glob("*.part")))
    assert 1 <= part.header.probe < part.header.lists // 2
    part.close()
    index.close()


def test_a_narrowed_search_of_a_large_one_finds_k(tmp_path: Path, large_rows: Vectors) -> None:
    index = DiskIndexes(tmp_path, large=5000).vectors(1, 32, "f")
    names = [(str(n), 1 if n % 1000 == 0 else 0) for n in range(len(large_rows))]
    index.apply(1, names, large_rows, [])
    rebuilt(index)
    rare = {hit.rid for hit in index.search(large_rows[1], 10, frozenset({1}))}
    assert len(rare) == 10
    assert all(int(rid) % 1000 == 0 for rid in rare)
    near = [hit.rid for hit in index.search(large_rows[1], 4000, frozenset({0}))]
    assert len(near) == 4000
    # All that is near was deleted: it looks further.
    index.apply(2, [], large_rows[:0], near)
    assert len(index.search(large_rows[1], 100, frozenset({0}))) == 100
    index.close()


def test_a_large_one_shrinks_again(tmp_path: Path, large_rows: Vectors) -> None:
    index = DiskIndexes(tmp_path, large=2000).vectors(1, 32, "f")
    index.apply(1, [(str(n), 0) for n in range(6000)], large_rows[:6000], [])
    assert rebuilt(index) == 1
    large = index.statistics()
    index.apply(2, [], large_rows[:0], [str(n) for n in range(5990)])
    assert rebuilt(index) == 1
    figures = index.statistics()
    assert figures.entries == 10
    assert figures.bytes_disk < large.bytes_disk // 20
    index.apply(3, [], large_rows[:0], [str(n) for n in range(5990, 6000)])
    assert index.search(large_rows[0], 5, None) == []
    assert len(list((tmp_path / "1").glob("*.part"))) == 1
    index.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_any_file_is_seen(tmp_path: Path, data: st.DataObject) -> None:
    """Bits turned or bytes cut off, in the log or a part: it is as it was, or empty, or says so."""
    disk = LargeIndexes(tmp_path, large=8)
    disk.remove(1)
    index = disk.vectors(1, DIMENSION, "f")
    states = fill(index)
    index.close()
    files = sorted((tmp_path / "1").iterdir())
    assert len(files) == 6
    file = data.draw(st.sampled_from(files))
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(whole)
    else:
        file.write_bytes(whole[:at])
    damaged = DiskIndexes(tmp_path, large=8).vectors(1, DIMENSION, "f")
    position = damaged.position
    if file.suffix == ".part" and position:
        with pytest.raises(Corrupt, match="row"):
            contents(damaged)  # the owner removes it then
        return
    assert contents(damaged) == states[position]
    assert bool(damaged.statistics().rebuilt) == (position != 120)
    damaged.close()
    again = disk.vectors(1, DIMENSION, "f")
    assert again.position == position
    fill(again)
    assert contents(again) == states[120]
    again.close()


def test_a_part_that_cannot_be_opened_is_not_adopted(tmp_path: Path) -> None:
    index = DiskIndexes(tmp_path, large=20).vectors(1, DIMENSION, "f")
    index.apply(1, [(f"a{n}", 0) for n in range(30)], units(30), [])
    expected = contents(index)
    work = index.rebuild()
    assert work is not None
    work.run()
    file = next((tmp_path / "1").glob("*.part"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(EIO):
        index.adopt(work)
    assert contents(index) == expected
    assert not file.exists()
    assert rebuilt(index) == 1
    assert contents(index) == expected
    index.close()


@pytest.mark.parametrize("moment", ["built", "logged"])
def test_a_crash_between_two_parts_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    disk = DiskIndexes(tmp_path, large=20)
    index = disk.vectors(1, DIMENSION, "f")
    index.apply(1, [(f"a{n}", 0) for n in range(30)], units(30), [])
    rebuilt(index)
    index.apply(2, [(f"b{n}", 0) for n in range(30)], units(30, 2), ["a3"])
    expected = contents(index)
    work = index.rebuild()
    assert work is not None
    work.run()
    if moment == "logged":

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Part, "close", crash)
        with pytest.raises(KeyboardInterrupt):
            index.adopt(work)
        monkeypatch.undo()
    assert len(list((tmp_path / "1").glob("*.part"))) == 2
    again = disk.vectors(1, DIMENSION, "f")
    assert (again.position, contents(again), again.statistics().rebuilt) == (2, expected, "")
    assert len(list((tmp_path / "1").glob("*.part"))) == 1
    again.close()


def test_a_full_disk_stops_a_rebuild_and_changes_nothing(tmp_path: Path) -> None:
    index = DiskIndexes(tmp_path, large=20).vectors(1, DIMENSION, "f")
    index.apply(1, [(f"a{n}", 0) for n in range(300)], units(300), [])
    expected = contents(index)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (5000, 14_000):
        work = index.rebuild()
        assert work is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises(OSError, match="large"):
                work.run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list((tmp_path / "1").glob("*.part"))
    assert contents(index) == expected
    index.apply(2, [("b", 0)], units(1), [])
    assert rebuilt(index) == 1
    assert {rid for rid, _ in contents(index)} == {rid for rid, _ in expected} | {"b"}
    index.close()


# --- against numpy

small = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=3)
names = st.sampled_from([f"r{n}" for n in range(12)])


class VectorMachine(RuleBasedStateMachine):
    """Random histories; whole numbers, so that products are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.index: VectorIndex = MemoryIndexes().vectors(1, 3, "f")
        self.model: dict[str, tuple[int, list[list[float]]]] = {}
        self.seq = 0

    @rule(
        upserts=st.lists(st.tuples(names, st.integers(0, 3), small), max_size=8),
        deletes=st.lists(names, max_size=4),
    )
    def apply(self, upserts: list[Entry], deletes: list[str]) -> None:
        self.seq += 1
        last = {rid: tag for rid, tag, _ in upserts}
        upserts = [(rid, last[rid], row) for rid, _, row in upserts]
        rows = np.array([row for _, _, row in upserts], np.float32).reshape(-1, 3)
        self.index.apply(self.seq, [(rid, tag) for rid, tag, _ in upserts], rows, deletes)
        for rid, tag, _ in upserts:
            self.model[rid] = (tag, [row for other, _, row in upserts if other == rid])
        for rid in deletes:
            self.model.pop(rid, None)

    @rule(vector=small, k=st.integers(1, 13), tags=st.none() | st.frozensets(st.integers(0, 4)))
    def search(self, vector: list[float], k: int, tags: frozenset[int] | None) -> None:
        query = np.array(vector, np.float32)
        expected = {
            rid: max(float(np.dot(row, vector)) for row in rows)
            for rid, (tag, rows) in self.model.items()
            if tags is None or tag in tags
        }
        hits = self.index.search(query, k, tags)
        assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)[:k]
        assert len({hit.rid for hit in hits}) == len(hits)
        assert all(expected[hit.rid] == hit.score for hit in hits)
        scores = self.index.scores(query, [f"r{n}" for n in range(12)])
        for n, score in enumerate(scores):
            entry = self.model.get(f"r{n}")
            expect = None if entry is None else max(float(np.dot(r, vector)) for r in entry[1])
            assert score == expect

    @invariant()
    def counts(self) -> None:
        figures = self.index.statistics()
        assert (figures.entries, figures.position) == (len(self.model), self.seq)


class DiskVectorMachine(VectorMachine):
    """The same with a log, opened again from time to time."""

    open: Callable[[], VectorIndex]
    large = 0

    def __init__(self) -> None:
        super().__init__()
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        disk = DiskIndexes(Path(self.folder.name), large=self.large)
        self.open = lambda: disk.vectors(1, 3, "f")
        self.index = self.open()
        self.work: Rebuild | None = None

    @rule(close=st.booleans())
    def reopen(self, close: bool) -> None:
        if close:
            self.index.close()
        again = self.open()
        self.index.close()
        self.index = again

        self.work = None

    def teardown(self) -> None:
        self.index.close()
        self.folder.cleanup()


class LargeVectorMachine(DiskVectorMachine):
    """With parts, built while changes go on."""

    large = 3

    @precondition(lambda self: self.work is None and self.index.wants_rebuild)
    @rule(ends=st.sampled_from(["well", "well", "well", "discarded", "cancelled"]))
    def begin(self, ends: str) -> None:
        self.work = self.index.rebuild()
        assert self.work is not None
        if ends == "cancelled":
            self.work.cancel()
            with contextlib.suppress(Cancelled):  # too late where there is nothing to train
                self.work.run()
        else:
            self.work.run()
            if ends == "discarded":
                self.work.discard()
        if ends != "well":
            self.work = None

    @precondition(lambda self: self.work is not None)
    @rule()
    def adopt(self) -> None:
        assert self.work is not None
        self.index.adopt(self.work)
        self.work = None


TestVectorMemory = VectorMachine.TestCase
TestVectorDisk = DiskVectorMachine.TestCase
TestVectorLarge = LargeVectorMachine.TestCase
TestVectorMemory.settings = settings(max_examples=40, stateful_step_count=25)
TestVectorDisk.settings = settings(max_examples=30, stateful_step_count=25)
TestVectorLarge.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_figures_say_what_it_takes(index: VectorIndex) -> None:
    rows = units(1000)
    names: Sequence[tuple[str, int]] = [(f"r{n}", 0) for n in range(1000)]
    index.apply(1, names, rows, [])
    figures = index.statistics()
    least = rows.nbytes if figures.kind == "flat" else rows.size
    assert least < figures.bytes_memory < 20 * rows.nbytes
    assert figures.bytes_disk == 0 or figures.bytes_disk > rows.nbytes
