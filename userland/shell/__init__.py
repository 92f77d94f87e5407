"""The interactive shell: the commands of ``engram`` on one session, with job control."""
