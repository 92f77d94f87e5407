"""The ABI of EngramOS: structs, errors, wire format, schema. Pure data, no I/O."""

from syscalls import calls
from syscalls.table import TABLE, Call, Entry

__all__ = ["TABLE", "Call", "Entry", "calls"]
