"""A block as the bytes of its file: what the tiers keep, and check before anything is believed.

    [length of the header][header, JSON][planes, one after another]

It is a safetensors file like any other. Its metadata say which block it is, of which namespace,
what computing it cost, and a checksum over all of that and the planes.
"""

from __future__ import annotations

import hashlib
from mmap import mmap
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTHS = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Bytes of an element, by safetensors' name of its data type."""
MOST_HEADER = 1 << 20


class Corrupt(Exception):
    """These bytes are not the block that they should be."""


class Plane(NamedTuple):
    """One tensor of a block, without a library: row-major, as wide as ``dtype`` says."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    """All strings, as safetensors has it."""

    name: str
    namespace: str
    length: str
    seconds: str
    checksum: str = ""


class Image(msgspec.Struct, frozen=True):
    """A whole block that has been checked, or just been made."""

    name: str
    namespace: str
    seconds: float
    """What computing it cost."""
    data: bytearray | mmap
    """The bytes of its file. Nobody changes them."""
    places: dict[str, tuple[str, tuple[int, ...], int, int]]

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    def planes(self) -> dict[str, Plane]:
        """Its tensors, as views of ``data``: who changes one must copy it first."""
        view = memoryview(self.data)
        return {
            key: Plane(dtype, shape, view[begin:end])
            for key, (dtype, shape, begin, end) in self.places.items()
        }

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Data type and shape of each tensor."""
        return {key: place[:2] for key, place in self.places.items()}


def encode(name: str, namespace: str, seconds: float, planes: Mapping[str, Plane]) -> Image:
    """The file of a block. Raises ValueError when a plane is not as long as its shape says."""
    entries: dict[str, _Entry] = {}
    end = 0
    for key in sorted(planes):
        dtype, shape, data = planes[key]
        if data.nbytes != _length(dtype, shape):
            raise ValueError(f"{key} has {data.nbytes} bytes, {dtype} {shape} another number")
        entries[key] = _Entry(dtype, tuple(shape), (end, end + data.nbytes))
        end += data.nbytes
    meta = _Meta(name, namespace, str(end), repr(seconds))
    pending = _header(msgspec.structs.replace(meta, checksum="0" * 64), entries)
    whole = bytearray(len(pending) + end)
    for key, entry in entries.items():
        first, last = (len(pending) + offset for offset in entry.data_offsets)
        whole[first:last] = planes[key].data.cast("B")
    checksum = _checksum(meta, entries, memoryview(whole)[len(pending) :])
    whole[: len(pending)] = _header(msgspec.structs.replace(meta, checksum=checksum), entries)
    return Image(name, namespace, seconds, whole, _places(entries, len(pending)))


def decode(data: bytearray | mmap, name: str, namespace: str) -> Image:
    """The block in the bytes of a file. Raises Corrupt unless it is whole and this one."""
    if len(data) < 8:
        raise Corrupt("shorter than the length of a header")
    start = 8 + int.from_bytes(data[:8], "little")
    if not 8 < start <= min(len(data), MOST_HEADER):
        raise Corrupt("no header fits")
    try:
        header = msgspec.json.decode(memoryview(data)[8:start], type=dict[str, msgspec.Raw])
        meta = msgspec.json.decode(header.pop("__metadata__", b"null"), type=_Meta)
        entries = {
            key: msgspec.json.decode(entry, type=_Entry) for key, entry in sorted(header.items())
        }
        seconds = float(meta.seconds)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Corrupt(f"the header cannot be read: {error}") from error
    if (meta.name, meta.namespace) != (name, namespace):
        raise Corrupt(f"it is the block {meta.name} of {meta.namespace}")
    end = 0
    for key, entry in entries.items():
        first, last = entry.data_offsets
        if first != end or last - first != _length(entry.dtype, entry.shape):
            raise Corrupt(f"{key} is not where it should be, or not as long")
        end = last
    if end != len(data) - start or meta.length != str(end):
        raise Corrupt("it is not as long as its header says")
    if _checksum(meta, entries, memoryview(data)[start:]) != meta.checksum:
        raise Corrupt("the checksum is wrong")
    return Image(name, namespace, seconds, data, _places(entries, start))


def _length(dtype: str, shape: tuple[int, ...]) -> int:
    length = WIDTHS.get(dtype, -1)
    for size in shape:
        length *= size
    return length


def _header(meta: _Meta, entries: dict[str, _Entry]) -> bytes:
    text = msgspec.json.encode({"__metadata__": meta, **entries})
    text += b" " * (-len(text) % 8)  # so that the planes begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _checksum(meta: _Meta, entries: dict[str, _Entry], planes: memoryview) -> str:
    """SHA-256 of all that the header says beside it, and of the planes."""
    said = [meta.name, meta.namespace, meta.length, meta.seconds, sorted(entries.items())]
    digest = hashlib.sha256(msgspec.json.encode(said))
    digest.update(planes)
    return digest.hexdigest()


def _places(
    entries: dict[str, _Entry], start: int
) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    return {
        key: (
            entry.dtype,
            entry.shape,
            start + entry.data_offsets[0],
            start + entry.data_offsets[1],
        )
        for key, entry in entries.items()
    }
