"""What is kept of processes on disk: those that live, and the last ones that did.

procs  "a" + apid (8 bytes)   a process that was alive when this was written
       "p" + apid (8 bytes)   one of the past, with its exit; the oldest are dropped

What outlives processes is beside them: "r", "s" and "t", see ``kernel/supervision/identities.py``.
"""

from collections import deque

import msgspec

from drivers.contracts import Batch, Bucket, Store
from procs.links import LOST
from procs.process import Process, ProcessRecord
from syscalls.shapes import Cause, Exit

ALIVE, PAST, AFTER = b"a", b"p", b"q"
KILLED = 137
REMEMBERED = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ProcessRecord).decode


class History:
    """Records of processes, as batches for the kernel to commit; and what was kept."""

    def __init__(self, store: Store, remembered: int = REMEMBERED) -> None:
        """``remembered`` is how many processes of the past are kept."""
        self._store = store
        self._remembered = remembered
        self._past: deque[int] = deque()

    def __len__(self) -> int:
        """How many processes of the past are remembered."""
        return len(self._past)

    async def open(self, now: float) -> list[Exit]:
        """Read what is there; who was alive then ended with the kernel. Returns their exits."""
        lost = [_decode(value) for _, value in self._store.scan("procs", ALIVE, PAST)]
        puts: list[tuple[Bucket, bytes, bytes]] = []
        deletes: list[tuple[Bucket, bytes]] = []
        exits = []
        for record in lost:
            cause = Cause("lost", LOST)
            record.exit = Exit(record.apid, KILLED, LOST, ended=now, cause=cause)
            exits.append(record.exit)
            puts.append(("procs", _key(PAST, record.apid), _encode(record)))
            deletes.append(("procs", _key(ALIVE, record.apid)))
        known = {int.from_bytes(key[1:], "big") for key, _ in self._scan_past()}
        self._past = deque(sorted(known.union(record.apid for record in lost)))
        deletes += self._prune()
        if puts or deletes:
            await self._store.commit(Batch(deletes=deletes, puts=puts))
        return exits

    def record(self, process: Process, ended: Exit | None = None) -> Batch:
        """What puts a process on disk: alive, or past when it has ended (or will, as said)."""
        record = process.record()
        record.exit = ended or record.exit
        alive = _key(ALIVE, process.apid)
        if record.exit is None:
            return Batch(puts=[("procs", alive, _encode(record))])
        if process.apid not in self._past:
            self._past.append(process.apid)
        return Batch(
            deletes=[("procs", alive), *self._prune()],
            puts=[("procs", _key(PAST, process.apid), _encode(record))],
        )

    def erase(self, apid: int) -> Batch:
        """What takes a process off the disk that never ran."""
        return Batch(deletes=[("procs", _key(ALIVE, apid))])

    def past(self) -> list[ProcessRecord]:
        """Processes that have ended, in the order of their APIDs."""
        return [_decode(value) for _, value in self._scan_past()]

    def exit_of(self, apid: int) -> Exit | None:
        """How a process of the past ended; None when it is not remembered."""
        record = self.record_of(apid)
        return None if record is None else record.exit

    def record_of(self, apid: int) -> ProcessRecord | None:
        """A process of the past; None when it is not remembered."""
        value = self._store.get("procs", _key(PAST, apid)) if 0 < apid < 1 << 64 else None
        return None if value is None else _decode(value)

    def _scan_past(self) -> list[tuple[bytes, bytes]]:
        return self._store.scan("procs", PAST, AFTER)

    def _prune(self) -> list[tuple[Bucket, bytes]]:
        surplus = max(0, len(self._past) - self._remembered)
        return [("procs", _key(PAST, self._past.popleft())) for _ in range(surplus)]


def _key(kind: bytes, apid: int) -> bytes:
    return kind + apid.to_bytes(8, "big")
