"""Set EngramOS up in ``.venv``: what every ``make`` target does first.

Nearly always there is nothing to do, and this file finds that out in a few milliseconds: a
stamp in ``.venv`` holds the hash of all that decides what gets installed. If it does not
fit, ``installer.py`` does the work.

It must still *parse* on an old Python, to be able to say that it is too old.

    ENGRAM_VARIANT   cpu or cuda; chosen by what the machine has if unset
    TORCH_INDEX      a package index with CPU builds of torch, asked when the configured
                     indexes have none
"""

from __future__ import annotations

import hashlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DECIDING = ("pyproject.toml", "constraints.txt", "scripts/setup.py", "scripts/installer.py")


def key_of(root: str, env: Mapping[str, str]) -> str:
    """The hash of all that decides what gets installed."""
    digest = hashlib.sha256()
    for name in DECIDING:
        with open(os.path.join(root, name), "rb") as file:
            digest.update(file.read())
    folders = env.get("PATH", "").split(os.pathsep)
    hints = (
        os.path.exists("/dev/nvidiactl"),
        any(os.path.exists(os.path.join(folder, "nvidia-smi")) for folder in folders),
        env.get("ENGRAM_VARIANT"),
        env.get("TORCH_INDEX"),
    )
    digest.update(repr((root, sys.version_info[:2], hints)).encode())
    return digest.hexdigest()


def is_current(root: str, key: str) -> bool:
    """Whether the environment is complete for this key."""
    venv = os.path.join(root, ".venv")
    try:
        with open(os.path.join(venv, "setup.stamp"), encoding="utf-8") as file:
            stamped = file.readline().rstrip()
    except OSError:
        return False
    programs = (os.path.join(venv, "bin", name) for name in ("python", "engram"))
    return stamped == key and all(os.access(program, os.X_OK) for program in programs)


def main(root: str, env: Mapping[str, str]) -> int:
    """Set the checkout up if anything changed; the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036
        have = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(
            f"setup: EngramOS needs Python 3.11 or newer; {sys.executable} is {have}.\n"
            "Name another one: make PYTHON=python3.12 ...\n"
        )
        return 1
    key = key_of(root, env)
    if is_current(root, key):
        return 0
    sys.path.insert(0, root)
    from pathlib import Path

    from scripts.installer import install

    return install(Path(root), env, key)


if __name__ == "__main__":
    sys.exit(main(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.environ))
