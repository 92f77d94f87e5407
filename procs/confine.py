"""Confinement: what an agent's process cannot reach, whatever program it runs.

Two mechanisms of Linux, taken where the machine offers them; ``summary`` says which.

The kernel's data directory is put out of sight:

  namespace   (CAP_SYS_ADMIN) the zygote leaves the mount namespace and mounts an empty,
              read-only file system over the directory. Nothing else changes.
  allow-list  (otherwise, with Landlock) a ruleset that allows everything but the
              directory. Landlock cannot say "all but this", so each sibling along the path
              is allowed one by one:

                  /            home/     <- not allowed itself, its other entries are
                  bin  etc ... home/me   <- the same
                               home/me/.engram        the data directory: no rule, no access

              Its price: a file made *later*, directly in one of these directories, cannot
              be opened by agents that run already. A new agent gets a new list.

Landlock (all ABIs) also keeps agents from mounting and from tracing or reading the memory
of any process that is not their own descendant; ABI 6 adds signals and abstract sockets.
Each agent restricts itself, so that they are closed to each other as well.

Numbers and structs: include/uapi/linux/landlock.h.
"""

import ctypes
import os
import stat
import struct

from procs.linux import PR_SET_NO_NEW_PRIVS, checked, libc, prctl

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE = 1 << 0, 1 << 1, 1 << 2
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
REFER, TRUNCATE = 1 << 13, 1 << 14
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_SLAVE = 0x4000, 0x80000


def landlock_abi() -> int:
    """The version of Landlock that this machine's kernel speaks; 0 for none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def rights(abi: int) -> int:
    """The file system rights that rulesets of ours handle, of those that the ABI has."""
    wanted = EXECUTE | WRITE_FILE | READ_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_CHAR | MAKE_BLOCK
    return wanted | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)


def hide(directory: str) -> bool:
    """Cover a directory for this process and those it will fork; False where not allowed."""
    try:
        checked(libc.unshare(CLONE_NEWNS))
        # Without this a shared mount would carry the cover back to everybody. As a slave the
        # namespace still sees what is mounted and unmounted outside later.
        checked(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None))
        flags = ctypes.c_ulong(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        cover = os.fsencode(directory)
        checked(libc.mount(b"tmpfs", cover, b"tmpfs", flags, b"size=4k,mode=000"))
    except OSError:
        return False
    return True


def siblings(directory: str) -> list[str]:
    """Every entry beside the path from the root to a directory: together, all but it."""
    found: list[str] = []
    at = "/"
    for part in directory.strip("/").split("/"):
        try:
            with os.scandir(at) as entries:
                # A symbolic link is no place of its own: where it leads decides.
                found += [e.path for e in entries if e.name != part and not e.is_symlink()]
        except PermissionError:
            pass  # what we may not list, nor open by guessing: nothing to allow
        at = os.path.join(at, part)
    return found


class Confinement:
    """Prepared once in the zygote; each child calls ``restrict``."""

    def __init__(self, private: str = "") -> None:
        """``private`` is an existing directory to put out of reach; empty for none."""
        self._private = os.path.realpath(private) if private else ""
        self._abi = landlock_abi()
        self._hidden = bool(private) and hide(self._private)
        self._stamp: tuple[int, ...] = ()
        self._ruleset = -1
        self.refresh()

    @property
    def summary(self) -> str:
        """One line for people: what is in force on this machine."""
        if not self._private:
            files = "data directory not protected (none was named)"
        elif self._hidden:
            files = "data directory hidden (mount namespace)"
        elif self._abi:
            files = "data directory denied (Landlock)"
        else:
            files = "data directory protected by file permissions only"
        if not self._abi:
            return f"{files}; no Landlock: agents of one user can signal each other"
        scope = "memory, signals and abstract sockets" if self._abi >= 6 else "memory"
        return f"{files}; Landlock ABI {self._abi} keeps other processes' {scope} out of reach"

    def refresh(self) -> None:
        """Make the ruleset, or make it again when a directory that it lists has changed."""
        if not self._abi:
            return
        listing = bool(self._private) and not self._hidden
        stamp = self._stamps() if listing else (0,)
        if stamp == self._stamp:
            return
        ruleset = self._create(siblings(self._private) if listing else [])
        if self._ruleset >= 0:
            os.close(self._ruleset)
        self._ruleset, self._stamp = ruleset, stamp

    def restrict(self) -> None:
        """Confine the calling thread, and what it will fork or execute, for good.

        Sets no-new-privileges, which Landlock asks for, in any case. Raises OSError.
        """
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self._ruleset >= 0:
            checked(libc.syscall(RESTRICT_SELF, self._ruleset, 0))

    def _stamps(self) -> tuple[int, ...]:
        path, stamps = self._private, []
        while path != "/":
            path = os.path.dirname(path)
            stamps.append(os.stat(path).st_mtime_ns)
        return tuple(stamps)

    def _create(self, allowed: list[str]) -> int:
        """A ruleset: with ``allowed`` a list of what may be reached, else about devices only."""
        handled = rights(self._abi)
        if not allowed:
            handled &= MAKE_CHAR | MAKE_BLOCK | REFER
        scoped = SCOPE_SIGNAL | SCOPE_ABSTRACT_UNIX_SOCKET if self._abi >= 6 else 0
        size = 24 if self._abi >= 6 else 16 if self._abi >= 4 else 8
        attributes = struct.pack("=QQQ", handled, 0, scoped)
        ruleset = checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
        devices = MAKE_CHAR | MAKE_BLOCK
        for path in allowed or ["/"]:
            self._allow(ruleset, path, handled if allowed else handled & ~devices)
        return ruleset

    def _allow(self, ruleset: int, path: str, access: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return  # gone since it was listed, or not ours to open
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                access &= ON_FILES
            if access:
                rule = struct.pack("=Qi", access, fd)
                checked(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0))
        finally:
            os.close(fd)
