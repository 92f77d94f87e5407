"""What the ``transformers`` engine restores: parts of blocks too, while others take their turns."""

from __future__ import annotations

import random
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from drivers.engine import Job
from drivers.kv.chain import HEX, Mark, chain, length, names, parts
from drivers.kv.contract import Pinned, PinRequest
from drivers.kv.files import Files, block_path
from drivers.llm import restoring
from drivers.llm.contract import GenerateRequest, Piece
from drivers.llm.engine import TransformersEngine
from drivers.llm.prefix import join
from drivers.llm.shapes import DropArguments, HeldAnswer, HeldArguments
from drivers.protocol import Chunk, Done, EngineSpec, Failed, pack
from tests.activation import BLOCK, BLOCK_BYTES, CONTEXT, prompt_of
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from drivers.kv.contract import KVStatistics

T = TypeVar("T")
QUESTION = "what did the user say"
STEPS = 20_000
"""More than any of these takes, each of at most ``restoring.PAUSE`` seconds."""
BOUND = 60.0


class Desk:
    """An engine in this process, a step at a time."""

    def __init__(self, model: Path, kv_dir: Path) -> None:
        options = {
            "prefix_bytes": 64 * BLOCK_BYTES,
            "kv_dir": str(kv_dir),
            "kv_ram": 0,
            "kv_disk": 64 << 20,
            "threads": 1,
        }
        self.engine = TransformersEngine(EngineSpec("llm", "transformers", str(model), options))
        self.engine.load(lambda _: None)
        self.kv_dir = kv_dir
        self._number = 0

    def begin(self, method: str, arguments: msgspec.Struct) -> Asked:
        """A job under way."""
        self._number += 1
        asked = Asked(self._number, method, arguments)
        self.engine.begin(asked.job)
        return asked

    def turn(self, until: Callable[[], bool]) -> None:
        """Step until then."""
        for _ in range(STEPS):
            if until():
                return
            assert self.engine.busy, "nothing moves any more"
            self.engine.step()
        raise AssertionError("it does not come to its end")

    def ask(self, method: str, arguments: msgspec.Struct, type_: Any) -> Any:
        """The answer."""
        asked = self.begin(method, arguments)
        self.turn(lambda: asked.job.finished)
        return asked.answer(type_)

    def say(self, prompt: str, salt: str = "ana") -> tuple[str, int]:
        """Greedy text, and how many tokens were cached."""
        asked = self.begin("generate", request(prompt, salt))
        self.turn(lambda: asked.job.finished)
        return asked.said()

    def uncached(self, prompt: str) -> str:
        """What it says when it has to compute everything."""
        self._number += 1
        text, cached = self.say(prompt, f"oracle {self._number}")
        assert cached == 0
        return text

    def pin(self, handle: str, prompt: str) -> Pinned:
        """Pin a beginning."""
        pinned: Pinned = self.ask("pin", pin_request(handle, prompt), Pinned)
        return pinned

    def drop(self, handle: str, blocks: list[str]) -> None:
        """Erase blocks."""
        self.ask("drop", DropArguments(handle, blocks), None)

    def held(self) -> HeldAnswer:
        """The pins and the figures."""
        answer: HeldAnswer = self.ask("held", HeldArguments(), HeldAnswer)
        return answer

    def figures(self) -> KVStatistics:
        """Of the tiers."""
        return self.held().statistics

    def file(self, pinned: Pinned, place: int) -> Path:
        """Of a block of a pin."""
        return block_path(self.kv_dir, pinned.namespace, pinned.blocks[place])


class Asked:
    """A job, and what it has sent."""

    def __init__(self, number: int, method: str, arguments: msgspec.Struct) -> None:
        self.sent: list[Any] = []
        self.job = Job(number, method, pack(arguments), 1000, self.sent.append)

    @property
    def pieces(self) -> int:
        """Parts of the answer that came."""
        return sum(isinstance(each, Chunk) for each in self.sent)

    def answer(self, type_: Any) -> Any:
        """The last message."""
        last = self.sent[-1]
        assert isinstance(last, Done), last
        return msgspec.msgpack.decode(last.value, type=type_)

    def said(self) -> tuple[str, int]:
        """Text and cached tokens of a generation."""
        raw = [each.value for each in self.sent]
        pieces = [msgspec.msgpack.decode(each, type=Piece) for each in raw]
        usage = pieces[-1].usage
        assert usage is not None
        return "".join(piece.text for piece in pieces), usage.cached


