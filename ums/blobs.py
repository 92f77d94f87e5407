"""Blobs: the originals that records were made from, kept by their hash.

    bucket  key                                     value
    blobs   "@" hash (32) space (4)                 Blob: it is there, whole
    blobs   "+" hash (32) space (4)                 Coming: an upload that is not over
    blobs   "#" number (8) piece (4)                check (16), at most 256 KiB of it
    blobs   "*" hash (32) layer (4) rid (16)        empty: a version of the record names it
    blobs   "*" hash (32) ms (8) space (4) rid (16) key in meta: the sealed copy of one does
    blobs   "?" hash (32)                           ms (8): when to look whether any still does
    blobs   "!" hash (32)                           empty: at the next sweep

They lie in the store, like all that can be lost: a blob and what names it are acknowledged,
backed up and damaged together, and no folder beside it has to be kept in step. A piece is
checked when it is read, and the hash once the last piece has come, so that what is missing
or altered is found and said.

A record names its original in ``meta["blob"]`` as ``sha256:...``. That is noted in the batch
that writes the record, and taken back in the one that erases it; the sweep then drops what
nobody names. Each space has its own: to know a hash gives nobody another space's bytes.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.contracts import Batch, Mismatch
from syscalls.capsule import PIECE
from syscalls.errors import EAGAIN, EDQUOT, EINVAL, EIO, ENOENT
from ums import records as form
from ums.meter import Meter, NoMeter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from drivers.contracts import Bucket, Clock, Store
    from ums.draft import Draft
    from ums.records import Stored

NAMED = "blob"
"""The key of ``meta`` that names an original."""
GRACE = 86400.0
"""Seconds that an upload, and what was uploaded and not named yet, is kept."""
ROUND = 60.0
"""Seconds between two looks for what is due: of what was let go there is word at once."""
LARGEST = 16 << 30
"""Bytes of one blob, at most."""
CHECK = 16

_NAME = re.compile(r"sha256:[0-9a-f]{64}")
_LOOKS = 256


class Blob(msgspec.Struct, array_like=True, gc=False):
    """A blob of a space."""

    number: int
    """Under which its pieces are."""
    size: int
    created: float


class Coming(msgspec.Struct, array_like=True, gc=False):
    """An upload."""

    number: int
    size: int
    at: int


class BlobsStatistics(msgspec.Struct, frozen=True):
    """Figures since the start."""

    uploaded: int
    dropped: int
    """Blobs and unfinished uploads that nobody named any more."""
    damaged: int
    """Times that a piece was missing or altered."""


_blob = msgspec.msgpack.Decoder(Blob)
_coming = msgspec.msgpack.Decoder(Coming)
_encode = msgspec.msgpack.Encoder().encode


class Blobs:
    """The blobs of all spaces."""

    def __init__(self, store: Store, clock: Clock, random: Random) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._uploaded = self._dropped = self._damaged = 0
        self._again = 0.0
        self.meter: Meter = NoMeter()

    # --- writing

    async def upload(
        self, space: int, name: str, size: int, at: int, data: bytes
    ) -> tuple[int, bool]:
        """Put a piece of a blob; how many bytes are there, and whether it is whole.

        Raises EINVAL (not the next piece, the bytes have another hash), EDQUOT, EAGAIN.
        """
        digest = packed_name(name)
        if size > LARGEST:
            raise EDQUOT(f"{size} bytes are too many for one blob", limit=LARGEST, quota="blob")
        place = digest + form.space_key(space)
        held = self._get(space, digest)
        if held is not None:
            # Whoever uploads is going to name it: let no sweep come in between.
            later = Batch([("blobs", b"?" + digest, self._due(GRACE))])
            later.expect = [("blobs", b"@" + place, _encode(held))]
            try:
                await self._store.commit(later)
            except Mismatch as error:
                raise EAGAIN("the blob is being dropped just now", retry_after=0.05) from error
            return size, True
        before = self._store.get("blobs", b"+" + place)
        if before is None:
            self.meter.admit(space, 0, size)
        coming = Coming(self._random.getrandbits(63), size, 0)
        if before is not None and _coming.decode(before).size == size:
            coming = _coming.decode(before)
        if not data and size:
            return coming.at, False
        return await self._take(place, before, coming, at, data)

    async def _take(
        self, place: bytes, before: bytes | None, coming: Coming, at: int, data: bytes
    ) -> tuple[int, bool]:
        after = at + len(data)
        if at != coming.at or after > coming.size or (after < coming.size and after % PIECE):
            raise EINVAL(
                f"a piece of {len(data)} bytes at {at} is not what comes next at {coming.at}",
                hint=f"pieces are multiples of {PIECE} bytes, the last one excepted",
                at=coming.at,
            )
        puts: list[tuple[Bucket, bytes, bytes]] = [
            ("blobs", _piece_key(coming.number, (at + start) // PIECE), _checked(data, start))
            for start in range(0, len(data), PIECE)
        ]
        coming.at = after
        puts.append(("blobs", b"+" + place, _encode(coming)))
        puts.append(("blobs", b"?" + place[:32], self._due(GRACE)))
        try:
            await self._store.commit(Batch(puts, expect=[("blobs", b"+" + place, before)]))
        except Mismatch as error:
            raise EAGAIN("somebody else uploads the same", retry_after=0.05) from error
        if after < coming.size:
            return after, False
        await self._finish(place, coming)
        return after, True

    async def _finish(self, place: bytes, coming: Coming) -> None:
        """All pieces have come: it is a blob if they have the hash. Raises EINVAL."""
        found = sha256()
        for piece in self._pieces(coming.number, coming.size):
            found.update(piece)
            await trio.lowlevel.checkpoint()
        expect: list[tuple[Bucket, bytes, bytes | None]] = [
            ("blobs", b"+" + place, _encode(coming))
        ]
        batch = Batch(deletes=[("blobs", b"+" + place)], expect=expect)
        if found.digest() == place[:32]:
            blob = Blob(coming.number, coming.size, self._clock.now())
            batch.puts = [
                ("blobs", b"@" + place, _encode(blob)),
                ("blobs", b"?" + place[:32], self._due(GRACE)),
            ]
        else:
            batch.deletes += _piece_keys(coming.number, coming.size)
        size = coming.size if batch.puts else 0
        try:
            with self._metered([(int.from_bytes(place[32:], "big"), size)]):
                await self._store.commit(batch)
        except Mismatch as error:
            raise EAGAIN("somebody else uploads the same", retry_after=0.05) from error
        if not batch.puts:
            raise EINVAL("the bytes have another hash than was said", hint="upload it again")
        self._uploaded += 1

    def _due(self, after: float) -> bytes:
        return int((self._clock.now() + after) * 1000).to_bytes(8, "big")

    # --- reading

    def find(self, name: str, spaces: Sequence[int]) -> Blob | None:
        """The blob that a name stands for in one of several spaces."""
        digest = packed_name(name)
        found = (self._get(space, digest) for space in spaces)
        return next((blob for blob in found if blob is not None), None)

    def _get(self, space: int, digest: bytes) -> Blob | None:
        value = self._store.get("blobs", b"@" + digest + form.space_key(space))
        return None if value is None else _blob.decode(value)

    def read(self, blob: Blob, at: int) -> bytes:
        """A piece of a blob from ``at``, empty at its end. Raises EIO (missing, altered)."""
        if at >= blob.size:
            return b""
        number, inside = divmod(at, PIECE)
        return self._piece(blob.number, blob.size, number)[inside:]

    def pieces(self, name: str, blob: Blob) -> Iterator[bytes]:
        """All of a blob. Raises EIO where a piece, or in the end the hash, is wrong."""
        found = sha256()
        for piece in self._pieces(blob.number, blob.size):
            found.update(piece)
            yield piece
        if found.digest() != packed_name(name):
            self._damaged += 1
            raise EIO(f"the original {name} is altered", driver="store")

    def _pieces(self, number: int, size: int) -> Iterator[bytes]:
        for place in range(-(-size // PIECE)):
            yield self._piece(number, size, place)

    def _piece(self, number: int, size: int, place: int) -> bytes:
        value = self._store.get("blobs", _piece_key(number, place))
        length = min(PIECE, size - place * PIECE)
        problem = "missing" if value is None else ""
        if value is not None and (
            len(value) != CHECK + length or _check(value[CHECK:]) != value[:CHECK]
        ):
            problem = "altered"
        if problem or value is None:
            self._damaged += 1
            raise EIO(f"piece {place} of an original is {problem}", driver="store")
        return value[CHECK:]

    # --- dropping

    async def drop(self, space: int, name: str) -> None:
        """Drop a blob that no record names, now. Nothing where it is not there."""
        digest = packed_name(name)
        key = b"@" + digest + form.space_key(space)
        value = self._store.get("blobs", key)
        if value is not None and not self._names(digest):
            due = self._store.get("blobs", b"?" + digest)
            await self._erase([(key, value)], [("blobs", b"?" + digest, due)])

    async def sweep(self) -> None:
        """Drop the blobs and uploads that no record names, where it is time to look."""
        digests = {key[1:] for key, _ in self._store.scan("blobs", b"!", b'"', limit=_LOOKS)}
        if self._clock.now() >= self._again:
            self._again = self._clock.now() + ROUND
            now = self._due(0.0)
            looks = self._store.scan("blobs", b"?", b"@")
            digests.update(key[1:] for key, due in looks if due <= now)
        for digest in sorted(digests)[:_LOOKS]:
            await self._look(digest)

    async def _look(self, digest: bytes) -> None:
        """Drop one where nobody names it; else note when to look again."""
        looks: list[tuple[Bucket, bytes, bytes | None]] = [
            ("blobs", mark + digest, self._store.get("blobs", mark + digest))
            for mark in (b"!", b"?")
        ]
        names = self._names(digest)
        if not names:
            gone: list[tuple[bytes, bytes]] = []
            for mark in (b"@", b"+"):
                gone += self._store.scan("blobs", mark + digest, form.after(mark + digest))
            start = b"*" + digest  # what is left of them are marks of copies that are gone
            marks = self._store.scan("blobs", start, form.after(start))
            await self._erase(gone, [*looks, *(("blobs", *one) for one in marks)])
            return
        batch = Batch(expect=looks, deletes=[(bucket, key) for bucket, key, _ in looks])
        if all(place for _, place in names):  # sealed copies only: when the first is over
            again = max(min(tail[:8] for tail, _ in names), self._due(ROUND))
            batch.puts.append(("blobs", b"?" + digest, again))
        try:
            await self._store.commit(batch)
        except Mismatch:
            return  # it was named or let go since: that one counts

    def _names(self, digest: bytes) -> list[tuple[bytes, bytes]]:
        """Who names a blob: layer and rid; or for a sealed record time and more, and its place."""
        start = b"*" + digest
        found = self._store.scan("blobs", start, form.after(start))
        return [
            (key[33:], place)
            for key, place in found
            if not place or self._store.get("meta", place) is not None
        ]

    async def _erase(
        self,
        gone: Sequence[tuple[bytes, bytes]],
        looks: list[tuple[Bucket, bytes, bytes | None]],
    ) -> None:
        """Erase blobs with their pieces, if nobody names one meanwhile."""
        batch = Batch(expect=[*looks, *(("blobs", key, value) for key, value in gone)])
        batch.deletes = [(bucket, key) for bucket, key, _ in looks]
        less: list[tuple[int, int]] = []
        for key, value in gone:
            entry = _blob.decode(value) if key[:1] == b"@" else _coming.decode(value)
            batch.deletes += [("blobs", key), *_piece_keys(entry.number, entry.size)]
            if key[:1] == b"@":
                less.append((int.from_bytes(key[33:], "big"), -entry.size))
        try:
            with self._metered(less):
                await self._store.commit(batch)
        except Mismatch:
            return  # it is named again, or looked at later
        self._dropped += len(gone)

    @contextmanager
    def _metered(self, grown: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Tell the meter of a commit: by how many bytes which spaces grow, if it is made."""
        for space, size in grown:
            self.meter.grew(space, 0, size)
        try:
            yield
        except BaseException:
            for space, size in grown:
                self.meter.grew(space, 0, -size)
            raise

    def sizes(self) -> dict[int, int]:
        """By space the bytes of its originals; reads the table of all of them."""
        found: dict[int, int] = {}
        for key, value in self._store.scan("blobs", b"@", b"A"):
            space = int.from_bytes(key[33:], "big")
            found[space] = found.get(space, 0) + _blob.decode(value).size
        return found

    def statistics(self) -> BlobsStatistics:
        """Figures for ``sys.stats``."""
        return BlobsStatistics(self._uploaded, self._dropped, self._damaged)


