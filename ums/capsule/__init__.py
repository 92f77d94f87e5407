"""Capsules: a space as a file, out and in again. The format is ``syscalls.capsule``.

redact    which records an export leaves out, and why
outbound  Export: the bytes of a capsule, streamed
adopt     how a record of elsewhere becomes one of a space
inbound   Intake: a capsule checked as a whole, then taken page by page
desk      Capsules: the face of it all
"""
