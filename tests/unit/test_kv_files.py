"""Files of blocks: whole or not there, whatever is done to them and to who writes them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from drivers.kv.chain import Mark, chain
from drivers.kv.files import LOCK, WRITING, Files, block_path
from drivers.kv.image import Corrupt, Plane, decode, encode
from drivers.kv.namespace import Description, namespace
from drivers.kv.weights import KNOWN, digest

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.kv.image import Image

NAME = "ab" * 32
PLANES = {
    "keys": Plane("BF16", (1, 2, 4), memoryview(bytes(range(16)))),
    "values": Plane("F32", (2, 2), memoryview(bytes(range(100, 116)))),
}
LAYOUT = {key: (plane.dtype, plane.shape) for key, plane in PLANES.items()}


def image(name: str = NAME, space: str = "n", seconds: float = 0.25) -> Image:
    return encode(name, space, seconds, PLANES)


def test_a_block_is_a_safetensors_file(tmp_path: Path) -> None:
    files = Files(tmp_path, "n", LAYOUT)
    assert files.write(image())
    with safe_open(files.path(NAME), "pt") as opened:
        assert sorted(opened.keys()) == ["keys", "values"]
        assert opened.get_slice("keys").get_dtype() == "BF16"
        assert opened.get_slice("values").get_shape() == [2, 2]
        assert opened.metadata()["name"] == NAME
    found = files.read(NAME)
    assert found is not None
    assert found == image()
    assert found.planes()["values"].data.tobytes() == PLANES["values"].data.tobytes()
    assert found.seconds == 0.25
    files.close()
    files.close()


def test_a_plane_is_as_long_as_its_shape() -> None:
    for dtype, shape in (("F32", (4,)), ("F16", (2, 2)), ("C128", (1,))):
        with pytest.raises(ValueError, match="bytes"):
            encode(NAME, "n", 0.0, {"k": Plane(dtype, shape, memoryview(bytes(12)))})


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_a_file_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(image().data)
    kind = data.draw(st.sampled_from(("flip", "cut", "grow", "swap", "replace")))
    if kind == "flip":
        changed = bytearray(whole)
        at = data.draw(st.integers(0, len(whole) - 1))
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        changed = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "grow":
        changed = whole + data.draw(st.binary(min_size=1, max_size=40))
    elif kind == "swap":
        changed = bytearray(image(name="cd" * 32).data)
    else:
        changed = bytearray(data.draw(st.binary(max_size=400)))
    try:
        found = decode(changed, NAME, "n")
    except Corrupt:
        return
    # A byte of the spaces that pad the header may become another kind of space.
    assert found.places == image().places
    assert [plane.data.tobytes() for plane in found.planes().values()] == [
        plane.data.tobytes() for plane in image().planes().values()
    ]


@given(
    planes=st.dictionaries(
        st.text("abc.0", min_size=1), st.binary(max_size=64), min_size=1, max_size=5
    ),
    seconds=st.floats(0, 1e6),
)
@settings(max_examples=50, deadline=None)
def test_what_is_encoded_is_decoded(planes: dict[str, bytes], seconds: float) -> None:
    given_ = {key: Plane("U8", (len(value), 1), memoryview(value)) for key, value in planes.items()}
    made = encode(NAME, "n", seconds, given_)
    assert decode(bytearray(made.data), NAME, "n") == made
    assert {key: plane.data.tobytes() for key, plane in made.planes().items()} == planes


def test_bad_files_are_removed_when_they_are_read(tmp_path: Path) -> None:
    files = Files(tmp_path, "n", LAYOUT)
    odd = {"keys": PLANES["keys"]}
    bad = {
        "another block's": image(name="cd" * 32).data,
        "another model's": image(space="m").data,
        "other tensors": encode(NAME, "n", 0.0, odd).data,
        "empty": bytearray(),
        "text": bytearray(b"hello, this is nothing like it"),
        "deep": bytearray(b"\x00\x00\x08\x00\x00\x00\x00\x00" + b'{"a":' + b"[" * 600_000),
        "long header": bytearray((1 << 60).to_bytes(8, "little") + bytes(100)),
    }
    for what, data in bad.items():
        files.write(image())
        files.path(NAME).write_bytes(data)
        with pytest.raises(Corrupt):
            files.read(NAME)
        assert not files.path(NAME).exists(), what
        assert files.read(NAME) is None
    files.close()


def test_what_cannot_be_read_now_is_not_removed(tmp_path: Path) -> None:
    files = Files(tmp_path, "n")
    files.path(NAME).mkdir(parents=True)
    with pytest.raises(Corrupt, match="cannot be read"):
        files.read(NAME)
    assert files.path(NAME).exists()
    files.close()


@pytest.mark.parametrize(
    "name", ["", "ab", "../" * 8 + "etc", "AB" * 32, "ab" * 32 + "/x", "g" * 64]
)
def test_only_hashes_are_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no block"):
        block_path(tmp_path, "n", name)
    with pytest.raises(ValueError, match="namespace"):
        Files(tmp_path, "../n")


def test_a_block_that_is_not_wanted_any_more_gets_no_name(tmp_path: Path) -> None:
    from contextlib import nullcontext

    files = Files(tmp_path, "n")
    assert not files.write(image(), nullcontext(False))
    assert files.scan() == []
    assert list((tmp_path / "n" / WRITING).iterdir()) == []
    files.close()


def test_what_killed_writers_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    Files(tmp_path, "n").close()
    (tmp_path / "n" / WRITING / "dead").write_bytes(b"part")
    with (tmp_path / "n" / WRITING / "alive").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        files = Files(tmp_path, "n")
    assert [path.name for path in (tmp_path / "n" / WRITING).iterdir()] == ["alive"]
    assert files.scan() == []
    files.close()


def test_the_longest_unused_is_found_first(tmp_path: Path) -> None:
    files = Files(tmp_path, "n")
    names = [f"{number:064x}" for number in range(3)]
    for age, name in enumerate(names):
        files.write(image(name))
        os.utime(files.path(name), (1000 - age, 1000 - age))
    (tmp_path / "n" / "00" / "stranger.txt").write_text("not ours")
    assert [found.name for found in files.scan()] == names[::-1]
    files.read(names[2])
    assert [found.name for found in files.scan()] == [names[1], names[0], names[2]]
    assert all(found.bytes == image().size for found in files.scan())
    files.close()


def test_what_no_engine_has_open_can_be_forsaken(tmp_path: Path) -> None:
    old, live, own = (Files(tmp_path, name) for name in ("old", "live", "own"))
    for files in (old, live):
        files.write(image(space=files.namespace))
    old.close()
    os.utime(tmp_path / "old" / LOCK, (1, 1))
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers" / "precious").write_text("not ours")
    assert own.others() == [("old", image(space="old").size)]
    for name in ("old", "live", "strangers"):
        own.forsake(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "own", "strangers"]
    live.close()
    own.close()


WRITER = """
import sys
from pathlib import Path
from drivers.kv.files import Files
from drivers.kv.image import Plane, encode
files = Files(Path(sys.argv[1]), "n")
number = int(sys.argv[2])
while True:
    number += 1
    name = f"{number:064x}"
    data = memoryview(number.to_bytes(8, "little") * 40_000)
    files.write(encode(name, "n", 1.0, {"k": Plane("U8", (len(data),), data)}))
    print(number, flush=True)
