"""Every syscall, by group. Importing this fills the table."""

from syscalls.calls import ipc, kv, llm, lora, mem, proc, sys, tool

__all__ = ["ipc", "kv", "llm", "lora", "mem", "proc", "sys", "tool"]
