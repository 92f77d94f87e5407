"""A model server that follows schemas: what it says is chosen by a function of the messages.

It speaks enough of OpenAI's protocol for ``--engine openai``, over a real socket. An answer that
does not fit the schema that was asked for is an error of the test, and is kept in ``faults``.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jsonschema

Messages = list[dict[str, Any]]
Choose = Callable[[Messages], Any]


class FakeModel:
    """The server's state; ``asked`` has the messages of each request."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.asked: list[Messages] = []
        self.faults: list[str] = []
        self.spec = ""

    def answer(self, request: dict[str, Any]) -> str:
        """What is said to a request."""
        self.asked.append(request["messages"])
        said = self.choose(request["messages"])
        if isinstance(said, str):
            return said
        schema = request["response_format"]["json_schema"]["schema"]
        try:
            jsonschema.validate(said, schema)
        except jsonschema.ValidationError as error:
            self.faults.append(error.message)
        return json.dumps(said)


def _handler(model: FakeModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send("application/json", json.dumps({"data": [{"id": "fake"}]}))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                self.send_error(404)
                return
            said = model.answer(request)
            events: list[dict[str, Any]] = [
                {"choices": [{"delta": {"content": said}, "finish_reason": "stop"}]},
                {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(said)}},
            ]
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

        def _send(self, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def fake_model(choose: Choose) -> Iterator[FakeModel]:
    """Serve on a port of the loopback until the block ends; then no answer may have been wrong."""
    model = FakeModel(choose)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(model)) as server:
        server.daemon_threads = True
        model.spec = f"openai:fake@http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield model
        finally:
            server.shutdown()
            thread.join()
    assert not model.faults, model.faults
