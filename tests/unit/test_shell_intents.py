"""Words typed into the shell and given to ``engram intent``, against a kernel of the test's own."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syscalls.calls import llm
from syscalls.calls.proc import Processes
from syscalls.errors import ENODEV, ESRCH, ETIME
from tests.understanding import FakeKernel
from userland import cli, intent
from userland.commands import typo
from userland.context import YES_VARIABLE
from userland.intent import destroys
from userland.results import call_text, unsaid
from userland.screen import PlainScreen
from userland.shell.shell import KNOWN, Shell

KILL = llm.Planned("proc.signal", {"target": "ada", "signal": "KILL"})
WRITE = llm.Planned("mem.write", {"segment": "semantic", "content": "Ada likes tea"})
WRITTEN = {"rid": "0" * 26, "version": 1}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    monkeypatch.delenv(YES_VARIABLE, raising=False)
    made = FakeKernel(tmp_path / "d")
    yield made
    made.close()


Typed = tuple[int, str, str]


def typed(kernel: FakeKernel, line: str, **how: Any) -> Typed:
    """Status, output and errors of one line in a shell."""
    out, errors = io.StringIO(), io.StringIO()
    shell = Shell(kernel.data, screen=PlainScreen(out, errors), **how)
    status = shell.run(line)
    shell.close()
    return status, out.getvalue(), errors.getvalue()


def ok(planned: llm.Planned, value: object) -> llm.Step:
    return llm.Step(planned.call, planned.args, ok=True, value=value)


def test_the_program_is_shown_then_run_as_it_was_shown(kernel: FakeKernel) -> None:
    line = "remember that Ada's tea is \"green"  # no shell would take these quotes
    kernel.plans[line] = [WRITE]
    kernel.results, kernel.reply = [ok(WRITE, WRITTEN)], "Noted."
    status, out, errors = typed(kernel, line)
    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        '-> mem.write segment=semantic content="Ada likes tea"',
        f"{'0' * 26} version 1",
        "Noted.",
    ]
    assert [call.execute for call in kernel.asked] == [False, True]
    assert [call.text for call in kernel.asked] == [line, line]
    assert kernel.asked[1].program == [WRITE]


def test_a_long_program_is_run_to_its_end(kernel: FakeKernel) -> None:
    kernel.plans["much"] = [WRITE] * 12
    typed(kernel, "much")
    assert kernel.asked[1].max_steps == 12


@pytest.mark.parametrize(
    ("planned", "asked_about"),
    [
        (KILL, True),
        (llm.Planned("proc.signal", {"target": 3}), True),
        (llm.Planned("proc.signal", {"target": 3, "signal": "STOP"}), False),
        (llm.Planned("proc.signal", {"target": 3, "signal": "CONT"}), False),
        (llm.Planned("mem.forget", {"query": "tea"}), True),
        (llm.Planned("mem.forget", {"query": "tea", "dry_run": True}), False),
        (llm.Planned("mem.delete", {"rid": "x"}), True),
        (llm.Planned("lora.drop", {"adapter": "x"}), True),
        (llm.Planned("sys.shutdown", {}), True),
        (llm.Planned("proc.list", {}), False),
        (llm.Planned("not.there", {}), True),
    ],
)
def test_what_destroys(planned: llm.Planned, asked_about: bool) -> None:
    assert destroys(planned) is asked_about


def test_without_a_terminal_destruction_is_refused(kernel: FakeKernel) -> None:
    kernel.plans["kill ada please?"] = [WRITE, KILL]
    status, out, errors = typed(kernel, "intent kill ada please?")
    assert status == 2
    assert "-> proc.signal target=ada signal=KILL" in out
    assert "EPERM: proc.signal ends or erases" in errors
    assert "--yes" in errors
    assert [call.execute for call in kernel.asked] == [False]


@pytest.mark.parametrize("how", ["flag", "shell", "variable"])
def test_yes_skips_the_question(
    how: str, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.plans["end ada"] = [KILL]
    kernel.results = [ok(KILL, {})]
    if how == "variable":
        monkeypatch.setenv(YES_VARIABLE, "1")
    line = "intent --yes end ada" if how == "flag" else "end ada"
    status, out, errors = typed(kernel, line, yes=how == "shell")
    assert (status, errors) == (0, "")
    assert "proc.signal: done" in out
    assert kernel.asked[-1].program == [KILL]


@pytest.mark.parametrize(
    ("answer", "runs"),
    [("y", True), (" YES ", True), ("", False), ("n", False), ("yup", False), (None, False)],
)
def test_a_person_is_asked(
    answer: str | None, runs: bool, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []

    def answered(question: str) -> str:
        questions.append(question)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("userland.context.Context.answers", True)
    monkeypatch.setattr("builtins.input", answered)
    kernel.plans["end ada"] = [KILL]
    status, out, _ = typed(kernel, "end ada")
    assert questions == ["proc.signal ends or erases something. Run it? [y/N] "]
    assert (status == 0) is runs
    assert ("nothing was run" in out) is not runs
    assert len(kernel.asked) == 1 + runs


def test_nothing_understood(kernel: FakeKernel) -> None:
    status, out, errors = typed(kernel, "mumble mumble")
    assert (status, out) == (intent.DECLINED, "")
    assert "nothing that can be done" in errors
    kernel.reply = "No general model is attached."
    assert typed(kernel, "mumble mumble") == (0, "No general model is attached.\n", "")


def test_failed_steps_and_what_the_reply_repeats(kernel: FakeKernel) -> None:
    look = llm.Planned("proc.list", {})
    kernel.plans["do this"] = [look, KILL, WRITE]
    processes = msgspec.to_builtins(Processes([]))
    refusal = msgspec.to_builtins(ESRCH("there is no process 'ada'").to_value())
    kernel.results = [
        ok(look, processes),
        llm.Step("proc.signal", KILL.args, ok=False, value=refusal),
        ok(WRITE, {"odd": True}),
    ]
    kernel.reply = (
        "0 processes:\n  4 ada waiting\n"
        "proc.signal failed: ESRCH: there is no process 'ada'.\n  ada likes tea."
    )
    status, out, errors = typed(kernel, "do this", yes=True)
    assert status == 2
    assert errors.startswith("proc.signal failed: ESRCH: there is no process 'ada'")
    lines = out.splitlines()
    assert lines[3].startswith("APID")
    assert lines[4:] == ['{"odd":true}', "0 processes:", "  4 ada waiting"]


def test_an_error_in_the_middle_says_what_was_done(kernel: FakeKernel) -> None:
    kernel.plans["do this"] = [WRITE, llm.Planned("proc.list", {})]
    done = msgspec.to_builtins([ok(WRITE, WRITTEN)])
    under_way = {"call": "proc.list", "args": {}}
    kernel.results = ETIME("not done within 3 s", done=done, interrupted=under_way)
    status, out, errors = typed(kernel, "do this")
    assert status == 3
    assert out.splitlines()[2] == f"{'0' * 26} version 1"
    assert errors.splitlines()[0] == "under way when it ended, perhaps done: proc.list"
    assert errors.splitlines()[1].startswith("ETIME")


def test_without_a_mind_it_says_what_is_missing(kernel: FakeKernel) -> None:
    missing = ENODEV("no model understands intents", hint="engram boot --model FOLDER")
    kernel.plans["shwo me ada"] = kernel.plans["请列出进程"] = missing
    status, out, errors = typed(kernel, "shwo me ada")
    assert (status, out) == (4, "")
    assert "'shwo' is no command, and no model understands intents" in errors
    assert "engram boot --model FOLDER" in errors
    assert "help lists the commands" in typed(kernel, "请列出进程")[2]


@pytest.mark.parametrize(
    ("line", "meant"),
    [("sp", "ps"), ("pss", "ps"), ("strce -n 5", "strace"), ("lgos", "logs"), ("exti", "exit")],
)
def test_a_mistyped_command_is_not_an_intent(line: str, meant: str, kernel: FakeKernel) -> None:
    status, _, errors = typed(kernel, line)
    assert status == 2
    assert f"did you mean {meant!r}?" in errors
    assert kernel.asked == []


def test_quotation_marks_are_part_of_the_words(kernel: FakeKernel) -> None:
    words = 'remember that Bob\'s note says "kill ada"'
    for line in (words, f"intent {words}", f"intent --plan  --yes {words}"):
        typed(kernel, line)
    assert [call.text for call in kernel.asked] == [words] * 3


@pytest.mark.parametrize("line", ["hello", "列出进程", "psss me off", "processes"])
def test_words_are_an_intent(line: str, kernel: FakeKernel) -> None:
    typed(kernel, line)
    assert [call.text for call in kernel.asked] == [line]


def test_a_command_line_that_fails_may_have_been_words(kernel: FakeKernel) -> None:
    for line in ("wait for the scribe to end", "help me find my notes"):
        status, _, errors = typed(kernel, line)
        assert (status, f"intent {line}" in errors) == (2, True), errors
    assert "intent" not in typed(kernel, "wait --nosuch a b")[2]
    assert kernel.asked == []


def test_what_counts_as_a_slip() -> None:
    assert typo("stauts", ["stats"]) == "stats"
    assert typo("hello", KNOWN) is None
    assert typo("go", KNOWN) is None


# --- the command


def command(kernel: FakeKernel, *words: str) -> int:
    return cli.main(["--data", str(kernel.data), *words])


Captured = pytest.CaptureFixture[str]


def test_plan_runs_nothing(kernel: FakeKernel, capsys: Captured) -> None:
    kernel.plans["end ada"] = [KILL]
    assert command(kernel, "intent", "--plan", "end", "ada") == 0
    assert capsys.readouterr().out == "-> proc.signal target=ada signal=KILL\n"
    assert command(kernel, "intent", "--plan", "--json", "end ada") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["program"] == [{"call": KILL.call, "args": KILL.args}]
    assert all(not call.execute for call in kernel.asked)


def test_json_is_one_object_and_refuses_without_yes(kernel: FakeKernel, capsys: Captured) -> None:
    kernel.plans["note it"], kernel.plans["end ada"] = [WRITE], [KILL]
    kernel.results, kernel.reply = [ok(WRITE, WRITTEN)], "Noted."
    assert command(kernel, "intent", "--json", "note it") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reply"], told["results"][0]["value"]) == ("Noted.", WRITTEN)
    assert command(kernel, "--json", "intent", "end ada") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["name"] == "EPERM"
    assert told["error"]["detail"]["program"] == [{"call": KILL.call, "args": KILL.args}]


def test_lines_are_planned_in_order_on_one_connection(
    kernel: FakeKernel, tmp_path: Path, capsys: Captured
) -> None:
    kernel.plans = {"记住": [WRITE], "end ada": [KILL], "bad": ETIME("too slow")}
    lines = [
        '{"id": "a", "intent": "记住", "lang": "zh"}',
        "",
        '{"id": 2, "intent": "end ada"}',
        '{"id": "c", "intent": "bad"}',
        "not json",
        '{"id": "d", "intent": "\\ud800"}',
        '{"id": "e", "intent": "mumble"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert command(kernel, "intent", "--plan", "--jsonl", str(tmp_path / "in.jsonl")) == 0
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert [one["id"] for one in answers] == ["a", 2, "c", None, None, "e"]
    assert answers[0]["program"] == [{"call": WRITE.call, "args": WRITE.args}]
    assert [bool(one.get("error")) for one in answers] == [False, False, True, True, True, False]
    assert all(one["program"] == [] for one in answers[2:])
    assert all(one["ms"] >= 0 for one in answers)
    assert "3 lines could not be planned" in told.err
    assert kernel.connections == 1
    assert not any(call.execute for call in kernel.asked)


def test_lines_from_the_standard_input(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    kernel.plans["x"] = [KILL]
    given = io.TextIOWrapper(io.BytesIO(b'{"id": 1, "intent": "x"}'))
    monkeypatch.setattr("sys.stdin", given)
    assert command(kernel, "intent", "--plan", "--jsonl", "-") == 0
    assert json.loads(capsys.readouterr().out)["id"] == 1


def test_lines_without_a_mind_fail_at_once(
    kernel: FakeKernel, tmp_path: Path, capsys: Captured
) -> None:
    kernel.plans["x"] = ENODEV("no model understands intents")
    (tmp_path / "in").write_text('{"id": 1, "intent": "x"}\n' * 3)
    assert command(kernel, "intent", "--plan", "--jsonl", str(tmp_path / "in")) == 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [[], ["--jsonl", "f"], ["--plan", "--jsonl", "f", "x"], ["--plan", "--jsonl", "/no"]]
)
def test_a_wrong_command_line(words: list[str], kernel: FakeKernel) -> None:
    assert command(kernel, "intent", *words) == 2
    assert kernel.asked == []


# --- how calls are shown


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"target": "ada", "nice": -5}, "c.d target=ada nice=-5"),
        ({"target": "7"}, 'c.d target="7"'),
        ({"target": 7}, "c.d target=7"),
        ({"body": "a\nb\x1b[2J"}, r'c.d body="a\nb\u001b[2J"'),
        ({"body": "x\u202ey"}, r'c.d body="x\u202ey"'),
        ({"body": "喜欢简洁"}, "c.d body=喜欢简洁"),
        ({"args": {"a": [1]}}, 'c.d args={"a":[1]}'),
        ({}, "c.d"),
    ],
)
def test_a_call_on_one_line(args: dict[str, Any], text: str) -> None:
    assert call_text("c.d", args) == text


def test_long_arguments_are_cut_but_not_where_something_is_destroyed() -> None:
    assert "(5002 characters)" in call_text("c.d", {"q": "x " * 2500})
    assert len(call_text("c.d", {"q": "x " * 2500}, whole=True)) > 5000


def test_what_the_results_do_not_say_is_kept() -> None:
    steps = [ok(WRITE, {"hits": ["Tickets cost eight euros"]})]
    assert unsaid("Found 1 record:\n  - tickets cost eight euros", steps) == "Found 1 record:"
    assert unsaid("  - something new", steps) == "  - something new"
    assert unsaid("eight euros", steps) == "eight euros"