# --- what records do: in the draft that changes them


def name_in(stored: Stored) -> str:
    """The original that a version names; "" for none."""
    name = stored.meta.get(NAMED) if stored.meta else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else ""


def refer(draft: Draft, key: bytes, stored: Stored, now: float) -> None:
    """Note that a record, by its key in ``records``, names its original."""
    name = name_in(stored)
    if name:
        digest = packed_name(name)
        draft.put("blobs", b"*" + digest + key, b"")
        draft.put("blobs", b"?" + digest, int((now + GRACE) * 1000).to_bytes(8, "big"))


def release(draft: Draft, place: bytes, stored: Stored) -> None:
    """Note that a version, by its key in ``versions``, is erased; all versions are."""
    name = name_in(stored)
    if name:
        digest = packed_name(name)
        draft.delete("blobs", b"*" + digest + place[:20])
        draft.put("blobs", b"!" + digest, b"")


def seal(draft: Draft, place: bytes, values: Sequence[bytes]) -> None:
    """Keep the originals of a record's versions for as long as its sealed copy is there.

    ``place`` is that copy's key in ``meta``: time (8), space and rid are its end.
    """
    for name in _names_in(values):
        digest, tail = packed_name(name), place[-28:]
        draft.put("blobs", b"*" + digest + tail, place)
        draft.put("blobs", b"?" + digest, tail[:8])
        draft.delete("blobs", b"!" + digest)


