"""At a terminal the shell asks before words destroy something."""

import sys
from pathlib import Path

from syscalls.calls import llm
from tests.terminal import terminal
from tests.understanding import FakeKernel

PROMPT = r"engram(:\d+)?>"
KILL = llm.Planned("proc.signal", {"target": "ada", "signal": "KILL"})


def test_a_person_at_a_terminal_is_asked(tmp_path: Path) -> None:
    kernel = FakeKernel(tmp_path / "d")
    try:
        kernel.plans["please end ada"] = [KILL]
        kernel.results = [llm.Step(KILL.call, KILL.args, ok=True, value={})]
        kernel.reply = "She is gone."
        command = [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), "shell"]
        with terminal(command) as shell:
            shell.until(PROMPT)
            shell.type("please end ada\r")
            shell.until(r"-> proc\.signal target=ada signal=KILL")
            shell.until(r"Run it\? \[y/N\] ")
            shell.type("n\r")
            shell.until("nothing was run")
            assert [call.execute for call in kernel.asked] == [False]
            shell.until(PROMPT)
            shell.type("please end ada\r")
            shell.until(r"Run it\? \[y/N\] ")
            shell.type("\x03")
            shell.until("interrupted", insist="\x03")
            assert len(kernel.asked) == 2
            shell.until(PROMPT)
            shell.type("please end ada\r")
            shell.until(r"Run it\? \[y/N\] ")
            shell.type("y\r")
            shell.until("She is gone")
            assert kernel.asked[-1].program == [KILL]
            shell.until(PROMPT)
            shell.type("exit\r")
    finally:
        kernel.close()
