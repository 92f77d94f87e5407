"""Bad input: each gets its typed error, or its connection ended with a logged reason.

After each the same kernel must still serve, with nothing lost.
"""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from syscalls import wire
from syscalls.calls import mem, sys
from syscalls.errors import EINVAL, EIO, ENODEV, ENOENT, ESRCH, EngramError
from syscalls.records import Note
from tests.harness import RunningKernel, running
from userland.client import BlockingClient

RID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("bad") / "data") as kernel:
        yield kernel


@pytest.fixture(autouse=True)
def still_served(kernel: RunningKernel) -> Iterator[None]:
    """What was written before is there after, and the kernel is the same process."""
    with kernel.client() as client:
        pid = client.sys.info().pid
        client.sys.session(space="kept")
        rid = client.mem.write(segment="semantic", content="kept through it all").rid
    yield
    with kernel.client() as client:
        assert client.sys.info().pid == pid
        client.sys.session(space="kept")
        assert client.mem.read(rid=rid).records[0].content == "kept through it all"


class RawClient:
    """Bytes to the kernel, frames back."""

    def __init__(self, kernel: RunningKernel) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(kernel.data / "run" / "kernel.sock"))
        self._framer = wire.Framer()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def replies(self) -> list[wire.Reply]:
        """Everything until the kernel ends the connection."""
        found: list[wire.Reply] = []
        while True:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return found
            if not data:
                return found
            found += [wire.decode_reply(body) for body in self._framer.feed(data)]

    def reply(self) -> wire.Reply:
        """The next reply."""
        while True:
            bodies = self._framer.feed(self.sock.recv(65536))
            if bodies:
                assert len(bodies) == 1
                return wire.decode_reply(bodies[0])


@pytest.fixture
def raw(kernel: RunningKernel) -> Iterator[RawClient]:
    client = RawClient(kernel)
    yield client
    client.sock.close()


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def logged(kernel: RunningKernel, words: str) -> bool:
    with kernel.client() as client:
        return any(words in line.text for line in client.sys.log(limit=1000).lines)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        msgspec.msgpack.encode("a string"),
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode([1, 164, {}, "more"]),
        msgspec.msgpack.encode(["one", 164, {}]),
        msgspec.msgpack.encode({"seq": 1}),
        msgspec.msgpack.encode([0, 0, {"seq": "x"}]),
        os.urandom(1) + b"\xff" * 300,
    ],
)
def test_a_frame_that_is_no_request_ends_the_connection(
    kernel: RunningKernel, raw: RawClient, body: bytes
) -> None:
    raw.send(framed(body))
    (last,) = raw.replies()
    assert (last.seq, last.code) == (0, EINVAL.number)
    assert logged(kernel, "connection closed by the kernel")


def test_an_oversized_frame_ends_the_connection(kernel: RunningKernel, raw: RawClient) -> None:
    raw.send(struct.pack("<I", wire.MAX_FRAME + 1))
    (last,) = raw.replies()
    assert last.code == EINVAL.number
    assert logged(kernel, "over the limit")


def test_a_truncated_frame_is_logged(kernel: RunningKernel, raw: RawClient) -> None:
    raw.send(framed(b"\x93\x01\xcc\xa4\x80")[:-1])
    raw.sock.shutdown(socket.SHUT_WR)
    assert raw.replies() == []
    assert logged(kernel, "inside a frame")


