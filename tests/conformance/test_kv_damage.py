"""Whatever happens to the files of activation memory: never a wrong word, and honest figures."""

from __future__ import annotations

import os
import random
import shutil
import signal
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from drivers.kv.files import WRITING
from syscalls.errors import EIO
from tests.activation import BLOCK, CONTEXT, ENGINES, Bench, prompt_of
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from drivers.kv.contract import Pinned
    from tests.activation import Life

QUESTION = "what did the user say"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("kv") / "model", context=CONTEXT)


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Bench:
    return Bench(request.param, model, tmp_path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def prolonged(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 0x10
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(b"this is no block of anybody")


DAMAGES = [truncated, emptied, prolonged, flipped, foreign]


class Lost(NamedTuple):
    """A prompt whose four blocks are on disk and nowhere else."""

    text: str
    pinned: Pinned
    right: str
    """What is to be said to it."""


async def test_bad_files_are_misses_counted_and_removed(bench: Bench, tmp_path: Path) -> None:
    async with bench.life(blocks=24, kv_ram=0) as life:
        lost = [await kept(life, 100 + number) for number in range(len(DAMAGES) + 3)]
        await life.flood(48)
        for damage in DAMAGES:
            await a_damaged_block_is_computed_again(life, damage, lost.pop())
        await anothers_block_is_not_taken(life, lost.pop(), lost.pop())
        stranger = await what_vanishes_is_missed(life, lost.pop())
    other = Bench(bench.engine, tiny_llm(tmp_path / "other", context=CONTEXT, seed=8), tmp_path)
    await another_models_files_are_not_taken(other, stranger)


async def kept(life: Life, seed: int) -> Lost:
    text = prompt_of(4 * BLOCK, seed) + QUESTION
    pinned = await life.pin("h", text)
    right = await life.uncached(text)
    await life.llm.unpin("h")
    return Lost(text, pinned, right)


async def a_damaged_block_is_computed_again(
    life: Life, damage: Callable[[Path], None], lost: Lost
) -> None:
    path = life.bench.file(lost.pinned, 2)
    damage(path)
    before = (await life.llm.held())[1]
    got, usage = await life.say(lost.text, "ana")
    assert (got, usage.cached) == (lost.right, 2 * BLOCK), damage.__name__
    after = (await life.llm.held())[1]
    assert after.corrupt - before.corrupt == 1, damage.__name__
    assert after.missed - before.missed >= 1
    assert after.restored - before.restored == 2
    assert not path.exists()
    again = await life.pin("h", lost.text)
    assert again.blocks == lost.pinned.blocks
    assert path.is_file(), "it is saved anew"
    await life.llm.unpin("h")


async def anothers_block_is_not_taken(life: Life, one: Lost, two: Lost) -> None:
    """Whole files, in order but for their names: of the same prompt, and of another."""
    shutil.copy(life.bench.file(two.pinned, 0), life.bench.file(one.pinned, 0))
    shutil.copy(life.bench.file(two.pinned, 2), life.bench.file(two.pinned, 1))
    before = (await life.llm.held())[1]
    got, usage = await life.say(one.text, "ana")
    assert (got, usage.cached) == (one.right, 0)
    got, usage = await life.say(two.text, "ana")
    assert (got, usage.cached) == (two.right, BLOCK)
    assert (await life.llm.held())[1].corrupt - before.corrupt == 2


async def what_vanishes_is_missed(life: Life, lost: Lost) -> Path:
    """Another process erases files whenever it likes. The file of a block made after that."""
    life.bench.file(lost.pinned, 1).unlink()
    got, usage = await life.say(lost.text, "ana")
    assert (got, usage.cached) == (lost.right, BLOCK)
    shutil.rmtree(life.bench.kv_dir)
    made = await kept(life, 99)
    assert life.bench.file(made.pinned, 3).is_file(), "the folder is made anew"
    return life.bench.file(made.pinned, 0)


async def another_models_files_are_not_taken(other: Bench, stranger: Path) -> None:
    """Two models have one folder; here a file of one is in the place of the other's."""
    async with other.life(blocks=24, kv_ram=0) as life:
        text, pinned, right = await kept(life, 99)
        assert not other.file(pinned, 0).samefile(stranger)
        await life.flood(48)
        shutil.copy(stranger, other.file(pinned, 0))
        got, usage = await life.say(text, "ana")
        assert (got, usage.cached) == (right, 0)
        assert (await life.llm.held())[1].corrupt == 1


async def test_killed_in_the_middle_of_a_save(bench: Bench) -> None:
    source = random.Random(bench.engine)
    rounds = 3 if bench.engine == "transformers" else 2
    texts = [prompt_of(6 * BLOCK, 130 + number) + QUESTION for number in range(rounds)]
    right = {}
    for round_, text in enumerate(texts):
        async with bench.life(kv_ram=0) as life:
            await life.pin("probe", prompt_of(BLOCK, 129))
            right[text] = await life.uncached(text)
            for earlier in texts[:round_]:
                got, usage = await life.say(earlier, "ana")
                assert got == right[earlier]
                assert usage.cached % BLOCK == 0 or usage.cached == usage.prompt - 1
                assert usage.cached < usage.prompt
            assert (await life.llm.held())[1].corrupt == 0, "a part of a block has got its name"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(killed_while_pinning, life, text)
                await killed_after(life, source.randrange(7))
        leftovers = list((bench.kv_dir).glob(f"*/{WRITING}/*"))
        assert len(leftovers) <= 1
    async with bench.life(kv_ram=0) as life:
        for text in texts:
            assert (await life.say(text, "ana"))[0] == right[text]
        assert not list((bench.kv_dir).glob(f"*/{WRITING}/*"))
        assert (await life.llm.held())[1].corrupt == 0


async def killed_while_pinning(life: Life, text: str) -> None:
    with pytest.raises(EIO):
        await life.pin("h", text)
        raise EIO("it was saved before it was killed")


async def killed_after(life: Life, blocks: int) -> None:
    """Kill the host once it has written so many blocks, wherever it is with the next."""
    before = saved(life)
    pid = life.pid
    while saved(life) < before + blocks:  # noqa: ASYNC110 - another process writes them
        await trio.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)


def saved(life: Life) -> int:
    return len(list(life.bench.kv_dir.rglob("*.safetensors")))
