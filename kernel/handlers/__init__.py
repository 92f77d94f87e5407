"""The served calls. Importing this fills ``kernel.trap.HANDLERS``."""

from kernel.handlers import ipc, llm, mem, proc, sys

__all__ = ["ipc", "llm", "mem", "proc", "sys"]
