"""The served calls. Importing this fills ``kernel.trap.HANDLERS``."""

from kernel.handlers import (
    capsule,
    consolidate,
    ipc,
    kv,
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
    "consolidate",
    "ipc",
    "kv",
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
