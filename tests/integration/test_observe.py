"""Metrics and traces as their readers get them: a real kernel, real HTTP."""

import http.client
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness import BOUND, RunningKernel, running
from userland.bin.observe import flat


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("observe") / "data") as kernel:
        yield kernel


def engram(kernel: RunningKernel, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_a_scrape_has_every_part(kernel: RunningKernel) -> None:
    with engram(kernel, "metrics", "--serve", "127.0.0.1:0") as serving:
        assert serving.stdout is not None
        try:
            port = int(re.findall(r":(\d+)/metrics", serving.stdout.readline())[0])
            for _ in range(2):  # a scrape leaves nothing behind
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND)
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
                connection.close()
        finally:
            serving.send_signal(signal.SIGINT)
            serving.communicate(timeout=BOUND)
    assert 'engram_driver_ready{driver="store",kind="LmdbStore"} 1.0' in text
    assert re.search(r"^engram_kernel_boot 1\.0$", text, re.M)
    assert re.search(r'^engram_process_calls\{apid="1",name="init"\} 0\.0$', text, re.M)
    assert serving.returncode == 0


def test_names_are_those_that_prometheus_takes() -> None:
    tree = {"a": {"b-c": 1, "d": True, "text": "x"}, "一": 2.5, "none": None}
    assert list(flat(tree, "engram")) == [
        ("engram_a_b_c", 1.0),
        ("engram_a_d", 1.0),
        ("engram__", 2.5),
    ]


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    got: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_calls_become_spans_of_their_process(kernel: RunningKernel) -> None:
    Collector.got = []
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        try:
            with (
                kernel.client() as client,
                engram(kernel, "traces", "--to", url, "-e", "sys.clock", "-n", "2") as sending,
            ):
                while sending.poll() is None:  # it follows from when it has started
                    client.sys.clock()
                said, problems = sending.communicate(timeout=BOUND)
                own = client.sys.info().apid
        finally:
            server.shutdown()
            thread.join()
    assert said == f"2 spans sent to {url}\n", problems
    spans = [
        span
        for request in Collector.got
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["sys.clock", "sys.clock"]
    assert spans[0].trace_id == spans[1].trace_id
    assert spans[0].end_time_unix_nano >= spans[0].start_time_unix_nano
    told = {item.key: item.value.int_value for item in spans[0].attributes}
    assert told["engram.apid"] == own


def test_an_address_is_checked(kernel: RunningKernel) -> None:
    with engram(kernel, "metrics", "--serve", "nowhere") as refused:
        _, problems = refused.communicate(timeout=BOUND)
    assert refused.returncode == 2
    assert "EINVAL" in problems
