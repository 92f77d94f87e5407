"""The commands, one module a group. ``userland/commands.py`` is their table."""
