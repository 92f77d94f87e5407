"""Init's file: what it may say, and where it says something wrong."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procs.inittab import Inittab, parse
from procs.supervisor import ChildSpec
from procs.tree import Tree
from syscalls.errors import EINVAL

FILE = """
intensity = 3

[[child]]
name = "scribe"
program = "scribe"
args = ["--fast"]
ready = "called"
quota = { mailbox = 50 }

[[child]]
name = "desk"
strategy = "rest_for_one"
period = 5

  [[child.child]]
  name = "librarian"
  program = "/srv/librarian.py"
  restart = "transient"
  shutdown = 0
  ready = 1.5
  patience = 10

  [[child.child]]
  name = "reader"
  program = "reader"

[[schedule]]
name = "tidy"
cron = "0 4 * * *"
to = "librarian"
body = { what = "tidy" }
"""


def read(text: str) -> Inittab:
    return parse(textwrap.dedent(text), "init.toml")


def test_a_file_is_groups_services_and_schedules() -> None:
    table = read(FILE)
    root, desk = table.groups
    assert (root.name, root.strategy, root.intensity, root.give_up) == (
        "init", "one_for_one", 3, "abandon",
    )  # fmt: skip
    assert [child.name for child in root.children] == ["scribe", "desk"]
    assert (desk.strategy, desk.period, desk.give_up) == ("rest_for_one", 5.0, "escalate")
    librarian = desk.children[0]
    assert isinstance(librarian, ChildSpec)
    assert (librarian.restart, librarian.shutdown, librarian.patience) == ("transient", 0.0, 11.5)
    assert list(table.services) == ["scribe", "librarian", "reader"]
    assert table.services["scribe"].quota is not None
    assert table.schedules[0].body == {"what": "tidy"}
    assert read("") == read("\n# nothing\n")


def test_what_is_equal_is_not_started_anew_and_what_differs_is() -> None:
    tree = Tree(read(FILE).groups, lambda: 0.0)
    deeds = tree.start()
    while deeds:
        deeds = [deed for one in deeds for deed in tree.ready(one.name)]
    assert tree.up
    assert tree.reconfigure(read(FILE).groups) == []
    changed = read(FILE.replace('program = "reader"', 'program = "writer"'))
    assert [deed.name for deed in tree.reconfigure(changed.groups)] == ["reader"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("child = [", "not TOML"),
        ("name = 'x'", "unknown field `name`"),
        ("strategy = 'one'", "strategy: Invalid enum value 'one'"),
        ("child = 3", "child: Expected `array`"),
        ("[[child]]\nprogram = 'x'", "child 1: Object missing required field `name`"),
        ("[[child]]\nname = 'a'", "child a is neither"),
        ("[[child]]\nname = 'a'\nprogram = 'x'\nstrategy = 'one_for_all'", "child a has a program"),
        ("[[child]]\nname = 'init'\nprogram = 'x'", "two of what is supervised are named 'init'"),
        ("[[child]]\nname = 'a/b'\nprogram = 'x'", "child 1 (a/b), name: Expected `str` matching"),
        ("[[child]]\nname = 'a'\nprogram = 'x'\nnice = 99", "child 1 (a), nice: Expected"),
        ("[[child]]\nname = 'a'\nprogram = 'x'\nready = 'soon'", "child 1 (a), ready"),
        ("[[child]]\nname = 'a'\nprogram = 'x'\nshutdown = -1", "child 1 (a), shutdown: Expected"),
        (
            "[[child]]\nname = 'a'\n[[child.child]]\nname = 'b'\nprogram = 'x'\nworld = 1",
            "child 1 (a), child 1 (b): Object contains unknown field `world`",
        ),
        (
            "[[child]]\nname = 'a'\nprogram = 'x'\n[[child]]\nname = 'a'\nprogram = 'y'",
            "two of what is supervised are named 'a'",
        ),
        ("[[schedule]]\nname = 's'\ncron = '* * * * *'", "schedule s has to have"),
        ("[[schedule]]\nname = 's'\ncron = '* *'\nto = 'x'", "schedule s: a schedule has five"),
        (
            "[[schedule]]\nname = 's'\ncron = '@daily'\nto = 'x'\nzone = 'Mars'",
            "schedule s: there is no time zone 'Mars'",
        ),
        (
            "[[schedule]]\nname = 's'\ncron = '@daily'\nto = 'x'\n" * 2,
            "two schedules have the same name",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(EINVAL) as caught:
        read(text)
    assert caught.value.message.startswith("init.toml")
    assert words in caught.value.message
    assert caught.value.detail["file"] == "init.toml"


TOML = st.text(alphabet="abcdefghijklmnopqrstuvwxyz[]=\"' \n.0123456789{},", max_size=80)


@settings(max_examples=200, deadline=None)
@given(TOML | TOML.map(lambda text: f"[[child]]\n{text}"))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text), Inittab)
    except EINVAL as error:
        assert error.message.startswith("init.toml")


def test_the_example_of_the_manual_is_a_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "supervision.md").read_text(encoding="utf-8")
    table = parse(page.partition("```toml")[2].partition("```")[0])
    assert list(table.services) == ["scribe", "librarian", "reader"]
    assert [schedule.name for schedule in table.schedules] == ["tidy"]
