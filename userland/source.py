"""The file of a program, as it is read where all agents are started: that must not wait for one
that is a pipe, nor take in one that has no end."""

import os
import stat
from pathlib import Path

from syscalls.errors import EINVAL, ENOENT, EPERM


def contents(path: Path, most: int) -> bytes:
    """All of a file of at most ``most`` bytes. Raises ENOENT, EPERM, EINVAL."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise EPERM(f"{path} may not be read", hint="check the file's rights") from error
    except OSError as error:
        raise ENOENT(f"{path} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise EINVAL(f"{path} is not a file that can be run")
        with os.fdopen(number, "rb", closefd=False) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ENOENT(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(number)
    if len(data) > most:
        raise EINVAL(f"{path} is longer than {most} bytes")
    return data
