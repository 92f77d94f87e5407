"""What every entity graph must do. kuzu here; ladybug, which cannot share a process with it,
in a process of its own that runs this file again."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import inf
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.contracts import GraphIndex, Mentioned, Tie
from drivers.graph import DiskGraphs, make_graphs
from drivers.graph.memory import MemoryGraph
from syscalls.errors import EINVAL, ENODEV

OTHER = "ladybug"
DISK = os.environ.get("GRAPH_UNDER_TEST", "kuzu")
"""The one library that this process may load."""
KINDS = (DISK,) if DISK == OTHER else ("memory", DISK)

pytestmark = pytest.mark.skipif(find_spec(DISK) is None, reason=f"{DISK} is not installed")

Open = Callable[[], GraphIndex]


@pytest.fixture(params=KINDS)
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GraphIndex]:
    index = make_graphs(request.param, tmp_path).graph(1)
    yield index
    index.close()


def note(rid: str, *ties: tuple[str, str, str], names: str = "", **times: float) -> Mentioned:
    """A record with ties; ``names`` are what it mentions besides."""
    keys = [*names.split(), *(key for tie in ties for key in (tie[0], tie[2]))]
    return Mentioned(
        rid, {key: key.title() for key in keys}, [_tie(rid, tie, times) for tie in ties]
    )


def _tie(rid: str, tie: tuple[str, str, str], times: dict[str, float]) -> Tie:
    return msgspec.structs.replace(Tie(rid, *tie), **times)


def said(ties: list[Tie]) -> list[tuple[str, str, str, str]]:
    return [(tie.rid, tie.subject, tie.relation, tie.object) for tie in ties]


def test_ties_in_either_direction_newest_first(graph: GraphIndex) -> None:
    graph.apply(
        7,
        [
            note("r1", ("ann", "knows", "bob")),
            note("r2", ("bob", "works_at", "acme"), ("ann", "likes", "tea"), names="rome"),
            note("r3", ("cid", "knows", "ann")),
        ],
        [],
    )
    assert graph.position == 7
    assert said(graph.ties(["ann"], 0.0, 0.0, 9)) == [
        ("r3", "cid", "knows", "ann"),
        ("r2", "ann", "likes", "tea"),
        ("r1", "ann", "knows", "bob"),
    ]
    assert said(graph.ties(["ann"], 0.0, 0.0, 2))[-1][0] == "r2"
    assert len(graph.ties(["ann", "bob", "nobody"], 0.0, 0.0, 9)) == 4
    assert graph.ties([], 0.0, 0.0, 9) == []
    assert graph.mentions(["rome", "ann"], 9) == [
        ("r3", "ann"),
        ("r2", "ann"),
        ("r2", "rome"),
        ("r1", "ann"),
    ]
    assert graph.mentions(["ann"], 1) == [("r3", "ann")]
    assert graph.named(["r2", "nothing"]) == {"r2": ["acme", "ann", "bob", "rome", "tea"]}
    assert graph.names(["ann", "nobody"]) == {"ann": "Ann"}


def test_both_times(graph: GraphIndex) -> None:
    ties = [
        Tie("r1", "ann", "in", "rome", -5e9, 100.0, 10.0, inf),
        Tie("r1", "ann", "in", "oslo", 100.0, inf, 10.0, 20.0),
        Tie("r1", "ann", "in", "bern", -inf, inf, 20.0, inf),
    ]
    graph.apply(1, [Mentioned("r1", dict.fromkeys(("ann", "rome", "oslo", "bern"), "x"), ties)], [])

    def where(as_of: float, known: float) -> set[str]:
        return {tie.object for tie in graph.ties(["ann"], as_of, known, 9)}

    assert where(0.0, 15.0) == {"rome"}
    assert where(100.0, 15.0) == {"oslo"}
    assert where(100.0, 20.0) == {"bern"}
    assert where(-4e9, 15.0) == {"rome"}
    assert where(-6e9, 15.0) == set()
    assert where(-6e9, 25.0) == {"bern"}
    assert where(0.0, 5.0) == set()
    assert where(0.0, inf) == {"rome", "bern"}
    assert sorted(graph.ties(["ann"], 0.0, 25.0, 9)) == [ties[2], ties[0]]


def test_replacing_and_deleting_leaves_nothing(graph: GraphIndex) -> None:
    graph.apply(1, [note("r1", ("ann", "in", "rome")), note("r2", names="ann")], [])
    graph.apply(2, [note("r1", ("ann", "in", "oslo"))], [])
    assert said(graph.ties(["ann"], 0, 0, 9)) == [("r1", "ann", "in", "oslo")]
    assert graph.names(["rome", "oslo"]) == {"oslo": "Oslo"}
    graph.apply(3, [], ["r1", "unknown"])
    assert graph.ties(["ann", "oslo"], 0, 0, 9) == []
    assert graph.mentions(["ann", "oslo"], 9) == [("r2", "ann")]
    graph.apply(4, [note("r2")], [])  # it mentions nobody now
    assert graph.names(["ann"]) == {}
    graph.apply(5, [note("r3", names="a"), note("r3", names="b")], [])  # the later one counts
    assert graph.names(["a", "b"]) == {"b": "B"}
    assert graph.position == 5
    assert graph.statistics().entries == 1


def test_any_text_is_a_name(graph: GraphIndex) -> None:
    names = ["王小明", 'o\'brien "x"', "a\nb\t{$}", "ｆ", "🙂", "x" * 400, "\\", "null"]
    graph.apply(1, [Mentioned("r1", {name: name for name in names})], [])
    assert graph.names(names) == {name: name for name in names}


def test_one_tie_to_oneself_and_two_of_one_pair(graph: GraphIndex) -> None:
    graph.apply(1, [note("r1", ("a", "likes", "a"), ("a", "in", "b"), ("b", "in", "a"))], [])
    assert len(graph.ties(["a"], 0, 0, 9)) == 3
    assert len(graph.ties(["b", "a"], 0, 0, 9)) == 3


KEYS = st.sampled_from(["a", "b", "c", "d"])
RIDS = st.sampled_from(["r1", "r2", "r3", "r4"])
TIMES = st.sampled_from([-inf, -3e9, 0.0, 5.0, inf])


@st.composite
def notes(draw: st.DrawFn) -> Mentioned:
    rid = draw(RIDS)
    ties = [
        Tie(
            rid,
            draw(KEYS),
            draw(st.sampled_from("xy")),
            draw(KEYS),
            *(draw(TIMES) for _ in range(4)),
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    keys = [*draw(st.lists(KEYS, max_size=2)), *(k for t in ties for k in (t.subject, t.object))]
    return Mentioned(rid, dict.fromkeys(keys, "n"), list(dict.fromkeys(ties)))


@given(st.lists(st.tuples(st.lists(notes(), max_size=3), st.lists(RIDS, max_size=2)), max_size=5))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_it_agrees_with_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[list[Mentioned], list[str]]]
) -> None:
    disk = DiskGraphs(DISK, tmp_path_factory.mktemp("graph")).graph(1)
    plain = MemoryGraph()
    try:
        for seq, (upserts, deletes) in enumerate(changes, 1):
            gone = [rid for rid in deletes if rid not in {one.rid for one in upserts}]
            for index in (disk, plain):
                index.apply(seq, upserts, gone)
        for keys in (["a"], ["b", "c"], ["a", "b", "c", "d"]):
            assert disk.mentions(keys, 99) == plain.mentions(keys, 99)
            for at in (-4e9, 0.0, 4.0, 1e9):
                found = disk.ties(keys, at, at, 99)
                assert set(found) == set(plain.ties(keys, at, at, 99))
                assert [tie.rid for tie in found] == sorted((t.rid for t in found), reverse=True)
    finally:
        disk.close()


# --- on disk


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    return lambda: DiskGraphs(DISK, tmp_path).graph(1)


def file_of(tmp_path: Path) -> Path:
    return tmp_path / "1" / f"graph.{DISK}"


def test_it_is_there_again(reopen: Open) -> None:
    index = reopen()
    index.apply(3, [note("r1", ("ann", "in", "rome"), since=-1e10)], [])
    index.flush()
    index.close()
    index = reopen()
    assert index.position == 3
    assert index.ties(["rome"], 0, 0, 9)[0].since == -1e10
    assert index.statistics().rebuilt == ""
    index.close()


def test_another_version_is_made_anew(reopen: Open, tmp_path: Path) -> None:
    index = reopen()
    index.apply(3, [note("r1", ("ann", "in", "rome"))], [])
    index.close()
    with file_of(tmp_path).open("r+b") as file:
        file.seek(4)
        file.write((38).to_bytes(8, "little"))
    index = reopen()
    assert index.position == 0
    assert "version" in index.statistics().rebuilt
    index.apply(4, [note("r1", ("ann", "in", "rome"))], [])
    index.close()
    index = reopen()
    assert index.position == 4
    index.close()


@pytest.mark.parametrize("text", [b"", b"KUZ", b"not a graph at all" * 99])
def test_a_foreign_file_is_made_anew(reopen: Open, tmp_path: Path, text: bytes) -> None:
    file_of(tmp_path).parent.mkdir()
    file_of(tmp_path).write_bytes(text)
    index = reopen()
    assert index.position == 0
    assert index.statistics().rebuilt
    index.close()


def test_an_opening_that_never_ended_is_not_tried_again(reopen: Open, tmp_path: Path) -> None:
    index = reopen()
    index.apply(3, [note("r1", names="a")], [])
    index.close()
    file_of(tmp_path).with_suffix(".opening").touch()
    index = reopen()
    assert index.position == 0
    index.close()


def test_a_failed_change_is_no_change(reopen: Open) -> None:
    index = reopen()
    index.apply(3, [note("r1", ("ann", "in", "rome"))], [])
    never = Tie("r2", "x", "in", "x", "never")  # type: ignore[arg-type]
    broken = Mentioned("r2", {"x": "X"}, [never])
    with pytest.raises(TypeError):
        index.apply(4, [broken], ["r1"])
    assert index.position == 3
    assert len(index.ties(["ann"], 0, 0, 9)) == 1
    index.apply(4, [], ["r1"])
    assert index.ties(["ann"], 0, 0, 9) == []
    index.close()


KILLED = """
import os, sys
from pathlib import Path
from drivers.contracts import Mentioned, Tie
from drivers.graph import DiskGraphs
index = DiskGraphs(sys.argv[1], Path(sys.argv[2])).graph(1)
for seq in range(1, 1000):
    rid = f"r{seq}"
    index.apply(seq, [Mentioned(rid, {"a": "A", "b": "B"}, [Tie(rid, "a", "x", "b")])], [])
    print(seq, flush=True)
"""


def test_killed_in_the_middle_it_has_whole_changes(reopen: Open, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, DISK, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert process.stdout is not None
    said_last = 0
    for line in process.stdout:
        said_last = int(line)
        if said_last == 25:
            process.kill()
    process.wait(60)
    process.stdout.close()
    index = reopen()
    # Either the log was replayed, or it was made anew: never half a change.
    assert index.position == 0 or index.position >= said_last - 1
    assert len(index.mentions(["a"], 9999)) == index.position
    index.close()


# --- kinds


def test_kinds(tmp_path: Path) -> None:
    with pytest.raises(EINVAL):
        make_graphs("neo", tmp_path)
    with pytest.raises(ENODEV):
        make_graphs("none", tmp_path).graph(1)
    factory = make_graphs(DISK, tmp_path)
    factory.graph(4).close()
    factory.remove(4)
    factory.remove(4)
    assert not (tmp_path / "4").exists()


@pytest.mark.skipif(DISK == OTHER, reason="this is it")
@pytest.mark.skipif(find_spec(OTHER) is None, reason="ladybug is not installed")
def test_ladybug_conforms() -> None:
    """The same suite for the other library."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "GRAPH_UNDER_TEST": OTHER},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
