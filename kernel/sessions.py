"""Sessions: shells and other clients that attach over the kernel's socket.

Who may attach is decided by the peer's credentials, which the operating system vouches for:
the same user as the kernel's (or root), and not a process that the kernel itself started.
An agent has its descriptor; if the socket let it in, it could shed its capabilities there.

    attached ── connection closes ──> ended
       │  ^
     keep └───────── attach ──────────┐
       v                              │
    attached, kept ── closes ──> detached ── told, or long without a job ──> ended

A session that is kept is a process without a connection meanwhile: what it started goes on as
its children, its mailbox fills, and nobody else gets its name.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import msgspec
import trio

from kernel.connection import Connection
from procs.process import Born
from syscalls import wire
from syscalls.calls import sys
from syscalls.capability import ALL, compiled
from syscalls.errors import EBUSY, EEXIST, EINVAL, EPERM, ESRCH
from syscalls.shapes import JobInfo, SessionInfo

if TYPE_CHECKING:
    from pathlib import Path

    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import Signal

SOCKET = "kernel.sock"
LONGEST_PATH = 107
BACKLOG = 512
HEARING = 1.0
"""Seconds in which who is refused may ask, so that he is told why."""
HEARD = 16
"""Those who are told at once; where there are more, they are not."""
HEARD_BYTES = 1 << 16
OWNER = "run the command as the user who started the kernel"


def listen(folder: Path) -> socket.socket:
    """The listening socket ``kernel.sock`` in ``folder``, for its owner alone."""
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        if len(os.fsencode(path)) <= LONGEST_PATH:
            listener.bind(os.fspath(path))
        else:  # a longer path than an address holds: name the folder by its descriptor
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
            finally:
                os.close(descriptor)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Peer:
    """Who is at the other end of a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, _gid = struct.unpack("3i", packed)


class Kept(msgspec.Struct):
    """What is kept of a session that outlives its connection."""

    detached: float = 0.0
    """When its connection closed; 0 while it has one."""
    idle: float = 0.0
    """When it was last seen with a job, by the monotonic clock."""
    shown: dict[int, int] = {}
    """By job the end of its output at that time."""