"""


def test_writers_killed_at_any_moment_leave_whole_blocks_or_none(tmp_path: Path) -> None:
    written = 0
    for life in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life * 100_000)],
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            time.sleep(0.0007 * life)
            writer.send_signal(signal.SIGKILL)
        files = Files(tmp_path, "n")
        assert list((tmp_path / "n" / WRITING).iterdir()) == []
        for found in files.scan():
            got = files.read(found.name)  # raises Corrupt for a part of one
            assert got is not None
            number = int(found.name, 16)
            assert got.planes()["k"].data.tobytes() == number.to_bytes(8, "little") * 40_000
        written = len(files.scan())
        files.close()
    assert written >= 12


def test_a_name_stands_for_all_that_is_before_it() -> None:
    tokens = list(range(300))
    names = chain(Mark("s"), tokens, 128)
    assert len(names) == len({*names}) == 2
    assert chain(Mark("s"), tokens[:256], 128) == names
    assert chain(Mark("s"), [*tokens[:128], *tokens[129:257]], 128)[0] == names[0]
    for mark, others in (
        (Mark("t"), tokens),
        (Mark("s", "a"), tokens),
        (Mark("", "s"), tokens),
        (Mark("s"), [1, *tokens[1:]]),
    ):
        assert not {*names} & {*chain(mark, others, 128)}


def test_a_namespace_is_another_for_anything_that_matters() -> None:
    first = {
        "model": "m",
        "dtype": "float32",
        "block": 128,
        "engine": "transformers",
        "version": "5",
        "layout": {"k": ("F32", (1, 2))},
        "attention": "sdpa",
    }
    changes = {
        "model": "n",
        "dtype": "float16",
        "block": 16,
        "engine": "vllm",
        "version": "6",
        "layout": {"k": ("F32", (2, 1))},
        "attention": "eager",
    }
    found = {namespace(Description(**first))}  # type: ignore[arg-type]
    found |= {namespace(Description(**first | {key: changes[key]})) for key in changes}  # type: ignore[arg-type]
    assert len(found) == 1 + len(changes)
    assert all(Files.__module__ and name.replace("-", "").isalnum() for name in found)


def test_the_digest_of_a_model_covers_each_weight(tmp_path: Path) -> None:
    folder, place = tmp_path / "model", tmp_path / "kv"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(40 << 20))
    first = digest(folder, place)
    assert digest(folder, place) == first == digest(folder)
    with weights.open("r+b") as file:
        file.seek(12_345_678)
        file.write(b"\1")
    second = digest(folder, place)
    assert second != first
    assert digest(folder) == second
    for broken in (b"", b"{", b"[1]", b'{"a": "b"}'):
        (place / KNOWN).write_bytes(broken)
        assert digest(folder, place) == second
    (folder / "config.json").write_text('{"rope_theta": 1}')
    assert digest(folder, place) != second
    assert sorted(path.name for path in place.iterdir()) == [KNOWN]
