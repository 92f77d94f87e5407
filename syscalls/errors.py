"""Errors, grouped by whose fault they are; each has a code, a number and a class.

The classes carry the names of their codes (``except EPERM:``), because the code is what
a person reads in a trace, a log and the manual. Every error says what happened
(``message``), what to do about it (``hint``) and the particulars (``detail``).

    EngramError
      CallerFault    the call was wrong: mend it, the same call fails again
      LoadFault      the call was fine, the system is busy: try again later
      MachineFault   a device or driver failed or is absent
      KernelFault    a bug of ours: report it
"""

from typing import Any, ClassVar

import msgspec


class ErrorValue(msgspec.Struct, omit_defaults=True):
    """An error as it crosses the wire (the value of a reply whose code is positive)."""

    name: str
    message: str
    hint: str = ""
    detail: dict[str, Any] = {}


class EngramError(Exception):
    """Base of every error a syscall can answer with."""

    number: ClassVar[int] = 0
    fault: ClassVar[str] = ""
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.detail: dict[str, Any] = detail

    @property
    def code(self) -> str:
        """The code's name, such as ``EPERM``; a more special class has its base's."""
        return ERRORS[self.number].__name__

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text

    def to_value(self) -> ErrorValue:
        """The error as the struct that goes on the wire."""
        return ErrorValue(self.code, self.message, self.hint, self.detail)


class CallerFault(EngramError):
    """The caller's fault: the same call will fail again until it is changed."""

    fault = "caller"


class LoadFault(EngramError):
    """Nobody's fault: the system is loaded or the time ran out; trying again can help."""

    fault = "load"


class MachineFault(EngramError):
    """A driver, a device or the disk failed or is absent."""

    fault = "machine"


class KernelFault(EngramError):
    """A bug in the kernel."""

    fault = "ours"


class EPERM(CallerFault):
    """The caller lacks the capability for this call on this object."""

    number = 1
    default_hint = "ask the owner to share it, or the parent to grant the capability"


class ENOENT(CallerFault):
    """No such record, space, program, session or topic."""

    number = 2


class ESRCH(CallerFault):
    """No such process."""

    number = 3
    default_hint = "`engram ps` lists the processes"


class EEXIST(CallerFault):
    """Something of that name is there already."""

    number = 17


class EINVAL(CallerFault):
    """An argument is wrong: type, range, unknown field or unknown call."""

    number = 22


class ENOSYS(CallerFault):
    """The call is declared but this kernel does not serve it."""

    number = 38
    default_hint = "docs/syscalls.md lists the calls that this kernel serves"


class ECONFLICT(CallerFault):
    """The record changed since it was read, or a name fits several objects."""

    number = 84
    default_hint = "read it again and repeat the call with what you find"


class EAGAIN(LoadFault):
    """A queue is full. ``detail["retry_after"]`` is in seconds."""

    number = 11
    default_hint = "try again after detail.retry_after seconds"

    @property
    def retry_after(self) -> float:
        """Seconds to wait before the next try."""
        return float(self.detail.get("retry_after", 0.1))


class EBUSY(LoadFault):
    """The object is in use and cannot be had now."""

    number = 16


class ETIME(LoadFault):
    """The deadline passed. ``detail`` says what was already done, where that matters."""

    number = 62
    default_hint = "allow more time, or ask for less"


class EDQUOT(LoadFault):
    """A quota is used up. ``detail`` says which one, its limit and what is used."""

    number = 122
    default_hint = "free something, or ask the parent to raise the limit"


class ECANCELED(LoadFault):
    """The call was cancelled by its caller, a signal or the shutdown."""

    number = 125


class EIO(MachineFault):
    """A driver failed. ``detail["driver"]`` names it."""

    number = 5
    default_hint = "`engram dmesg` has the driver's own words"


class ENODEV(MachineFault):
    """No such device is attached (no model, no embedder)."""

    number = 19


class EKERNEL(KernelFault):
    """A bug in the kernel; the log has the traceback."""

    number = 255
    default_hint = "a bug in EngramOS: please report it with the output of `engram dmesg`"


FAULTS: tuple[type[EngramError], ...] = (CallerFault, LoadFault, MachineFault, KernelFault)

ERRORS: dict[int, type[EngramError]] = {
    error.number: error for fault in FAULTS for error in fault.__subclasses__()
}
"""Every error by its number; the numbers are on the wire and never change."""


def from_value(number: int, value: ErrorValue) -> EngramError:
    """The exception for an error reply; an unknown number becomes ``EKERNEL``."""
    error = ERRORS.get(number, EKERNEL)
    return error(value.message, hint=value.hint, **value.detail)