class Sessions:
    """The sessions: attached, and kept."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._peers: dict[int, Peer] = {}
        self._kept: dict[int, Kept] = {}
        self._refusing = 0

    def info(self, process: Process) -> SessionInfo:
        """One session as it is shown."""
        peer, kept = self._peers[process.apid], self._kept.get(process.apid)
        return SessionInfo(
            session=process.apid,
            name=process.name,
            uid=peer.uid,
            pid=process.pid,
            space=process.space,
            started=process.created,
            attached=process.apid in self._kernel.connections,
            jobs=[job.apid for job in self._kernel.processes.children(process.apid)],
            detached=kept.detached if kept else 0.0,
        )

    def list(self) -> list[SessionInfo]:
        """All sessions, in order."""
        live = self._kernel.processes.live()
        return [self.info(process) for process in live if process.apid in self._peers]

    def signal(self, process: Process, name: Signal) -> None:
        """A session is no child of ours: what ends it is closing its connection."""
        connection = self._kernel.connections.get(process.apid)
        if name in ("TERM", "KILL"):
            self._end(process)
        elif name == "INT" and connection is not None:
            connection.cancel_calls(name)

    # --- kept ones

    def keep(self, process: Process, *, on: bool) -> None:
        """Have a session outlive its connection, or not. Raises EINVAL, EEXIST."""
        if not on:
            self._kept.pop(process.apid, None)
            return
        self.free(process, process.name)
        if process.apid not in self._peers:
            raise EINVAL("this session has not come over the kernel's socket")
        self._kept.setdefault(process.apid, Kept())

    def free(self, process: Process, name: str) -> None:
        """Raises EEXIST where another kept session has this name already."""
        for apid in self._kept:
            other = self._kernel.processes.get(apid)
            if other is not process and other.name == name:
                raise EEXIST(
                    f"there is a session {name!r} already: {apid}", hint=f"engram attach {name}"
                )

    def is_kept(self, process: Process) -> bool:
        """Whether a session outlives its connection."""
        return process.apid in self._kept

    def attach(self, caller: Process, call: sys.Attach) -> sys.Attached:
        """Give the caller's connection to a kept session; the caller's own session ends.

        Raises ESRCH, EPERM, EINVAL, EBUSY.
        """
        kernel = self._kernel
        connection = kernel.connections[caller.apid]
        process = self._kept_by(caller, call.session)
        kept = self._kept[process.apid]
        if process is caller:
            raise EINVAL(f"this is session {process.apid} itself")
        if caller.children or connection.inflight or self.is_kept(caller):
            raise EBUSY(f"session {caller.apid} is in use", hint="attach from a new one")
        if (other := kernel.connections.get(process.apid)) is not None:
            if not call.take:
                pid = process.pid
                raise EBUSY(
                    f"session {process.name!r} is attached to pid {pid}",
                    hint=f"engram attach --take {process.name}",
                    pid=pid,
                )
            self._mark(process)
            kernel.connections.pop(process.apid)
            other.close()
        del kernel.connections[caller.apid]
        kernel.connections[process.apid] = connection
        connection.process = process
        self._peers[process.apid] = self._peers.pop(caller.apid)
        process.pid = caller.pid
        kernel.start_soon(self._left, caller)
        kernel.log("debug", "sessions", f"session {process.apid} attached by pid {process.pid}")
        kept.detached = 0.0
        return sys.Attached(session=self.info(process), jobs=_jobs(kernel, process, kept))

    def detach(self, caller: Process, call: sys.Detach) -> None:
        """Close a kept session's connection, after the reply where it is the caller's; or end
        the session with all its jobs. Raises ESRCH, EPERM, EINVAL."""
        kernel = self._kernel
        process = self._kept_by(caller, caller.apid if call.session is None else call.session)
        if call.end:
            for job in kernel.processes.descendants(process.apid)[::-1]:
                kernel.signals.send(job, "TERM", caller)
            self._kept.pop(process.apid)
        connection = kernel.connections.get(process.apid)
        if process is caller and connection is not None:
            connection.close_after_reply()
        elif call.end:
            self._end(process)
        elif connection is not None:
            connection.close()

    def _kept_by(self, caller: Process, ref: int | str) -> Process:
        """A kept session of the caller's user."""
        if caller.kind != "session" or caller.apid not in self._peers:
            raise EINVAL("only a session attaches to another, and detaches one")
        kernel = self._kernel
        named = [apid for apid in self._kept if kernel.processes.get(apid).name == ref]
        process = kernel.processes.get(named[0]) if named else kernel.processes.find(ref)
        if process.kind != "session" or not process.alive:
            raise ESRCH(f"there is no session {ref!r}", hint="engram sessions lists them")
        if self._peers[process.apid].uid != self._peers[caller.apid].uid:
            raise EPERM(f"session {process.apid} is another user's")
        if process.apid not in self._kept:
            raise EINVAL(
                f"session {process.apid} ends with its terminal",
                hint="engram shell --name NAME makes one that is kept",
            )
        return process

    def _mark(self, process: Process) -> None:
        """Remember how far the output of its jobs could be seen."""
        kernel, kept = self._kernel, self._kept[process.apid]
        kept.shown = {job: kernel.nurse.written(job) for job in process.children}

    def _detached(self, process: Process) -> None:
        kept = self._kept[process.apid]
        self._mark(process)
        kept.detached = self._kernel.clock.now()
        kept.idle = self._kernel.clock.monotonic()
        process.pid = 0

    def _end(self, process: Process) -> None:
        """End a session, attached or not."""
        self._kept.pop(process.apid, None)
        connection = self._kernel.connections.get(process.apid)
        if connection is not None:
            connection.close()
        elif self._peers.pop(process.apid, None) is not None:
            self._kernel.start_soon(self._left, process)

    async def expire(self) -> None:
        """End kept sessions that have been detached without a job for the time that is set."""
        kernel, most = self._kernel, self._kernel.settings.session_timeout
        while most:
            await trio.sleep(min(most / 4, 60.0))
            now = kernel.clock.monotonic()
            for apid, kept in [each for each in self._kept.items() if each[1].detached]:
                process = kernel.processes.get(apid)
                if kernel.processes.children(apid):
                    kept.idle = now
                elif now - kept.idle >= most:
                    kernel.log("info", "sessions", f"session {process.name!r} was long detached")
                    self._end(process)

    # --- connections

    async def serve(self, listener: socket.socket) -> None:
        """Accept and serve sessions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.expire)
                while True:
                    await trio.lowlevel.wait_readable(listener)
                    try:
                        sock, _address = listener.accept()
                    except BlockingIOError:
                        continue
                    except OSError as error:  # out of descriptors: those who wait must wait
                        self._kernel.log("error", "sessions", f"cannot accept: {error.strerror}")
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._session, sock)
        finally:
            trio.lowlevel.notify_closing(listener)
            listener.close()

    async def _session(self, sock: socket.socket) -> None:
        kernel = self._kernel
        peer = Peer(sock)
        refusal = self._refusal(peer)
        if refusal:
            kernel.log("warning", "sessions", f"pid {peer.pid} refused: {refusal}")
            await self._refuse(sock, refusal)
            return
        process = kernel.processes.create(
            kernel.init,
            Born(
                name=f"session-{peer.pid}",
                kind="session",
                caps=compiled(frozenset({ALL})),
                quota=kernel.accounts.default,
            ),
        )
        process.pid = peer.pid
        kernel.processes.started(process)
        self._peers[process.apid] = peer
        kernel.accounts.open(process, uid=peer.uid)
        connection = Connection(kernel, process, sock)
        kernel.connections[process.apid] = connection
        kernel.log("debug", "sessions", f"session {process.apid} attached by pid {peer.pid}")
        try:
            await connection.serve()
        finally:
            process = connection.process  # it may have attached to another session
            kernel.log("debug", "sessions", f"session {process.apid} detached")
            if kernel.connections.get(process.apid) is connection:
                if process.apid in self._kept:
                    del kernel.connections[process.apid]
                    self._detached(process)
                else:
                    with trio.CancelScope(shield=True):
                        await self._left(process)

    async def _refuse(self, sock: socket.socket, why: str) -> None:
        """Close a connection; its first call is answered with EPERM, if it comes soon."""
        self._refusing += 1
        try:
            with trio.move_on_after(HEARING if self._refusing <= HEARD else 0):
                sock.setblocking(False)
                await trio.lowlevel.wait_readable(sock)
                bodies = wire.Framer(HEARD_BYTES).feed(sock.recv(HEARD_BYTES))
                for request in map(wire.decode_request, bodies[:1]):
                    error = EPERM(f"this connection is refused: {why}", hint=OWNER)
                    sock.send(wire.frame((request.seq, error.number, error.to_value())))
        except (OSError, wire.FrameError) as error:
            self._kernel.log("debug", "sessions", f"who was refused does not hear it: {error}")
        finally:
            self._refusing -= 1
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def _left(self, process: Process) -> None:
        """A session has ended."""
        self._kept.pop(process.apid, None)
        self._peers.pop(process.apid, None)
        await self._kernel.ended(process, status=0, reason="detached")

    def _refusal(self, peer: Peer) -> str:
        if peer.uid not in (os.geteuid(), 0):
            return f"user {peer.uid} is not the kernel's user"
        if self._kernel.machine.spawner.owns(peer.pid):
            return "an agent uses the descriptor it was given"
        return ""


def _jobs(kernel: Kernel, process: Process, kept: Kept) -> list[JobInfo]:
    return [
        JobInfo(kernel.process_info(job, rss=False), kept.shown.get(job.apid, 0))
        for job in process.children.values()
    ]
