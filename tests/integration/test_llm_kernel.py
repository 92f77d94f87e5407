"""Engines behind the kernel: which one ``auto`` takes and why; who gets the key of a server."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

from syscalls.calls import llm
from tests.harness import BOUND, running
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

KEY = "ENGRAM_API_KEY"
CURIOUS = f"""
import os
async def main(agent):
    return [os.environ.get("{KEY}"), "secret-key" in str(dict(os.environ))]
"""


class Handler(BaseHTTPRequestHandler):
    """A server of one model that always says the same."""

    keys: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "small"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.keys.append(self.headers.get("authorization", ""))
        piece = {"choices": [{"text": "hello", "finish_reason": "stop"}]}
        self._answer(f"data: {json.dumps(piece)}\n\ndata: [DONE]\n\n")

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}/v1"
        served.shutdown()
        thread.join()


def test_auto_says_what_it_took_and_why(tmp_path: Path) -> None:
    model = tiny_llm(tmp_path / "model")
    flags = ("--embedder", "none", "--model", str(model), "--engine", "auto")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        made = client.llm.generate(
            prompt="the",
            schema={"enum": ["yes", "no"]},
            max_tokens=8,
            deadline=BOUND,
        )
        assert json.loads(made.text) in ("yes", "no")
        (driver,) = [each for each in client.sys.info().drivers if each.name == "llm"]
        assert driver.detail["engine"] == "transformers"
        assert "starts sooner" in driver.detail["why"] or "not installed" in driver.detail["why"]
        assert f"engine transformers: {driver.detail['why']}" in kernel.stderr()


def test_what_was_computed_is_counted_for_the_same_agent(tmp_path: Path) -> None:
    model = tiny_llm(tmp_path / "model", context=512)
    flags = ("--embedder", "none", "--model", str(model), "--engine", "transformers")
    call = llm.Generate(prompt="the user said hello to the kernel " * 6, max_tokens=4)
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        assert client.call(call).usage.cached == 0
        assert client.call(call).usage.cached > 0


def test_the_key_goes_to_the_server_and_to_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret-key")
    program = tmp_path / "curious.py"
    program.write_text(CURIOUS)
    with (
        server() as url,
        running(
            tmp_path / "data", "--embedder", "none", "--model", f"openai:small@{url}"
        ) as kernel,
        kernel.client() as client,
    ):
        assert client.llm.generate(prompt="hi", deadline=BOUND).text == "hello"
        assert Handler.keys == ["Bearer secret-key"]
        spawned = client.proc.spawn(program=str(program))
        assert client.proc.wait(target=spawned.apid, timeout=BOUND).value == [None, False]
        assert "secret-key" not in str(client.sys.info()) + str(client.sys.stats())
        assert "secret-key" not in kernel.stderr()