def unsealed(values: Sequence[bytes]) -> list[tuple[Bucket, bytes, bytes]]:
    """What to put with the erasure of a sealed copy: that it is time to look."""
    return [("blobs", b"!" + packed_name(name), b"") for name in _names_in(values)]


def _names_in(values: Sequence[bytes]) -> set[str]:
    return {name for value in values if (name := name_in(form.decode(value)))}


def packed_name(name: str) -> bytes:
    """The 32 bytes of ``sha256:...``. Raises EINVAL."""
    if not _NAME.fullmatch(name):
        raise EINVAL(f"{name[:80]!r} names no original", hint="sha256: and 64 hexadecimal digits")
    return bytes.fromhex(name[7:])


def named(stored: Stored, rid: str) -> str:
    """The original that a record names. Raises ENOENT."""
    name = name_in(stored)
    if not name:
        raise ENOENT(f"record {rid} names no original")
    return name


def _check(data: bytes) -> bytes:
    return blake2b(data, digest_size=CHECK).digest()


def _checked(data: bytes, start: int) -> bytes:
    piece = data[start : start + PIECE]
    return _check(piece) + piece


def _piece_key(number: int, place: int) -> bytes:
    return b"#" + number.to_bytes(8, "big") + place.to_bytes(4, "big")


def _piece_keys(number: int, size: int) -> list[tuple[Bucket, bytes]]:
    return [("blobs", _piece_key(number, place)) for place in range(-(-size // PIECE))]
