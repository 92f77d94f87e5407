"""The kernel process: boot, trap, reference monitor, sessions, trace.

boot.py        the order in which everything starts and stops
settings.py    what can be set, and from where
machine.py     clock, randomness, storage and drivers, injected
kernel.py      the parts, in one place
sessions.py    shells attach here
connection.py  frames in, replies out, for one process
trap.py        number -> handler
monitor.py     who may do what to which object
handlers/      one function a call
nurse.py       starts processes and sees them to their end
output.py      what processes write to standard output
feed.py        a ring with followers: log.py (dmesg) and trace.py (strace)
"""
