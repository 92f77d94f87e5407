"""Example agents: small programs to read, run and copy. `engram run echo` runs one by name."""
