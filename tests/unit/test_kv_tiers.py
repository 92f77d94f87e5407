"""Memory over disk: what comes back is right, what is erased stays erased, limits hold."""

from __future__ import annotations

import shutil
import tempfile
import threading
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.kv.files import Files
from drivers.kv.image import Plane, encode
from drivers.kv.shelf import Shelf
from drivers.kv.tiers import Tiers

NAMES = [f"{number:02x}" * 32 for number in range(8)]


def planes(name: str, bytes_: int = 64) -> dict[str, Plane]:
    """What the block of that name has to hold."""
    data = (name.encode() * (bytes_ // 64 + 1))[:bytes_]
    return {"k": Plane("U8", (bytes_,), memoryview(data))}


SIZE = encode(NAMES[0], "n", 1.0, planes(NAMES[0])).size


def is_right(name: str, image: Any) -> bool:
    found = {key: plane.data.tobytes() for key, plane in image.planes().items()}
    return found == {key: plane.data.tobytes() for key, plane in planes(name).items()}


def open_tiers(folder: Path, ram: int = 100, disk: int = 100, name: str = "n") -> Tiers:
    """Limits in blocks."""
    return Tiers(Files(folder, name, {"k": ("U8", (64,))}), ram * SIZE, disk * SIZE)


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(("ram", "disk"), [(100, 100), (0, 100), (100, 0)])
def test_what_was_put_is_there(tmp_path: Path, ram: int, disk: int) -> None:
    tiers = open_tiers(tmp_path, ram, disk)
    for depth, name in enumerate(NAMES):
        tiers.put(name, planes(name), 1.0, depth)
    assert tiers.settled(NAMES, 30)
    assert tiers.backlog == 0
    assert [image.name for image in tiers.take(NAMES)] == NAMES
    assert all(is_right(image.name, image) for image in tiers.take(NAMES))
    assert files(tmp_path) == (set(NAMES) if disk else set())
    figures = tiers.statistics(3)
    assert figures.pins == 3
    assert figures.ram_bytes == (8 * SIZE if ram else 0)
    assert figures.disk_bytes == (8 * SIZE if disk else 0)
    assert (figures.saved, figures.missed, figures.evicted) == (8 if disk else 0, 0, 0)
    assert tiers.where(NAMES) == ("ram" if ram else "disk")
    assert tiers.where(["ff" * 32]) == "none"
    tiers.close()
    again = open_tiers(tmp_path, ram, disk)
    assert len(again.take(NAMES)) == (8 if disk else 0)
    again.close()


def test_taking_stops_at_the_first_that_is_not_good(tmp_path: Path) -> None:
    tiers = open_tiers(tmp_path, ram=0)
    for name in NAMES:
        tiers.put(name, planes(name), 1.0)
    assert tiers.settled(NAMES, 30)
    (tmp_path / "n" / NAMES[6][:2] / f"{NAMES[6]}.safetensors").unlink()
    (tmp_path / "n" / NAMES[3][:2] / f"{NAMES[3]}.safetensors").write_bytes(b"bad")
    assert [image.name for image in tiers.take(NAMES)] == NAMES[:3]
    assert tiers.statistics().corrupt == 1
    assert tiers.statistics().missed == 2, "one is gone, one is bad"
    assert not tiers.seems(NAMES[3])
    assert tiers.take([]) == []
    tiers.close()


def test_a_file_that_has_gone_is_written_again_from_memory(tmp_path: Path) -> None:
    tiers = open_tiers(tmp_path)
    for name in NAMES[:2]:
        tiers.put(name, planes(name), 1.0)
    assert tiers.settled(NAMES, 30)
    (tmp_path / "n" / NAMES[0][:2] / f"{NAMES[0]}.safetensors").unlink()
    assert [tiers.has(name) for name in NAMES[:3]] == [True, True, False]
    assert tiers.settled(NAMES, 30)
    assert files(tmp_path) == set(NAMES[:2])
    assert tiers.statistics().saved == 3
    tiers.close()


def test_a_full_disk_is_counted_and_nothing_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiers = open_tiers(tmp_path)
    shutil.rmtree(tmp_path / "n")
    (tmp_path / "n").write_text("in the way")
    tiers.put(NAMES[0], planes(NAMES[0]), 1.0)
    assert tiers.settled(NAMES, 30)
    assert tiers.statistics().failed == 1
    assert "cannot be written" in caplog.text
    assert tiers.has(NAMES[0]), "memory has it"
    tiers.close()


def test_what_is_erased_while_it_is_written_never_appears(tmp_path: Path) -> None:
    tiers = open_tiers(tmp_path, ram=0)
    for _ in range(30):
        for name in NAMES:
            tiers.put(name, planes(name), 1.0)
        tiers.remove(NAMES[::2])
        assert not files(tmp_path) & set(NAMES[::2])
    assert tiers.settled(NAMES, 30)
    assert files(tmp_path) == set(NAMES[1::2])
    with pytest.raises(ValueError, match="no block"):
        tiers.remove(["../../etc/passwd"])
    tiers.close()


def test_two_engines_share_a_folder_while_a_third_erases(tmp_path: Path) -> None:
    """None is ever given a wrong block, and none fails."""
    wrong: list[str] = []
    done = threading.Event()

    def use(name: str) -> None:
        tiers = open_tiers(tmp_path, ram=2, name=name)
        for _ in range(60):
            for block in NAMES:
                tiers.put(block, planes(block), 1.0)
            wrong.extend(each.name for each in tiers.take(NAMES) if not is_right(each.name, each))
        tiers.settled(NAMES, 30)
        if tiers.statistics().corrupt:
            wrong.append("corrupt")
        tiers.close()

    def erase() -> None:
        while not done.is_set():
            for path in tmp_path.rglob("*.safetensors"):
                path.unlink(missing_ok=True)

    eraser = threading.Thread(target=erase)
    users = [threading.Thread(target=use, args=(name,)) for name in ("n", "n", "m")]
    for thread in (eraser, *users):
        thread.start()
    for user in users:
        user.join(60)
    done.set()
    eraser.join(60)
    assert not wrong


def test_what_former_models_left_goes_first(tmp_path: Path) -> None:
    for former in ("old", "older"):
        tiers = open_tiers(tmp_path, name=former)
        for name in NAMES[:2]:
            tiers.put(name, planes(name), 1.0)
        tiers.close()
    live = open_tiers(tmp_path, disk=7, name="n")
    for name in NAMES[:3]:
        live.put(name, planes(name), 1.0)
    assert live.settled(NAMES, 30)
    live.put(NAMES[3], planes(NAMES[3]), 1.0)
    live.close()
    assert len(list((tmp_path / "n").rglob("*.safetensors"))) == 4
    left = [name for name in ("old", "older") if (tmp_path / name).exists()]
    assert len(left) == 1, "one had to go, not two"


def test_pinned_blocks_leave_last_and_deeper_ones_before(tmp_path: Path) -> None:
    tiers = open_tiers(tmp_path, ram=4, disk=4)
    tiers.pin(NAMES[:2])
    for depth, name in enumerate(NAMES[:4]):
        tiers.put(name, planes(name), 1.0, depth)
    tiers.put(NAMES[4], planes(NAMES[4]), 1.0, 0)
    assert tiers.settled(NAMES, 30)
    tiers.close()
    assert files(tmp_path) == {*NAMES[:3], NAMES[4]}


class Machine(RuleBasedStateMachine):
    """Anything may happen to the files; a block is either right or not there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.ram, self.disk = 3, 5
        self.tiers = open_tiers(self.folder, self.ram, self.disk)
        self.put_ = set[str]()
        self.pins: list[list[str]] = []

    names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)

    @rule(names=names, seconds=st.floats(0, 10))
    def put(self, names: list[str], seconds: float) -> None:
        for depth, name in enumerate(names):
            self.tiers.put(name, planes(name), seconds, depth)
        self.put_.update(names)

    @rule(names=names)
    def take(self, names: list[str]) -> None:
        images = self.tiers.take(names)
        assert [image.name for image in images] == names[: len(images)]
        for image in images:
            assert image.name in self.put_, "it was erased, or never there"
            assert is_right(image.name, image)

    @rule(name=st.sampled_from(NAMES))
    def has(self, name: str) -> None:
        assert not self.tiers.has(name) or name in self.put_

    @rule(names=names)
    def remove(self, names: list[str]) -> None:
        self.tiers.remove(names)
        self.put_.difference_update(names)
        assert not files(self.folder) & set(names)

    @rule(names=names)
    def pin(self, names: list[str]) -> None:
        self.tiers.pin(names)
        self.pins.append(names)

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        self.tiers.unpin(self.pins.pop())

    @rule()
    def settle(self) -> None:
        assert self.tiers.settled(NAMES, 30)

    @rule(at=st.integers(0, SIZE - 1), name=st.sampled_from(NAMES))
    def damage(self, at: int, name: str) -> None:
        path = self.folder / "n" / name[:2] / f"{name}.safetensors"
        if path.exists():
            data = bytearray(path.read_bytes())
            data[at % len(data)] ^= 0x40
            path.write_bytes(data)

    @rule(name=st.sampled_from(NAMES))
    def vanish(self, name: str) -> None:
        (self.folder / "n" / name[:2] / f"{name}.safetensors").unlink(missing_ok=True)

    @rule()
    def restart(self) -> None:
        self.tiers.close()
        self.pins = []
        self.tiers = open_tiers(self.folder, self.ram, self.disk)

    @invariant()
    def limits_hold(self) -> None:
        figures = self.tiers.statistics()
        assert figures.ram_bytes <= self.ram * SIZE
        assert figures.disk_bytes <= (self.disk + 1) * SIZE, "one more while room is made"
        if self.tiers.settled(NAMES):
            assert len(files(self.folder)) <= self.disk + 1

    def teardown(self) -> None:
        self.tiers.close()
        assert len(files(self.folder)) <= self.disk
        shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.integers(1, 40),
            st.floats(0, 5),
            st.integers(0, 3),
            st.sampled_from(("add", "use", "remove", "pin", "unpin")),
        ),
        max_size=60,
    )
)
@settings(max_examples=100, deadline=None)
def test_a_shelf_holds_no_more_than_it_may(steps: list[tuple[str, int, float, int, str]]) -> None:
    shelf, inside = Shelf(), dict[str, int]()
    pins = dict.fromkeys("abcdef", 0)
    for name, size, seconds, depth, what in steps:
        if what == "add":
            shelf.add(name, size, seconds, depth)
            inside[name] = size
            gone = shelf.shrink(100)
            free = [each for each in inside if not pins[each]]
            taken = list(takewhile(lambda each: not pins[each], gone))
            assert set(gone) == set(taken) or set(free) <= set(gone), "a pinned one left before"
            for each in gone:
                del inside[each]
        elif what == "use":
            shelf.use(name)
        elif what == "remove":
            assert shelf.remove(name) == (inside.pop(name, None) is not None)
        elif what == "pin":
            shelf.pin(name)
            pins[name] += 1
        elif pins[name]:
            shelf.unpin(name)
            pins[name] -= 1
        assert shelf.bytes == sum(inside.values()) <= 100 or what != "add"
        assert {*shelf} == {*inside}
        assert len(shelf) == len(inside)


def test_what_costs_more_a_byte_stays_and_age_wears_it_off() -> None:
    shelf = Shelf()
    shelf.add("dear", 10, 10.0)
    shelf.add("cheap", 10, 1.0)
    shelf.add("large", 40, 10.0)
    assert shelf.shrink(50) == ["cheap"]
    assert shelf.shrink(49) == ["large"]
    for number in range(40):  # each leaves a higher age behind
        shelf.add(f"new {number}", 10, 1.0)
        shelf.add(f"newer {number}", 10, 1.0)
        shelf.shrink(20)
    assert "dear" not in shelf, "nothing stays for what it was worth long ago"
    shelf.add("used", 10, 1.0)
    for _ in range(5):
        shelf.use("used")
    shelf.add("unused", 10, 1.0)
    assert "used" not in shelf.shrink(10)
