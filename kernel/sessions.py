"""Sessions: shells and other clients that attach over the kernel's socket.

Who may attach is decided by the peer's credentials, which the operating system vouches for:
the same user as the kernel's (or root), and not a process that the kernel itself started.
An agent has its descriptor; if the socket let it in, it could shed its capabilities there.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import trio

from kernel.connection import Connection
from procs.process import Born
from syscalls.capability import ALL, compiled
from syscalls.shapes import SessionInfo

if TYPE_CHECKING:
    from pathlib import Path

    from kernel.kernel import Kernel
    from procs.process import Process

SOCKET = "kernel.sock"
LONGEST_PATH = 107
BACKLOG = 512


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


class Sessions:
    """The attached sessions."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._peers: dict[int, Peer] = {}

    def info(self, process: Process) -> SessionInfo:
        """One session as it is shown."""
        peer = self._peers[process.apid]
        return SessionInfo(
            session=process.apid,
            name=process.name,
            uid=peer.uid,
            pid=peer.pid,
            space=process.space,
            started=process.created,
            attached=True,
            jobs=[job.apid for job in self._kernel.processes.children(process.apid)],
        )

    def list(self) -> list[SessionInfo]:
        """All sessions, in order."""
        live = self._kernel.processes.live()
        return [self.info(process) for process in live if process.apid in self._peers]

    async def serve(self, listener: socket.socket) -> None:
        """Accept and serve sessions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
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
            sock.close()
            return
        process = kernel.processes.create(
            kernel.init,
            Born(
                name=f"session-{peer.pid}",
                kind="session",
                caps=compiled(frozenset({ALL})),
                quota=kernel.default_quota,
            ),
        )
        process.pid = peer.pid
        kernel.processes.started(process)
        self._peers[process.apid] = peer
        connection = Connection(kernel, process, sock)
        kernel.connections[process.apid] = connection
        kernel.log("debug", "sessions", f"session {process.apid} attached by pid {peer.pid}")
        try:
            await connection.serve()
        finally:
            with trio.CancelScope(shield=True):
                await kernel.ended(process, status=0, reason="detached")
            del self._peers[process.apid]
            kernel.log("debug", "sessions", f"session {process.apid} detached")

    def _refusal(self, peer: Peer) -> str:
        if peer.uid not in (os.geteuid(), 0):
            return f"user {peer.uid} is not the kernel's user"
        if self._kernel.machine.spawner.owns(peer.pid):
            return "an agent uses the descriptor it was given"
        return ""