class Gate:
    """Files that are read no faster than a test wants."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def hold(self, what: T) -> T:
        """What was read, later."""
        self.reached.set()
        assert self.open.wait(BOUND), "the engine's steps wait for the disk"
        return what


def request(prompt: str, salt: str = "ana", most: int = 24) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, salt=salt, max_tokens=most, temperature=0.0)


def pin_request(handle: str, prompt: str) -> PinRequest:
    return PinRequest(handle, prompt=prompt, salt="ana")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("kv") / "model", context=CONTEXT)


@pytest.fixture
def life(model: Path, tmp_path: Path) -> Callable[[], Any]:
    @contextmanager
    def born() -> Iterator[Desk]:
        desk = Desk(model, tmp_path / "kv")
        try:
            yield desk
        finally:
            desk.engine.close()

    return born


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, read = Gate(), Files.read
    monkeypatch.setattr(
        Files, "read", lambda self, name, **more: gate.hold(read(self, name, **more))
    )
    yield gate
    gate.open.set()


def test_names_of_parts_say_what_and_how_much_is_in_them() -> None:
    source = random.Random(5)
    tokens = [source.randrange(1 << 20) for _ in range(3 * BLOCK + 40)]
    mark = Mark("salt:ana")
    whole = chain(mark, tokens, BLOCK)
    assert names(mark, tokens[: 3 * BLOCK], BLOCK) == whole
    assert names(mark, tokens[: BLOCK - 1], BLOCK) == [], "a part comes after a block"
    rest = parts(whole[-1], tokens[3 * BLOCK :])
    assert [names(mark, tokens[: 3 * BLOCK + count], BLOCK)[-1] for count in range(1, 41)] == rest
    assert [length(name, BLOCK) for name in [*whole, *rest]] == [BLOCK] * 3 + [*range(1, 41)]
    others = [
        parts(whole[1], tokens[3 * BLOCK :]),
        parts(whole[-1], [1, *tokens[3 * BLOCK + 1 :]]),
        parts(chain(Mark("salt:bob"), tokens, BLOCK)[-1], tokens[3 * BLOCK :]),
    ]
    assert len({*rest, *others[0], *others[1], *others[2]}) == 160, "nothing else has its name"
    assert parts(whole[1], tokens[2 * BLOCK : 3 * BLOCK])[-1][:HEX] == whole[2]


def test_the_longest_part_that_is_good_is_restored(life: Callable[[], Any]) -> None:
    text = prompt_of(3 * BLOCK, 1)
    with life() as desk:
        short = desk.pin("short", text[: 2 * BLOCK + 50])
        long = desk.pin("long", text[: 2 * BLOCK + 90])
        assert long.cached == short.tokens == 2 * BLOCK + 50
        assert short.blocks[:2] == long.blocks[:2]
        assert len(short.blocks) == len(long.blocks) == 3
        right = desk.uncached(text)
    for damage, tokens in (
        (lambda: None, 90),
        (lambda: flip(desk.file(long, 2)), 50),
        (lambda: shutil.copy(desk.file(short, 2), desk.file(long, 2)), 50),
        (lambda: shutil.copy(desk.file(short, 1), desk.file(short, 2)), 0),
    ):
        damage()
        with life() as desk:
            assert desk.say(text) == (right, 2 * BLOCK + tokens)
            figures = desk.figures()
            assert (figures.corrupt, figures.missed >= figures.corrupt) == (tokens != 90, True)
            assert figures.restored == 3 - (tokens == 0)
            assert desk.say(text[: 2 * BLOCK + 20] + QUESTION)[1] >= 2 * BLOCK
    assert not desk.file(short, 2).exists()
    assert not desk.file(long, 2).exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_part_is_dropped_as_a_block_is(life: Callable[[], Any]) -> None:
    text = prompt_of(2 * BLOCK + 60, 2)
    with life() as desk:
        pinned = desk.pin("h", text)
        other = desk.pin("other", text[: 2 * BLOCK] + prompt_of(20, 7))
        assert desk.figures().disk_bytes >= pinned.bytes
        desk.say(text + QUESTION)
        desk.drop("h", pinned.blocks[2:])
        assert not desk.file(pinned, 2).exists()
        assert desk.say(text + QUESTION)[1] == 2 * BLOCK
        desk.drop("", pinned.blocks[2:])  # by names: what was asked before has left
        assert desk.say(text + QUESTION)[1] == 2 * BLOCK
        assert desk.pin("h", text).blocks == pinned.blocks
        desk.drop("", pinned.blocks[2:])
        assert [held.handle for held in desk.held().pins] == ["other"]
        assert desk.say(text[: 2 * BLOCK] + prompt_of(20, 7) + QUESTION)[1] == other.tokens
    with life() as desk:
        assert desk.say(text + QUESTION)[1] == 2 * BLOCK


def test_others_go_on_while_a_beginning_is_read(life: Callable[[], Any], gate: Gate) -> None:
    text = prompt_of(4 * BLOCK + 30, 3)
    with life() as desk:
        gate.open.set()
        pinned = desk.pin("h", text)
        right = desk.uncached(text + QUESTION)
    for method in ("generate", "pin"):
        gate.open.clear()
        gate.reached.clear()
        with life() as desk:
            what = request(text + QUESTION) if method == "generate" else pin_request("h", text)
            slow = desk.begin(method, what)
            other = desk.begin("generate", request("hello", "bob", most=200))
            desk.turn(lambda other=other: other.job.finished)
            assert gate.reached.wait(BOUND), "nothing was read"
            assert other.pieces > 10
            assert slow.sent == []
            gate.open.set()
            desk.turn(lambda slow=slow: slow.job.finished)
            if method == "generate":
                assert slow.said() == (right, pinned.tokens)
            else:
                assert slow.answer(Pinned).cached == pinned.tokens
            assert desk.figures().restored == 5


@pytest.mark.parametrize("place", ["reading", "read"])
def test_what_is_dropped_while_it_is_read_is_not_used(
    life: Callable[[], Any], gate: Gate, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    text = prompt_of(3 * BLOCK + 30, 4)
    gate.open.set()
    with life() as desk:
        pinned = desk.pin("h", text)
        right = desk.uncached(text)
    copied = Gate()
    monkeypatch.setattr(restoring, "join", lambda pieces: copied.hold(join(pieces)))
    with life() as desk:
        held, free = (gate, copied) if place == "reading" else (copied, gate)
        free.open.set()
        held.open.clear()
        held.reached.clear()
        slow = desk.begin("generate", request(text))
        desk.engine.step()
        assert held.reached.wait(BOUND)
        desk.drop("h", pinned.blocks[1:])
        held.open.set()
        desk.turn(lambda: slow.job.finished)
        assert slow.said() == (right, BLOCK)
        assert not any(desk.file(pinned, number).exists() for number in (1, 2, 3))


def test_who_waits_for_the_disk_can_leave_and_waits_no_longer_than_is_said(
    life: Callable[[], Any], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = prompt_of(3 * BLOCK + 30, 5)
    with life() as desk:
        gate.open.set()
        desk.pin("h", text)
        right = desk.uncached(text)
    gate.open.clear()
    gate.reached.clear()
    with life() as desk:
        for what in (request(text), pin_request("h", text)):
            method = "generate" if isinstance(what, GenerateRequest) else "pin"
            left = desk.begin(method, what)
            for _ in range(3):
                desk.engine.step()
            assert gate.reached.wait(BOUND)
            desk.engine.cancel(left.job)
            assert isinstance(left.sent[-1], Failed)
            assert not desk.engine.busy
        monkeypatch.setattr(restoring, "PATIENCE", 0.0)
        assert desk.say(text) == (right, 0)
        gate.open.set()
    before = threading.enumerate()
    assert not [each.name for each in before if each.name.startswith("kv-")], "a thread is left"
