"""The manual is true: what its pages show at a prompt is what happens.

A page's files (a block that begins with ``# NAME``) are written into a fresh folder and its
``$`` lines run there. Numbers, record ids, folders and the width of columns may differ;
``...`` stands for anything.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BOUND, ROOT, processes_of, running

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"# (\w+\.\w+)\n")
EMBEDDER = "local-hash:128"


def blocks(page: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The commands of a page with what they are said to print; writes its files."""
    for kind, body in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        named = FILE.match(body)
        if named:
            (folder / named[1]).write_text(body[named.end() :], encoding="utf-8")
        if kind == "console":
            for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
                line, _, wanted = part.partition("\n")
                yield line, wanted


def fits(wanted: str, shown: str, data: Path) -> bool:
    """Whether it is the same but for what differs from run to run."""
    pattern = re.escape(_same(wanted, data)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, _same(shown, data), re.S) is not None


def _same(text: str, data: Path) -> str:
    text = text.replace(str(data), "DATA").replace("/home/ada/.local/share/engram", "DATA")
    text = re.sub(r"\S*/backup\b", "backup", text)
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "RID", text)
    text = re.sub(r"\d+(\.\d+)*s?\b", "0", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def follow(page: str, folder: Path, data: Path) -> int:
    """Run a page; returns how many commands it had."""
    environment = {
        **os.environ,
        "ENGRAM_DATA": str(data),
        "ENGRAM_EMBEDDER": EMBEDDER,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    command = folder / "bin" / "engram"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m userland.cli "$@"\n')
    command.chmod(0o700)
    environment["PYTHONPATH"] = str(ROOT)
    count = 0
    for line, wanted in blocks(page, folder):
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BOUND,
            check=False,
        )
        assert fits(wanted, done.stdout, data), (
            f"{page}: $ {line}\n{done.stdout}\n-- not --\n{wanted}"
        )
        count += 1
    return count


def test_the_page_on_agents(tmp_path: Path) -> None:
    data = tmp_path / "engram"
    with running(data, "--embedder", EMBEDDER):
        assert follow("agents.md", tmp_path, data) > 5


@pytest.mark.slow
def test_the_page_on_operations(tmp_path: Path) -> None:
    assert follow("operations.md", tmp_path, tmp_path / "engram") > 15
    assert processes_of(tmp_path) == []


def test_what_differs_is_seen() -> None:
    data = Path("/x/engram")
    assert fits(
        "kernel 0.1.0 serves ... (pid 4, 0.3s)", "kernel 0.1.0 serves /x/engram (pid 99, 12s)", data
    )
    assert not fits("process 3 ended: returned", "process 3 ended: exit", data)
    assert not fits("a\nb", "a", data)
