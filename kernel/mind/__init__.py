"""The mind: a person's words become syscalls, made with that person's rights.

    words -> dialect (prompt, grammar of what the caller may do) -> model -> program
          -> each call through the trap, as the caller -> what came of it -> next step or reply

The mind is policy. It holds no right of its own, and nothing of the kernel waits for it: with
no model at all every call but ``llm.*`` is the same.
"""
