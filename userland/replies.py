"""Typed decoding of replies: one precompiled decoder a call, made when first needed."""

from typing import Any, Generic, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from syscalls.errors import EKERNEL, EngramError, ErrorValue, from_value
from syscalls.table import TABLE, Call
from syscalls.wire import Reply

T = TypeVar("T")


class Whole(msgspec.Struct, Generic[T], array_like=True, gc=False):
    """``[seq, code, value]`` with the value decoded in the same pass."""

    seq: int
    code: int
    value: T


_error = Decoder(ErrorValue)
_whole: dict[int, Decoder[Any]] = {}
_value: dict[int, Decoder[Any]] = {}
_chunk: dict[int, Decoder[Any]] = {}


def whole_decoder(number: int) -> Decoder[Any]:
    """Decodes a whole reply frame of a call, value included."""
    decoder = _whole.get(number)
    if decoder is None:
        reply = TABLE.by_number[number].reply
        decoder = _whole[number] = Decoder(Whole[reply])  # type: ignore[valid-type]
    return decoder


def value(number: int, reply: Reply) -> Any:
    """The value of a final reply. Raises the error it carries, or EKERNEL."""
    if reply.code:
        raise error(reply)
    decoder = _value.get(number)
    if decoder is None:
        decoder = _value[number] = Decoder(TABLE.by_number[number].reply)
    return _decode(decoder, number, reply)


def chunk(number: int, reply: Reply) -> Any:
    """One streamed value. Raises EKERNEL when the call does not stream."""
    decoder = _chunk.get(number)
    if decoder is None:
        shape = TABLE.by_number[number].chunk
        if shape is None:
            raise EKERNEL(f"{TABLE.by_number[number].name} does not stream, but a chunk came")
        decoder = _chunk[number] = Decoder(shape)
    return _decode(decoder, number, reply)


def error(reply: Reply) -> EngramError:
    """The error of a reply whose code is positive."""
    try:
        return from_value(reply.code, _error.decode(reply.value))
    except msgspec.DecodeError as problem:
        return EKERNEL(f"the kernel sent an error {reply.code} that cannot be read: {problem}")


def numbered(call: Call) -> int:
    """The call's number. Raises TypeError for what is not in the table."""
    if not isinstance(call, Call):
        raise TypeError(f"a syscall's struct is wanted, not {type(call).__name__}")
    return call.NUMBER


def _decode(decoder: Decoder[Any], number: int, reply: Reply) -> Any:
    try:
        return decoder.decode(reply.value)
    except msgspec.DecodeError as problem:
        name = TABLE.by_number[number].name
        raise EKERNEL(f"the kernel's answer to {name} cannot be read: {problem}") from problem
