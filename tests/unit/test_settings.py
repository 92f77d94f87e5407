"""Settings: order of the sources, validation, documentation."""

from pathlib import Path

import msgspec
import pytest

from kernel.settings import Settings, described, load, settings_page
from syscalls.errors import EINVAL

DOCS = Path(__file__).parents[2] / "docs"


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    (tmp_path / "engram.toml").write_text("grace = 1.5\nmailbox = 7\nmodel = 'from-file'\n")
    environment = {"ENGRAM_MAILBOX": "8", "ENGRAM_MODEL": "from-env", "HOME": "/nowhere"}
    settings = load(["--data", str(tmp_path), "--model", "from-flag"], environment)
    assert settings.grace == 1.5
    assert settings.mailbox == 8
    assert settings.model == "from-flag"
    assert settings.data == str(tmp_path)


def test_a_named_file_is_read_and_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mailbox = 3")
    environment = {"ENGRAM_DATA": str(tmp_path), "ENGRAM_CONFIG": str(file)}
    assert load([], environment).mailbox == 3
    with pytest.raises(EINVAL, match="cannot read"):
        load(["--config", str(tmp_path / "absent.toml")], environment)
    file.write_text("mailbox = [")
    with pytest.raises(EINVAL, match="not TOML"):
        load([], environment)


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--mailbox", "0"], {}, "mailbox from flag"),
        (["--mailbox", "many"], {}, "mailbox from flag"),
        ([], {"ENGRAM_GRACE": "-1"}, "grace from environment"),
        (["--engine", "magic"], {}, "engine from flag"),
        (["--agent-memory", "5"], {}, "agent_memory from flag"),
    ],
)
def test_a_bad_value_is_named_with_its_source(
    flags: list[str], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(EINVAL, match=words):
        load(flags, {"HOME": "/nowhere", **environment})


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engram.toml").write_text("mailbocks = 7")
    with pytest.raises(EINVAL, match="mailbocks"):
        load(["--data", str(tmp_path)], {})
    (tmp_path / "engram.toml").write_text("mailbox = '7'")
    with pytest.raises(EINVAL, match="mailbox from file"):
        load(["--data", str(tmp_path)], {})


def test_every_setting_is_documented() -> None:
    names = [field.name for field in msgspec.structs.fields(Settings)]
    assert [name for name, _, _ in described()] == names
    assert all(meaning for _, _, meaning in described())


def test_the_page_of_settings_is_fresh() -> None:
    written = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert written == settings_page(), "run `.venv/bin/python -m kernel.settings docs`"
