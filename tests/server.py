"""A real vLLM server on this machine, with a tiny model: what ``--engine openai`` talks to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOUND = 240
"""Seconds that a server may take to come up."""


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str) -> str:
    """What a page says, or nothing when it cannot be had."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as page:
            return str(page.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


class Server:
    """A running server."""

    def __init__(self, root: str, model: str) -> None:
        self.root = root
        self.spec = f"openai:{model}@{root}/v1"

    def running(self) -> float:
        """Requests that its scheduler has, by its own metrics."""
        lines = fetch(f"{self.root}/metrics").splitlines()
        counted = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
        return sum(float(line.split()[-1]) for line in lines if line.startswith(counted))


@contextmanager
def vllm_server(model: Path) -> Iterator[Server]:
    """Serve ``model`` under the name ``tiny`` until the block ends; no process is left."""
    server = Server(f"http://127.0.0.1:{free_port()}", "tiny")
    flags = {
        "model": str(model),
        "served-model-name": "tiny",
        "host": "127.0.0.1",
        "port": server.root.rpartition(":")[2],
        "dtype": "float32",
        "kv-cache-memory-bytes": str(32 << 20),
        "max-num-seqs": "16",
        "structured-outputs-config": '{"backend":"guidance","disable_any_whitespace":true}',
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    command += ["--enforce-eager", "--enable-prompt-tokens-details"]
    quiet = {"OMP_WAIT_POLICY": "passive", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (model.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | quiet,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + BOUND
        while not fetch(f"{server.root}/v1/models"):
            assert process.poll() is None, (model.parent / "server.log").read_text()[-4000:]
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its engine has a process of its own
        process.wait(60)