def test_the_largest_frame_is_served(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        content = "z" * (3 * 1024 * 1024)
        written = client.mem.write_many(notes=[Note("working", content) for _ in range(5)]).written
        assert len(client.mem.read(rid=written[4].rid).records[0].content) == len(content)
        client.mem.write(segment="working", content=content)
        with pytest.raises(EINVAL, match="limit"):  # six of them are over one frame
            client.mem.read(segment="working", limit=10)


def test_unknown_calls_and_arguments_are_errors_of_the_call_alone(raw: RawClient) -> None:
    for seq, number, arguments in (
        (1, 9999, {}),
        (2, sys.ClockCall.NUMBER, {"surprise": 1}),
        (3, sys.ClockCall.NUMBER, []),
        (4, mem.Write.NUMBER, {"segment": "nowhere", "content": "x"}),
        (5, mem.Write.NUMBER, {"segment": "semantic", "content": 5}),
        (6, mem.Write.NUMBER, {"segment": "semantic"}),
        (7, mem.Write.NUMBER, {"segment": "semantic", "content": ""}),
        (8, mem.Search.NUMBER, {"query": "x", "k": 0}),
        (9, mem.Read.NUMBER, {"rid": "not a rid"}),
        (10, mem.Write.NUMBER, {"segment": "semantic", "content": "x", "importance": 2}),
        (0, sys.ClockCall.NUMBER, {}),
        (-4, sys.ClockCall.NUMBER, {}),
    ):
        raw.send(wire.frame([seq, number, arguments]))
        reply = raw.reply()
        assert (reply.seq, reply.code) == (seq, EINVAL.number), (seq, number, arguments)
    raw.send(wire.frame([99, sys.ClockCall.NUMBER, {}]))
    assert raw.reply().code == wire.DONE


def test_a_number_beyond_a_frame_is_refused_here_and_the_connection_goes_on(
    kernel: RunningKernel,
) -> None:
    with kernel.client() as client:
        for target in (2**64, -(2**63) - 1):
            with pytest.raises(EINVAL, match="too large"):
                client.proc.info(target=target)
            with pytest.raises(EINVAL, match="too large"):
                client.ipc.send(to=1, body={"deep": [target]})
        assert client.sys.clock().now > 0


def test_a_seq_in_flight_cannot_be_used_again(raw: RawClient) -> None:
    raw.send(wire.frame([5, 33, {}]) + wire.frame([5, sys.ClockCall.NUMBER, {}]))
    reply = raw.reply()
    assert (reply.seq, reply.code) == (5, EINVAL.number)
    raw.send(wire.frame([0, 0, {"seq": 5}]))
    reply = raw.reply()
    assert (reply.seq, reply.code) == (5, 125)


@pytest.mark.parametrize(
    ("call", "arguments", "error"),
    [
        ("ipc.send", {"to": 999999, "body": 1}, ESRCH),
        ("ipc.send", {"to": "nobody", "body": 1}, ESRCH),
        ("ipc.recv", {"sender": 999999, "timeout": 0}, ESRCH),
        ("proc.signal", {"target": 999999}, ESRCH),
        ("proc.wait", {"target": 999999}, ESRCH),
        ("proc.info", {"target": "nobody"}, ESRCH),
        ("proc.wait", {}, ESRCH),
        ("mem.share", {"to": 999999}, ESRCH),
        ("mem.read", {"rid": RID}, ENOENT),
        ("mem.read", {"key": "no such key"}, ENOENT),
        ("mem.read", {"space": "no such space"}, ENOENT),
        ("mem.stat", {"space": 123456}, ENOENT),
        ("mem.update", {"rid": RID, "content": "x"}, ENOENT),
        ("mem.delete", {"rid": RID}, ENOENT),
        ("mem.history", {"rid": RID}, ENOENT),
        ("ipc.unsubscribe", {"topic": "never"}, ENOENT),
        ("proc.spawn", {"program": "/no/such/program.py"}, ENOENT),
        ("proc.spawn", {"program": "no.such.module"}, ENOENT),
        ("proc.spawn", {"program": "echo", "caps": ["no.such"]}, EINVAL),
        ("proc.spawn", {"program": "echo", "cwd": "/no/such/folder"}, ENOENT),
        ("proc.exit", {}, EINVAL),
        ("sys.trace", {"call": "no.such"}, EINVAL),
        ("llm.generate", {"prompt": "hello"}, ENODEV),
        ("llm.generate", {}, EINVAL),
        ("llm.count", {"text": "hello"}, ENODEV),
        ("lora.attach", {"adapter": "no-such"}, ENOENT),
        ("llm.intent", {"text": ""}, EINVAL),
        ("llm.intent", {"text": "x", "program": [{"call": "no.such", "args": {}}]}, EINVAL),
    ],
)
def test_typed_errors(
    kernel: RunningKernel, call: str, arguments: dict[str, object], error: type[EngramError]
) -> None:
    group, _, verb = call.partition(".")
    with kernel.client() as client, pytest.raises(error) as caught:
        getattr(getattr(client, group), verb)(**arguments)
    assert caught.value.code == error.__name__
    assert caught.value.message


def test_a_slow_reader_holds_up_nobody(kernel: RunningKernel, raw: RawClient) -> None:
    """A client that asks for megabytes and reads nothing fills its own buffers only."""
    with kernel.client() as client:
        client.sys.session(space="big")
        rid = client.mem.write(segment="working", content="y" * 1_000_000).rid
        raw.sock.settimeout(0.5)
        request = wire.frame([1, mem.Read.NUMBER, {"rid": rid}])
        sent = 0
        with pytest.raises(TimeoutError):
            for seq in range(1, 2_000_000):
                raw.send(wire.frame([seq, mem.Read.NUMBER, {"rid": rid}]))
                sent += len(request)
        for _ in range(50):
            client.sys.clock()


def test_a_flood_of_garbage_connections(kernel: RunningKernel) -> None:
    for number in range(100):
        garbage = RawClient(kernel)
        garbage.send(os.urandom(200 + number))
        garbage.sock.close()
    with kernel.client() as client:
        client.sys.clock()


def test_a_full_store_refuses_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    flags = ("--embedder", "none", "--store-limit", str(4 << 20))
    written: list[str] = []
    with running(tmp_path / "full", *flags) as kernel:
        with kernel.client() as client:
            client.sys.session(space="full")
            with pytest.raises(EIO) as caught:
                for number in range(5000):
                    content = f"{number} " + "x" * 5000
                    written.append(client.mem.write(segment="episodic", content=content).rid)
            assert caught.value.detail["driver"] == "store"
            assert len(written) > 100
            assert (
                client.mem.read(rid=written[-1])
                .records[0]
                .content.startswith(f"{len(written) - 1} ")
            )
        kernel.kill()
        kernel.flags = ("--embedder", "none")
        kernel.reboot()
        with kernel.client() as client:
            for number, rid in enumerate(written):
                content = client.mem.read(rid=rid).records[0].content
                assert content.startswith(f"{number} ")
            client.sys.session(space="full")
            client.mem.write(segment="episodic", content="there is room again")


def test_a_model_folder_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "no-model"
    empty.mkdir()
    flags = ("--embedder", str(empty), "--model", str(empty))
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        with pytest.raises((EIO, ENODEV)) as caught:
            client.llm.generate(prompt="hello", deadline=60)
        assert caught.value.message
        with pytest.raises((EIO, ENODEV)):
            client.llm.embed(texts=["hello"], deadline=60)
        client.mem.write(segment="semantic", content="works without a model")
        hits = client.mem.search(query="works without", deadline=0.1)
        assert hits.hits[0].content == "works without a model"
        assert hits.degraded == ["dense"]


def test_a_second_kernel_is_refused(kernel: RunningKernel) -> None:
    second = RunningKernel(kernel.data, "--embedder", "none")
    assert second.process.wait(60) == 3
    assert "EBUSY" in second.stderr()
    assert str(kernel.process.pid) in second.stderr()


def test_bad_flags_are_refused(tmp_path: Path) -> None:
    bad = RunningKernel(tmp_path / "data", "--mailbox", "none")
    assert bad.process.wait(60) == 2
    assert "mailbox" in bad.stderr()


def test_without_a_kernel_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(ENODEV, match="kernel"):
        BlockingClient.open(tmp_path / "nothing")
