"""The served calls. Importing this fills ``kernel.trap.HANDLERS``."""

from kernel.handlers import capsule, consolidate, ipc, life, llm, mem, proc, sys, tool

__all__ = ["capsule", "consolidate", "ipc", "life", "llm", "mem", "proc", "sys", "tool"]
