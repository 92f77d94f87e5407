"""Pictures for models: from a file to a caption that is found, past a server that sees or not."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from drivers.llm.pictures import media, turns
from drivers.llm.tokens import Tokens
from syscalls.calls.llm import Generate
from syscalls.calls.mem import Read, Search
from syscalls.calls.sys import Info
from syscalls.errors import EINVAL, ENODEV
from syscalls.records import Record
from syscalls.shapes import ChatMessage
from tests.harness import running
from userland.client import BlockingClient
from userland.documents.sync import Sync

SAID = "A heron stands in the reeds beside a wooden jetty."
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


class Handler(BaseHTTPRequestHandler):
    """A server with one model, which says the same of everything."""

    asked: ClassVar[list[Any]]
    status: ClassVar[list[int]]

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "eye"}]}).encode())

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        choice = {"index": 0, "delta": {"content": SAID}, "finish_reason": "stop"}
        body = f"data: {json.dumps({'choices': [choice]})}\r\n\r\ndata: [DONE]\r\n\r\n"
        self._send(self.status[0], body.encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def attached(folder: Path, *flags: str) -> Iterator[tuple[BlockingClient, type[Handler]]]:
    """A kernel whose model is on a server of the test's own, ready."""
    handler: type[Handler] = type("Own", (Handler,), {"asked": [], "status": [200]})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            model = ("--embedder", "local-hash:128", "--model", f"openai:eye@{url}")
            with running(folder / "data", *model, *flags) as kernel, kernel.client() as client:
                client.call(Generate(prompt="are you there?"))  # waits until it is ready
                handler.asked.clear()
                yield client, handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    image: Any = pytest.importorskip("PIL.Image")
    monkeypatch.setattr("userland.documents.picture.shutil.which", lambda _name: None)
    path = tmp_path / "files" / "IMG_0042.png"
    path.parent.mkdir()
    image.new("RGB", (32, 20), (200, 10, 10)).save(str(path))
    return path


def chunk(client: BlockingClient) -> Record:
    (found,) = client.call(Read(prefix="chunk:", limit=10)).records
    assert isinstance(found, Record)
    return found


def shown(asked: Any) -> bytes:
    """The picture in a request, as a server gets it."""
    (message,) = asked["messages"]
    text, image = message["content"]
    assert (text["type"], image["type"]) == ("text", "image_url")
    head, _, data = image["image_url"]["url"].partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return base64.b64decode(data)


def test_a_model_that_sees_captions_a_picture_and_it_is_found(
    tmp_path: Path, picture: Path
) -> None:
    with attached(tmp_path, "--model-sees", "true") as (client, server):
        (outcome,) = Sync(client.call).run(picture)
        assert (outcome.what, outcome.note) == ("added", "")
        assert shown(server.asked[0]) == picture.read_bytes()
        one = chunk(client)
        assert (one.content, one.taint) == (SAID, "model")
        assert one.meta["caption"].startswith("eye@http")
        hits = client.call(Search(query="heron in the reeds")).hits
        assert hits[0].rid == one.rid
        (document,) = client.call(Read(key=f"doc:{picture}")).records
        assert (document.taint, document.meta["caption"]) == ("tool", one.meta["caption"])
        assert Sync(client.call).run(picture)[0].what == "unchanged"
        assert len(server.asked) == 1  # nothing is asked twice


def test_a_large_picture_is_shown_smaller(tmp_path: Path, picture: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    image.new("RGB", (4000, 10), (0, 90, 10)).save(str(picture), "BMP")
    with attached(tmp_path, "--model-sees", "true") as (client, server):
        assert Sync(client.call).run(picture)[0].note == ""
        assert media(shown(server.asked[0])) == "image/jpeg"


def test_a_blind_model_is_not_asked(tmp_path: Path, picture: Path) -> None:
    with attached(tmp_path) as (client, server):
        (outcome,) = Sync(client.call).run(picture)
        assert outcome.what == "added"
        assert "no model that sees" in outcome.note
        one = chunk(client)
        assert one.taint == "tool"
        assert "IMG 0042" in one.content
        assert "caption" not in one.meta
        (llm,) = (each for each in client.call(Info()).drivers if each.name == "llm")
        assert llm.detail["sees"] is False
        message = ChatMessage("user", "what is this?", images=[PNG])
        with pytest.raises(ENODEV, match="reads words only"):
            client.call(Generate(messages=[message]))
        assert server.asked == []


def test_a_server_that_refuses_leaves_the_picture_as_it_was(tmp_path: Path, picture: Path) -> None:
    with attached(tmp_path, "--model-sees", "true") as (client, server):
        server.status[0] = 400
        (outcome,) = Sync(client.call).run(picture)
        assert outcome.what == "added"
        assert "no caption: " in outcome.note
        assert chunk(client).taint == "tool"


def test_the_memory_fault_keeps_the_picture(tmp_path: Path) -> None:
    with attached(tmp_path, "--model-sees", "true") as (client, server):
        client.mem.write(segment="semantic", content="The jetty belongs to Ada.")
        message = ChatMessage("user", "Whose jetty is this?", images=[PNG])
        reply = client.call(Generate(messages=[message], memory="auto"))
        assert len(reply.usage.paged) == 1
        assert shown(server.asked[0]) == PNG
        assert "belongs to Ada" in server.asked[0]["messages"][0]["content"][0]["text"]


def test_local_engines_refuse_pictures_before_they_read_a_word() -> None:
    class Nothing:
        all_special_tokens: ClassVar[list[str]] = []

    with pytest.raises(ENODEV, match="reads words only"):
        Tokens(Nothing()).encode(None, [ChatMessage("user", "see", images=[PNG])])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_what_kind_of_picture_it_is(data: bytes, kind: str) -> None:
    assert media(data) == kind


def test_words_alone_go_as_they_always_went() -> None:
    assert turns([ChatMessage("user", "hi")]) == [{"role": "user", "content": "hi"}]
    with pytest.raises(EINVAL, match="none of PNG"):
        turns([ChatMessage("user", "hi", images=[b"BM...."])])
