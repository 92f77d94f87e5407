"""Every syscall, by group. Importing this fills the table."""

from syscalls.calls import (
    capsule,
    ipc,
    kv,
    learn,
    life,
    llm,
    lora,
    mem,
    proc,
    supervise,
    sys,
    tool,
    tree,
)

__all__ = [
    "capsule",
    "ipc",
    "kv",
    "learn",
    "life",
    "llm",
    "lora",
    "mem",
    "proc",
    "supervise",
    "sys",
    "tool",
    "tree",
]
