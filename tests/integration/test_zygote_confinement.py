"""Confinement: agents reach neither the kernel, its data, the zygote, nor each other."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from procs import confine
from procs.confine import Confinement, landlock_abi, siblings
from tests.agents.kit import launch, launcher

HOME_RUN = "tests.agents.listed_runtime"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "made-before-the-agent").write_text("free")
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "data.mdb").write_text("secret")
    yield directory
    assert (directory / "data.mdb").read_text() == "secret"


async def prowl(data: Path, runtime: str) -> tuple[dict[str, Any], str]:
    async with launcher(str(data), runtime) as made:
        victim = await launch(made, "linger")
        await victim.heard()
        cwd = data.parent / "work"
        cwd.mkdir()
        arguments = (str(os.getpid()), str(data), str(victim.child.pid))
        agent = await launch(made, "prowl", *arguments, cwd=str(cwd))
        found = await agent.heard()
        await agent.ended()

        # What is executed is confined as well, by the same rules.
        script = f"cat {data}/data.mdb; kill -CONT {os.getpid()} || echo refused"
        foreign = await launch(made, "/bin/sh", "-c", script)
        _, printed = await foreign.ended()
        assert "secret" not in printed
        if landlock_abi() >= 6:
            assert "refused" in printed
        await victim.close()
        return found, made.statistics().confinement


@pytest.mark.parametrize("runtime", ["tests.agents.tests_runtime", HOME_RUN])
async def test_what_an_agent_cannot_do(data: Path, runtime: str) -> None:
    abi = landlock_abi()
    if not abi:
        pytest.skip("this machine's kernel has no Landlock")
    found, summary = await prowl(data, runtime)
    assert f"Landlock ABI {abi}" in summary
    if runtime == HOME_RUN:
        assert "denied" in summary
    for attempt in ("read data", "write data", "remove data", "rename data"):
        assert found[attempt] in ("PermissionError", "FileNotFoundError", "OSError"), attempt
    for attempt in ("kernel memory", "other memory", "zygote memory", "kernel root"):
        assert found[attempt] == "PermissionError", attempt
    if abi >= 6:
        for attempt in ("signal kernel", "signal other", "signal zygote"):
            assert found[attempt] == "PermissionError", attempt
    for attempt in ("signal itself", "read a sibling", "write to tmp", "run a program"):
        assert found[attempt] == "done", attempt


async def test_without_landlock_it_says_so_and_runs(data: Path) -> None:
    async with launcher(str(data), "tests.agents.bare_runtime") as made:
        agent = await launch(made, "status", "0")
        assert (await agent.ended())[0].status == 0
        assert "file permissions only; no Landlock" in made.statistics().confinement


def test_siblings_are_everything_but_the_path(tmp_path: Path) -> None:
    data = tmp_path / "a" / "b" / "data"
    data.mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "b" / "data-2").mkdir()
    (tmp_path / "a" / "link").symlink_to(data)
    found = siblings(str(data))
    assert {str(tmp_path / "a" / "file"), str(tmp_path / "a" / "b" / "data-2")} <= set(found)
    for path in (data, data.parent, tmp_path, tmp_path / "a" / "link"):
        assert str(path) not in found


def test_the_list_is_made_again_only_when_a_directory_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not landlock_abi():
        pytest.skip("this machine's kernel has no Landlock")
    monkeypatch.setattr(confine, "hide", lambda directory: False)
    made: list[int] = []
    create = Confinement._create

    def counted(self: Confinement, allowed: list[str]) -> int:
        made.append(1)
        return create(self, allowed)

    # The directories above are everybody's: others change them while this runs.
    parent = data.parent
    monkeypatch.setattr(Confinement, "_stamps", lambda self: (parent.stat().st_mtime_ns,))
    monkeypatch.setattr(Confinement, "_create", counted)
    before = set(os.listdir("/proc/self/fd"))
    confinement = Confinement(str(data))
    confinement.refresh()
    (data.parent / "new").touch()
    confinement.refresh()
    confinement.refresh()
    assert len(made) == 2
    os.close(confinement._ruleset)
    assert set(os.listdir("/proc/self/fd")) == before
