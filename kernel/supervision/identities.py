"""What outlives processes that are started again and again: kept beside the process table.

procs  "s" + digest   an Identity: the mailbox of a supervised child, and how to start it
       "t" + mailbox (8 bytes) + number (8 bytes)   an Alert: a message to come
       "r" + digest   when a schedule last ran (a msgpack float)

A digest is of the name, which may be longer than a key. A mailbox's number is an APID that no
process has (``Mailboxes.keep``).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from drivers.contracts import Batch
from syscalls.calls import proc

if TYPE_CHECKING:
    from drivers.contracts import Store

IDENTITY, ALERT, SCHEDULE = b"s", b"t", b"r"
DIGEST = 16


class Identity(msgspec.Struct, frozen=True):
    """A supervised child across its processes."""

    name: str
    """Its name in the tree."""
    box: int
    """Number of its mailbox."""
    call: proc.Spawn | None = None
    """How one that a process spawned is started again, with the rights, limits and the space
    that it got; None for one of the file."""
    afresh: float = 0.0
    """When it last began afresh because the one before was done: older images are of no use."""


class Alert(msgspec.Struct, frozen=True):
    """A durable alarm."""

    box: int
    number: int
    at: float
    text: str


_identity = msgspec.msgpack.Decoder(Identity)
_alert = msgspec.msgpack.Decoder(Alert)
_float = msgspec.msgpack.Decoder(float)
_encode = msgspec.msgpack.Encoder().encode


class Identities:
    """The records, as batches for who commits them, and what was kept."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def any(self) -> bool:
        """Whether any child is kept."""
        return bool(self._store.scan("procs", IDENTITY, ALERT, limit=1))

    def all(self) -> list[Identity]:
        """The children."""
        return [_identity.decode(value) for _, value in self._store.scan("procs", IDENTITY, ALERT)]

    def keep(self, identity: Identity) -> Batch:
        """What puts a child on disk."""
        return Batch(puts=[("procs", _named(IDENTITY, identity.name), _encode(identity))])

    def forget(self, identity: Identity) -> Batch:
        """What takes a child off the disk, with its alarms."""
        start, stop = _alerts(identity.box), _alerts(identity.box + 1)
        keys = [key for key, _ in self._store.scan("procs", start, stop)]
        keys.append(_named(IDENTITY, identity.name))
        return Batch(deletes=[("procs", key) for key in keys])

    def alerts(self) -> list[Alert]:
        """The alarms that are to come."""
        stop = bytes([ALERT[0] + 1])
        return [_alert.decode(value) for _, value in self._store.scan("procs", ALERT, stop)]

    def plan(self, alert: Alert) -> Batch:
        """What puts an alarm on disk."""
        return Batch(puts=[("procs", _alerts(alert.box, alert.number), _encode(alert))])

    def there(self, alert: Alert) -> bool:
        """Whether an alarm is still to come."""
        return self._store.get("procs", _alerts(alert.box, alert.number)) is not None

    def rung(self, alert: Alert) -> Batch:
        """What takes an alarm off the disk."""
        return Batch(deletes=[("procs", _alerts(alert.box, alert.number))])

    def last_run(self, schedule: str) -> float:
        """When a schedule last ran; 0 for never."""
        value = self._store.get("procs", _named(SCHEDULE, schedule))
        return 0.0 if value is None else _float.decode(value)

    def ran(self, schedule: str, at: float) -> Batch:
        """What notes that a schedule ran."""
        return Batch(puts=[("procs", _named(SCHEDULE, schedule), _encode(at))])


def _named(kind: bytes, name: str) -> bytes:
    return kind + blake2b(name.encode(), digest_size=DIGEST).digest()


def _alerts(box: int, number: int | None = None) -> bytes:
    key = ALERT + box.to_bytes(8, "big")
    return key if number is None else key + number.to_bytes(8, "big")
