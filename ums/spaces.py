"""The spaces by number and by name, and which layers each of them stands on.

Spaces and layers share one line of numbers: a space's first layer has the number of the
space, and a layer that is put on top later has one that no space has.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import cast

import msgspec

from drivers.contracts import Batch, Clock, Frozen, Mismatch, Store
from syscalls.errors import EAGAIN, EEXIST, EINVAL, ENOENT
from ums import records as form
from ums.capsule.adopt import AdoptingSpace
from ums.layers import Layer
from ums.meter import Meter, NoMeter
from ums.records import Attachment, Header, Stored
from ums.space import Space
from ums.view import View

NUMBER = b"#"
NAME = b"@"
HOME = b"%"
STANDS = b"&"
SPARE = b"ums/spare/"
UNSAVED = 1000
SWEEP = 256
MAX_LAYERS = 32
"""Most layers a space may stand on; long before that they are folded in the background."""


class Spaces:
    """Makes spaces, opens them when they are first used, and keeps them open.

    An open space is a few hundred bytes: its records stay in the store. ``alive`` tells
    whether a share is still in force, ``until`` when it ends by itself: what is attached by it
    is read only as long.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Random,
        alive: Callable[[int], bool] = lambda _grant: True,
        until: Callable[[int], float | None] = lambda _grant: None,
        hear: Callable[[Stored, str], None] = lambda _new, _before: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._alive = alive
        self._until = until
        self._hear = hear
        self.lapsed: Callable[[], None] = lambda: None
        """Told when a pinned prefix has to follow the records that it rests on."""
        self.meter: Meter = NoMeter()
        self._open: dict[int, AdoptingSpace] = {}
        self._layers: dict[int, Layer] = {}
        self._last = 0
        for kind in (NUMBER, HOME):
            last = store.scan("spaces", kind, form.after(kind), limit=1, reverse=True)
            self._last = max(self._last, *(int.from_bytes(key[1:], "big") for key, _ in last), 0)

    def __len__(self) -> int:
        return len(self._open)

    async def create(self, owner: int, name: str = "") -> int:
        """Make a space and return its number; durable. Raises EEXIST."""
        number = self._next()
        batch = Batch()
        self._name(batch, number, name)
        _put_header(batch, number, Header(owner, name, self._clock.now()))
        await self._commit(batch, name)
        return number

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _name(self, batch: Batch, number: int, name: str) -> None:
        if name:
            place = form.name_key(NAME, name)
            batch.expect.append(("spaces", place, None))
            batch.puts.append(("spaces", place, form.space_key(number)))

    async def _commit(self, batch: Batch, name: str) -> None:
        try:
            await self._store.commit(batch)
        except Mismatch as error:
            if batch.expect[error.index][1][:1] == NAME:
                raise EEXIST(f"a space is named {name!r} already") from error
            raise EAGAIN("the space is being changed just now", retry_after=0.05) from error

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

    def open(self, number: int) -> AdoptingSpace:
        """The space of a number. Raises ENOENT."""
        space = self._open.get(number)
        if space is None:
            header = self._header(number)
            if header is None:
                raise ENOENT(f"no space is numbered {number}")
            header.attached = [one for one in header.attached if self._lasts(one)]
            space = AdoptingSpace(
                number,
                header,
                self._store,
                self._clock,
                self._random,
                self._opened(number, header),
                lambda layer, rid: self._seen(layer, rid, number),
            )
            space.hear = self._hear
            space.lapsed = self._tell_lapsed
            space.meter = self.meter
            self._open[number] = space
        return space

    def at(self, number: int, frozen: Frozen) -> View:
        """A space as it was at a moment, without what is attached to it. Raises ENOENT."""
        value = frozen.get("spaces", NUMBER + form.space_key(number))
        if value is None:
            raise ENOENT(f"no space is numbered {number}")
        header = form.decode_header(value)
        header.attached = []
        layers = [self._layer(layer) for layer in header.layers or [number]]
        return View(number, header, cast("Store", frozen), self._clock, layers)

    def _tell_lapsed(self) -> None:
        self.lapsed()  # whoever hears it is known later than the first space

    def _lasts(self, attached: Attachment) -> bool:
        """Whether the right that it rests on is still there."""
        return not attached.grant or self._alive(attached.grant)

    def _header(self, number: int) -> Header | None:
        if not 0 < number <= self._last:
            return None
        value = self._store.get("spaces", NUMBER + form.space_key(number))
        return None if value is None else form.decode_header(value)

    def _opened(self, number: int, header: Header) -> list[Layer]:
        below = (layer for one in header.attached for layer in one.layers)
        return [self._layer(layer) for layer in (*(header.layers or [number]), *below)]

    def _layer(self, number: int) -> Layer:
        layer = self._layers.get(number)
        if layer is None:
            layer = self._layers[number] = Layer(number, self._store)
        return layer

    def numbers(self) -> list[int]:
        """Every space there is, opened or not."""
        found = self._store.scan("spaces", NUMBER, form.after(NUMBER))
        return [int.from_bytes(key[1:], "big") for key, _ in found]

    def size(self, number: int) -> tuple[int, int]:
        """Records and bytes of the layers that were made for a space. Raises ENOENT."""
        sums = [
            self._layer(layer).tally.now()
            for layer in self.open(number).own
            if layer == number or self.home(layer) == number
        ]
        return sum(each.records for each in sums), sum(each.bytes for each in sums)

    def layers(self) -> list[int]:
        """Every layer there is: what has an index."""
        found = self._store.scan("spaces", HOME, form.after(HOME))
        return sorted([*self.numbers(), *(int.from_bytes(key[1:], "big") for key, _ in found)])

    # --- layers

    def home(self, layer: int) -> int:
        """The space that a layer was made for. Raises ENOENT."""
        if layer in self._open:
            return layer
        value = self._store.get("spaces", HOME + form.space_key(layer))
        if value is not None:
            return int.from_bytes(value, "big")
        return self.resolve(layer)

    def standing_on(self, layer: int) -> Iterator[AdoptingSpace]:
        """The spaces that read through a layer, the one that it was made for first."""
        prefix = STANDS + form.space_key(layer)
        others = self._store.scan("spaces", prefix, form.after(prefix))
        for number in (self.home(layer), *(int.from_bytes(k[5:], "big") for k, _ in others)):
            if self.known(number) is not None:
                space = self.open(number)
                if layer in space.stack.layers:
                    yield space

    def _seen(self, layer: int, rid: bytes, besides: int) -> bool:
        """Whether a space other than ``besides`` still has a record through a layer.

        One whose time is over counts too: it is covered there when it is swept.
        """
        return any(
            space.number != besides and space.stack.find(rid) is not None
            for space in self.standing_on(layer)
        )

    async def branch(self, number: int, owner: int, name: str = "", *, sealed: bool) -> int:
        """Make a space that holds what another holds now; neither sees the other's changes.

        A few keys of the store, whatever the space holds. ``sealed`` makes a snapshot, which
        is not written. Raises ENOENT, EEXIST, EAGAIN while the stack is too deep.
        """
        space = self.open(number)
        async with space.reshaping():
            batch = Batch()
            header = self._frozen(batch, space)
            below = (header.layers or [number])[1:]
            self._bound(1 + len(below) + sum(len(one.layers) for one in header.attached))
            copy = self._next()
            made = Header(owner, name, self._clock.now(), [copy, *below], header.attached)
            made.origin, made.sealed = number, sealed
            self._name(batch, copy, name)
            _put_header(batch, copy, made)
            _stand(batch, copy, made.layers[1:])
            for one in made.attached:
                _stand(batch, copy, one.layers)
            await self._commit(batch, name)
            self._reshaped(space, header)
        return copy

    async def attach(self, number: int, other: int, grant: int = 0) -> None:
        """Put the layers of another space, as they are now, under a space's own; read-only.

        Own records and keys come first. What the other space has itself attached is not
        passed on. ``grant`` is the share that it rests on: when that ends, this does too.
        Raises ENOENT, EEXIST, EINVAL when the two have layers in common, EAGAIN.
        """
        space, source = self.open(number), self.open(other)
        if any(one.space == other for one in space.header.attached if self._lasts(one)):
            raise EEXIST(f"space {other} is attached to space {number} already")
        async with self._both(space, source):
            batch = Batch()
            below = self._frozen(batch, source)
            layers = (below.layers or [other])[1:]
            if not layers:
                raise EINVAL(f"there is nothing in space {other}")
            if set(layers) & set(space.stack.layers) or number == other:
                raise EINVAL(
                    f"spaces {number} and {other} stand on the same layers",
                    hint="one was made from the other",
                )
            self._bound(len(space.stack.layers) + len(layers))
            header = self._changed(batch, space)
            until = self._until(grant) if grant else None
            header.attached = [*header.attached, Attachment(other, layers, grant, until)]
            _put_header(batch, number, header)
            _stand(batch, number, layers)
            await self._commit(batch, "")
            self._reshaped(source, below)
            self._reshaped(space, header)

    async def detach(self, number: int, other: int) -> None:
        """Take attached layers away again. Raises ENOENT when they are not."""
        space = self.open(number)
        async with space.reshaping():
            batch = Batch()
            header = self._changed(batch, space)
            gone = [one for one in header.attached if one.space == other]
            if not gone:
                raise ENOENT(f"space {other} is not attached to space {number}")
            header.attached = [one for one in header.attached if one.space != other]
            for layer in (layer for one in gone for layer in one.layers):
                batch.deletes.append(("spaces", _stands_key(layer, number)))
            _put_header(batch, number, header)
            await self._commit(batch, "")
            self._reshaped(space, header)

    def ended(self, grants: frozenset[int]) -> None:
        """Shares are over: what was attached by them is not read any more, from now on."""
        for space in self._open.values():
            space.drop_attached(grants)

    def _frozen(self, batch: Batch, space: Space) -> Header:
        """The header of a space after its top was frozen, where anything is in it."""
        header = self._changed(batch, space)
        own = header.layers or [space.number]
        if space.top.empty:
            if len(own) == 1:
                # Nothing to stand on: an empty layer below is as good as none.
                return msgspec.structs.replace(header, layers=own)
            return header
        self._bound(len(space.stack.layers) + 1)
        top = self._next()
        header.layers = [top, *own]
        batch.puts.append(("spaces", HOME + form.space_key(top), form.space_key(space.number)))
        _put_header(batch, space.number, header)
        return header

    def _changed(self, batch: Batch, space: Space) -> Header:
        """A space's header to be changed by a batch, which holds only if nobody else did."""
        key = NUMBER + form.space_key(space.number)
        value = self._store.get("spaces", key)
        batch.expect.append(("spaces", key, value))
        header = msgspec.structs.replace(space.header)
        header.attached = [one for one in header.attached if self._lasts(one)]
        return header

    def _reshaped(self, space: Space, header: Header) -> None:
        if header != space.header:
            space.reshape(header, self._opened(space.number, header))

    def _bound(self, depth: int) -> None:
        if depth > MAX_LAYERS:
            raise EAGAIN(
                f"the space stands on {depth - 1} layers, {MAX_LAYERS} is the most",
                hint="they are being folded",
                retry_after=1.0,
            )

    @asynccontextmanager
    async def _both(self, one: Space, other: Space) -> AsyncIterator[None]:
        """Keep two stacks still; in the order of numbers, so that no two wait for each other."""
        first, second = sorted((one, other), key=lambda space: space.number)
        async with first.reshaping():
            if first is second:
                yield
                return
            async with second.reshaping():
                yield

    # --- folding (the work is ``ums.folding``'s)

    def deep(self, most: int) -> list[Space]:
        """The open spaces that have more layers of their own than ``most``, and may get more."""
        return [
            space
            for space in self._open.values()
            if len(space.own) > most and not space.header.sealed
        ]

    def layer(self, number: int) -> Layer:
        """An open layer."""
        return self._layer(number)

    async def spare(self, number: int) -> int:
        """Make a layer for a space, which does not stand on it yet."""
        layer = self._next()
        home = ("spaces", HOME + form.space_key(layer), form.space_key(number))
        mark = ("meta", SPARE + form.space_key(layer), b"")
        await self._store.commit(Batch([home, mark]))  # type: ignore[list-item]
        return layer

    def spares(self) -> list[int]:
        """The layers that no space stands on yet."""
        found = self._store.scan("meta", SPARE, form.after(SPARE))
        return [int.from_bytes(key[len(SPARE) :], "big") for key, _ in found]

    async def discarded(self, layer: int) -> None:
        """Nothing is left in a layer that no space ever stood on."""
        await self._store.commit(Batch(deletes=[("meta", SPARE + form.space_key(layer))]))

    async def refold(self, number: int, layer: int, run: Sequence[int]) -> None:
        """Put a space on one layer in place of several. Raises EAGAIN."""
        space = self.open(number)
        async with space.reshaping():
            batch = Batch()
            header = self._changed(batch, space)
            own = space.own
            at = own.index(run[0])
            header.layers = [*own[:at], layer, *own[at + len(run) :]]
            batch.deletes = [("spaces", _stands_key(one, number)) for one in run]
            batch.deletes.append(("meta", SPARE + form.space_key(layer)))
            _put_header(batch, number, header)
            await self._commit(batch, "")
            self._reshaped(space, header)

    # --- housekeeping

    async def checkpoint(self, *, everything: bool = False) -> None:
        """Store the sums of the layers that changed much (or at all) since the last time."""
        for layer in list(self._layers.values()):
            if layer.tally.unsaved >= (1 if everything else UNSAVED):
                await layer.checkpoint()

    async def sweep(self) -> list[int]:
        """Erase the records whose time is over; returns the spaces that changed."""
        changed: set[int] = set()
        now = form.expiry_key(self._clock.now(), b"")
        while due := self._store.scan("meta", form.EXPIRY, now, limit=SWEEP):
            for key, _ in due:
                place = key[len(now) :]
                layer = int.from_bytes(place[: form.SPACE_SIZE], "big")
                for space in list(self.standing_on(layer)):
                    if await space.expire(form.rid_in(place)):
                        changed.add(space.number)
            await self._store.commit(Batch(deletes=[("meta", key) for key, _ in due]))
        return sorted(changed)


def _put_header(batch: Batch, number: int, header: Header) -> None:
    batch.puts.append(("spaces", NUMBER + form.space_key(number), form.encode_header(header)))


def _stands_key(layer: int, number: int) -> bytes:
    return STANDS + form.space_key(layer) + form.space_key(number)


def _stand(batch: Batch, number: int, layers: Sequence[int]) -> None:
    """Note that a space stands on layers that were not made for it."""
    batch.puts += [("spaces", _stands_key(layer, number), b"") for layer in layers]
