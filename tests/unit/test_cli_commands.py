"""The command table, the parsers, and what is shown when there is no kernel."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from syscalls.errors import EAGAIN, EIO, EKERNEL, EPERM
from userland import cli
from userland.commands import BY_NAME, COMMANDS, Parser, Usage, closest, find
from userland.context import reference
from userland.screen import (
    PlainScreen,
    duration,
    error_object,
    exit_code,
    json_line,
    lines_visible,
    short,
    size,
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_is_there_and_parses_its_help(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(command, tuple)
    name = command[0]
    assert cli.main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"engram {name}" in out
    assert "--json" in out


def test_two_words_are_found_before_one() -> None:
    found = find(["mem", "write", "x"])
    assert found is not None
    assert (found[0].name, found[1]) == ("mem write", ["x"])
    assert find(["nosuch"]) is None
    with pytest.raises(Usage, match="mem what"):
        find(["mem"])


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command.name in out for command in COMMANDS)


@pytest.mark.parametrize("words", [["ps"], ["mem", "list"], ["send", "1", "x"], ["info"]])
def test_without_a_kernel_it_says_how_to_boot(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--data", str(tmp_path), *words]) == 4
    assert f"engram --data {tmp_path} boot" in capsys.readouterr().err
    assert cli.main(["--data", str(tmp_path), *words, "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["name"] == "ENODEV"
    assert told["error"]["fault"] == "machine"


@pytest.mark.parametrize(
    "words", [["nosuch"], [], ["ps", "--nosuch"], ["kill"], ["kill", "-s", "FOO", "1"], ["mem"]]
)
def test_a_wrong_line_is_the_callers_fault(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert "EINVAL" in capsys.readouterr().err
    assert cli.main(["--json", *words]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["name"] == "EINVAL"


def test_exit_codes_follow_whose_fault_it_is() -> None:
    errors = [EPERM("x"), EAGAIN("x"), EIO("x"), EKERNEL("x")]
    assert [exit_code(error) for error in errors] == [2, 3, 4, 5]


def test_a_mistyped_command_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert closest("strce", list(BY_NAME)) == "strace"
    cli.main(["strce"])
    assert "'strace'" in capsys.readouterr().err


def test_a_quick_command_loads_nothing_heavy() -> None:
    program = (
        "import sys; from userland.cli import main; main(['--data', '/nowhere', 'ps']);"
        "print([m for m in ('trio', 'rich', 'prompt_toolkit', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_doctor_works_without_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--data", str(tmp_path), "doctor", "--json", "--model", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    verdicts = {one["check"]: one["verdict"] for one in report["findings"]}
    assert verdicts["python"] == "ok"
    assert verdicts["kernel"] == "warn"
    assert verdicts["model config.json"] == "fail"
    assert not report["healthy"]


# --- what is shown


def test_a_plain_table_is_aligned() -> None:
    out = io.StringIO()
    PlainScreen(out).table(["a", "long name"], [[1, "x"], [12345, "y"]])
    assert out.getvalue() == "A      LONG NAME\n1      x\n12345  y\n"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_not_steered_by_what_others_wrote() -> None:
    wicked = "a\x1b[2Jb\r\u202ec\n第二行\u3000👩\u200d🔬\U000e0041"
    assert lines_visible(wicked) == (
        "a\\u001b[2Jb\\u000d\\u202ec\n第二行\u3000👩\u200d🔬\\U000e0041"
    )
    for out, shown in ((Tty(), lines_visible(wicked)), (io.StringIO(), wicked)):
        PlainScreen(out).line(wicked)
        assert out.getvalue() == shown + "\n"


def test_json_shows_bytes_as_text() -> None:
    assert json_line({"data": b"caf\xc3\xa9\xff"}) == '{"data":"café\ufffd"}'
    assert json.loads(json_line(error_object(EPERM("no", space=3))))["error"]["detail"] == {
        "space": 3
    }


def test_small_words() -> None:
    assert [size(0), size(1536), size(3 << 30)] == ["0B", "1.5K", "3.0G"]
    assert [duration(1.25), duration(61), duration(3700)] == ["1.2s", "1m01s", "1h01m"]
    assert short("a  b\nc", 10) == "a b c"
    assert short("x" * 20, 10) == "x" * 9 + "…"
    assert [reference("12"), reference("ada"), reference("１２")] == [12, "ada", "１２"]


def test_modules_of_commands_have_nothing_left_over() -> None:
    for module in {command.module for command in COMMANDS}:
        loaded = importlib.import_module(f"userland.bin.{module}")
        names = {name.removesuffix("_arguments") for name in vars(loaded)}
        ends = {name for name in vars(loaded) if name.endswith("_arguments")}
        declared = {c.name.replace(" ", "_") for c in COMMANDS if c.module == module}
        assert {name.removesuffix("_arguments") for name in ends} == declared
        assert declared <= names


def test_the_parser_raises_instead_of_leaving() -> None:
    parser = Parser(prog="x")
    with pytest.raises(Usage, match="required"):
        parser.add_argument("y")
        parser.parse_args([])
