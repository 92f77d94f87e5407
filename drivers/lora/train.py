"""The process that trains one adapter: ``python -m drivers.lora.train FOLDER --parent PID``.

It reads ``FOLDER/spec.json`` and writes one line of JSON to standard output for each event.

It never outlives its parent: the operating system kills it when the thread that started it ends,
and it exits when its standard input is closed. TERM makes it write a checkpoint and end. It is
nice, and what it allocates is bounded. Without ``--parent`` a person runs it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.contract import Failure, Line, TrainSpec
from drivers.lora.job import Job
from drivers.lora.memory import bound, exceeded, ran_out
from syscalls.errors import EINVAL, EIO, EngramError

if TYPE_CHECKING:
    from collections.abc import Callable

NICE = 10
ORPHANED = 3
"""Exit status when the parent is gone."""
PR_SET_PDEATHSIG = 1

log = logging.getLogger("train")


def _tie(parent: int) -> None:
    """End with ``parent``: by its death signal, and by the end of standard input."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(ORPHANED)  # it died before the line above

    def watch() -> None:
        while os.read(0, 4096):
            continue
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _outlet() -> Callable[[Line], None]:
    """Writes lines to standard output, which nothing else reaches any more."""
    out = os.dup(1)
    os.dup2(2, 1)
    encoder = msgspec.json.Encoder()

    def write(line: Line) -> None:
        data = encoder.encode(line) + b"\n"
        while data:
            data = data[os.write(out, data) :]

    return write


def _failure(error: BaseException, spec: TrainSpec | None) -> EngramError:
    """What went wrong, as an error that the kernel can pass on."""
    if isinstance(error, EngramError):
        return error
    if spec is not None and ran_out(error):
        return exceeded(spec.most_bytes)
    if isinstance(error, OSError):
        return EIO(f"training: {error}", driver="lora", retryable=True)
    return EIO(f"training failed: {error!r}", driver="lora", retryable=False)


def main() -> int:
    """Train what a folder asks for; 0 when there is a report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="end with this process")
    options = parser.parse_args()
    write = _outlet()
    if options.parent:
        _tie(options.parent)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    os.nice(NICE)
    spec: TrainSpec | None = None
    try:
        try:
            spec = msgspec.json.decode((options.folder / "spec.json").read_bytes(), type=TrainSpec)
        except msgspec.DecodeError as error:
            raise EINVAL(f"the training spec is wrong: {error}") from error
        job = Job(options.folder, spec, write, ready=partial(bound, spec.most_bytes))
        signal.signal(signal.SIGTERM, lambda *_: setattr(job, "stopping", True))
        write(job.run())
    except Exception as error:
        if not isinstance(error, EngramError):
            log.exception("training failed")
        told = _failure(error, spec)
        write(Failure(told.number, told.to_value()))
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # no finalisers: threads of libraries may still run
