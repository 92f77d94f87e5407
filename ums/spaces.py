"""The spaces by number and by name."""

from random import Random

from drivers.contracts import Batch, Clock, Mismatch, Store
from syscalls.errors import EEXIST, ENOENT
from ums import records as form
from ums.records import Header
from ums.space import Space

NUMBER = b"#"
NAME = b"@"
UNSAVED = 1000
SWEEP = 256


class Spaces:
    """Makes spaces, opens them when they are first used, and keeps them open.

    An open space is a few hundred bytes: its records stay in the store.
    """

    def __init__(self, store: Store, clock: Clock, random: Random) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._open: dict[int, Space] = {}
        last = store.scan("spaces", NUMBER, form.after(NUMBER), limit=1, reverse=True)
        self._last = int.from_bytes(last[0][0][1:], "big") if last else 0

    def __len__(self) -> int:
        return len(self._open)

    async def create(self, owner: int, name: str = "") -> int:
        """Make a space and return its number; durable. Raises EEXIST."""
        self._last += 1
        number = self._last
        key = form.space_key(number)
        header = Header(owner, name, self._clock.now())
        batch = Batch([("spaces", NUMBER + key, form.encode_header(header))])
        if name:
            place = form.name_key(NAME, name)
            batch.expect.append(("spaces", place, None))
            batch.puts.append(("spaces", place, key))
        try:
            await self._store.commit(batch)
        except Mismatch as error:
            raise EEXIST(f"a space is named {name!r} already") from error
        return number

    def resolve(self, ref: int | str) -> int:
        """The number of the space that ``ref`` numbers or names. Raises ENOENT."""
        number = self.known(ref)
        if number is None:
            raise ENOENT(f"no space is {'numbered' if isinstance(ref, int) else 'named'} {ref!r}")
        return number

    def known(self, ref: int | str) -> int | None:
        """As ``resolve``; None when there is none."""
        if isinstance(ref, str):
            number = self._store.get("spaces", form.name_key(NAME, ref))
            return None if number is None else int.from_bytes(number, "big")
        return ref if ref in self._open or self._header(ref) is not None else None

    def open(self, number: int) -> Space:
        """The space of a number. Raises ENOENT."""
        space = self._open.get(number)
        if space is None:
            header = self._header(number)
            if header is None:
                raise ENOENT(f"no space is numbered {number}")
            space = Space(number, header, self._store, self._clock, self._random)
            self._open[number] = space
        return space

    def _header(self, number: int) -> Header | None:
        if not 0 < number <= self._last:
            return None
        value = self._store.get("spaces", NUMBER + form.space_key(number))
        return None if value is None else form.decode_header(value)

    def numbers(self) -> list[int]:
        """Every space there is, opened or not."""
        found = self._store.scan("spaces", NUMBER, form.after(NUMBER))
        return [int.from_bytes(key[1:], "big") for key, _ in found]

    async def checkpoint(self, *, everything: bool = False) -> None:
        """Store the sums of the spaces that changed much (or at all) since the last time."""
        for space in list(self._open.values()):
            if space.unsaved >= (1 if everything else UNSAVED):
                await space.checkpoint()

    async def sweep(self) -> list[int]:
        """Erase the records whose time is over; returns the spaces that changed."""
        changed: set[int] = set()
        now = form.expiry_key(self._clock.now(), b"")
        while due := self._store.scan("meta", form.EXPIRY, now, limit=SWEEP):
            for key, _ in due:
                place = key[len(now) :]
                number = int.from_bytes(place[: form.SPACE_SIZE], "big")
                if await self.open(number).expire(form.rid_in(place)):
                    changed.add(number)
            await self._store.commit(Batch(deletes=[("meta", key) for key, _ in due]))
        return sorted(changed)
