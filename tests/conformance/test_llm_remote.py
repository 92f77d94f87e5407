"""The ``openai`` engine against servers that misbehave; none of it needs a model."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from drivers.engine import Job
from drivers.kv.contract import PinRequest
from drivers.llm.contract import GenerateRequest, Piece
from drivers.llm.remote import OPENAI, OpenAIEngine, split
from drivers.llm.shapes import CountArguments
from drivers.protocol import Chunk, Done, EngineSpec, Failed, pack
from syscalls.errors import EAGAIN, EINVAL, EIO, ENODEV, EngramError, from_value
from syscalls.shapes import ChatMessage, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND = 30
MODELS = {"object": "list", "data": [{"id": "small", "object": "model", "owned_by": "someone"}]}
SPENT = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}


def events(*values: Any) -> bytes:
    """A body of server-sent events."""
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"data: {line}\r\n\r\n" for line in lines).encode()


def said(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


class Handler(BaseHTTPRequestHandler):
    """Answers every POST with what the test says; remembers what it was asked."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"")
    asked: ClassVar[list[tuple[str, str, Any]]] = []
    gone: ClassVar[threading.Event]
    slow = False

    def do_GET(self) -> None:
        self._send(200, json.dumps(MODELS).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, self.headers.get("authorization", ""), body))
        if self.slow:
            self._drip()
        else:
            self._send(*self.answer)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(BOUND * 100):
                self.wfile.write(events(said("more ")))
                time.sleep(0.01)
        except OSError:
            self.gone.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(*, slow: bool = False, **kinds: Any) -> Iterator[tuple[OpenAIEngine, type[Handler]]]:
    """An engine, loaded, and the handler of the server that it talks to."""
    members = {"asked": [], "gone": threading.Event(), "slow": slow, **kinds}
    handler: type[Handler] = type("Own", (Handler,), members)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        engine = OpenAIEngine(EngineSpec("llm", "openai", f"small@{url}", {"key": "secret"}))
        try:
            assert engine.load(lambda _: None).name == f"small@{url}"
            yield engine, handler
        finally:
            engine.close()
            server.shutdown()
            thread.join()


def run(engine: OpenAIEngine, method: str, arguments: msgspec.Struct) -> list[Any]:
    """The messages that a job sends until it has ended."""
    sent: list[Any] = []
    job = Job(1, method, pack(arguments), 100, sent.append)
    engine.begin(job)
    deadline = time.monotonic() + BOUND
    while engine.busy:
        assert time.monotonic() < deadline
        engine.step()
    return sent


def failure(messages: list[Any]) -> EngramError:
    (failed,) = messages
    assert isinstance(failed, Failed)
    return from_value(failed.number, failed.error)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("org/model@http://host:8000/v1", ("org/model", "http://host:8000/v1")),
        ("http://host:8000/v1/", ("", "http://host:8000/v1")),
        ("a@b@https://host/v1", ("a@b", "https://host/v1")),
        ("some-model", ("some-model", OPENAI)),
    ],
)
def test_what_a_spec_means(spec: str, found: tuple[str, str]) -> None:
    assert split(spec) == found


def test_a_stream_is_put_together() -> None:
    body = events(said("Hel"), said("lo", "stop"), {"choices": [], "usage": SPENT}, "[DONE]")
    with serving(answer=(200, body)) as (engine, handler):
        request = GenerateRequest(messages=[ChatMessage("user", "hi")], stop=["x"], seed=3)
        sent = run(engine, "generate", request)
    pieces = [
        msgspec.msgpack.decode(each.value, type=Piece)
        for each in sent
        if isinstance(each, Chunk | Done)
    ]
    assert "".join(piece.text for piece in pieces) == "Hello"
    assert pieces[-1].finish == "stop"
    assert pieces[-1].usage == Usage(prompt=5, cached=3, completion=2)
    ((path, key, asked),) = handler.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert asked["messages"] == [{"role": "user", "content": "hi"}]
    assert (asked["model"], asked["stop"], asked["seed"]) == ("small", ["x"], 3)
    assert "cache_salt" not in asked, "only vLLM's server is known to take it"


@pytest.mark.parametrize(
    ("status", "body", "error", "retryable"),
    [
        (400, b'{"error": {"message": "too long"}}', EINVAL, None),
        (401, b'{"error": {"message": "who are you"}}', EIO, False),
        (404, b"not found", EIO, False),
        (429, b'{"error": {"message": "slowly"}}', EAGAIN, None),
        (503, b"<html>", EIO, True),
        (200, events(said("Hel")), EIO, True),
        (200, events({"error": {"message": "cuda died", "code": 500}}), EIO, True),
        (200, events({"error": {"message": "bad schema", "code": 400}}), EINVAL, None),
        (200, events("{"), EIO, False),
    ],
)
def test_what_a_server_does_wrong_is_typed(
    status: int, body: bytes, error: type[EngramError], retryable: bool | None
) -> None:
    with serving(answer=(status, body)) as (engine, _):
        sent = run(engine, "generate", GenerateRequest(prompt="x"))
    got = failure([each for each in sent if not isinstance(each, Chunk)])
    assert isinstance(got, error)
    assert got.detail.get("retryable") == retryable


def test_a_cancelled_stream_is_closed() -> None:
    with serving(slow=True) as (engine, handler):
        sent: list[Any] = []
        job = Job(1, "generate", pack(GenerateRequest(prompt="x")), 3, sent.append)
        engine.begin(job)
        deadline = time.monotonic() + BOUND
        while len(sent) < 3:
            assert time.monotonic() < deadline
            engine.step()
        for _ in range(20):
            engine.step()
        assert len(sent) == 3, "more pieces than there was credit for"
        engine.cancel(job)
        while engine.busy:
            assert time.monotonic() < deadline
            engine.step()
        assert handler.gone.wait(BOUND), "the server was not told"
        assert failure(sent[3:]).code == "ECANCELED"


def test_what_only_vllm_serves_is_refused() -> None:
    with serving() as (engine, _):
        error = failure(run(engine, "count", CountArguments(text="hello")))
        assert isinstance(error, ENODEV)
        for request in (
            GenerateRequest(prompt="x", special=True),
            GenerateRequest(prompt="x", grammar="start: X"),
            GenerateRequest(prompt=""),
        ):
            with pytest.raises(EINVAL):
                run(engine, "generate", request)


@pytest.mark.parametrize("method", ["pin", "unpin", "drop", "held"])
def test_a_server_keeps_its_own_cache(method: str) -> None:
    with serving() as (engine, _), pytest.raises(EINVAL, match="its own cache"):
        run(engine, method, PinRequest("h", prompt="x", salt="s"))


def test_an_absent_server_is_an_error_in_the_end() -> None:
    options = {"patience": 0.1}
    engine = OpenAIEngine(EngineSpec("llm", "openai", "m@http://127.0.0.1:9/v1", options))
    with pytest.raises(EIO, match="lost"):
        engine.load(lambda _: None)
    engine.close()


def test_a_model_that_the_server_has_not() -> None:
    with serving() as (engine, _):
        other = OpenAIEngine(EngineSpec("llm", "openai", f"large@{engine._url}"))
        with pytest.raises(ENODEV) as caught:
            other.load(lambda _: None)
        assert "small" in caught.value.hint
        other.close()
