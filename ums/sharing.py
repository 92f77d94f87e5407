"""Who may use whose space.

Grants are few and asked for on every call, so all of them are in memory; the store has the
truth, and memory follows it only after a change is on disk.
"""

import msgspec

from drivers.contracts import Batch, Clock, Mismatch, Store
from syscalls.errors import EAGAIN, ENOENT
from syscalls.shapes import Access, Grant
from ums.records import SPACE_SIZE, space_key

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Grant)


class Sharing:
    """The grants of all spaces."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._grants: dict[tuple[int, int], Grant] = {}
        self._spaces: dict[int, set[int]] = {}
        for _, value in store.scan("grants", b"\x00", b"\xff" * (SPACE_SIZE + 9)):
            self._remember(_decoder.decode(value))

    def __len__(self) -> int:
        return len(self._grants)

    def _remember(self, grant: Grant) -> None:
        self._grants[grant.space, grant.apid] = grant
        self._spaces.setdefault(grant.apid, set()).add(grant.space)

    async def share(self, space: int, apid: int, access: Access, by: int) -> Grant:
        """Let a process read, or read and write, a space; replaces an earlier grant."""
        grant = Grant(space, apid, access, self._clock.now(), by)
        await self._store.commit(Batch([("grants", _key(space, apid), _encoder.encode(grant))]))
        self._remember(grant)
        return grant

    async def revoke(self, space: int, apid: int) -> None:
        """Take a grant back; refused from the moment of the call. Raises ENOENT, EAGAIN."""
        grant = self._grants.pop((space, apid), None)
        if grant is None:
            raise ENOENT(f"space {space} is not shared with process {apid}")
        self._spaces[apid].discard(space)
        key, value = _key(space, apid), _encoder.encode(grant)
        try:
            await self._store.commit(
                Batch(deletes=[("grants", key)], expect=[("grants", key, value)])
            )
        except Mismatch as error:
            raise EAGAIN(f"space {space} is being shared just now") from error
        except BaseException:
            self._remember(grant)
            raise

    def access(self, apid: int, own_space: int, space: int) -> Access | None:
        """What a process may do with a space; None is nothing."""
        if space == own_space:
            return "write"
        grant = self._grants.get((space, apid))
        return None if grant is None else grant.access

    def shared_with(self, apid: int) -> list[int]:
        """The spaces that others share with a process, in order of their numbers."""
        return sorted(self._spaces.get(apid, ()))

    def of(self, space: int) -> list[Grant]:
        """The grants of a space, in order of the processes."""
        held = (grant for (number, _), grant in self._grants.items() if number == space)
        return sorted(held, key=lambda grant: grant.apid)


def _key(space: int, apid: int) -> bytes:
    return space_key(space) + apid.to_bytes(8, "big")
