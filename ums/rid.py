"""Record ids: ordered by time, and saying which space they are in.

    127          80 79      64 63           32 31            0
    +--------------+----------+---------------+---------------+
    | ms since the | sequence | space number  |    random     |
    | epoch (48)   | (16)     | (32)          |    (32)       |
    +--------------+----------+---------------+---------------+

The text form is that of a ULID: 26 characters of Crockford's base 32
(https://github.com/ulid/spec), so that text, bytes and number sort alike. Time and
sequence are one 64-bit stamp that only ever grows within a space: where a millisecond has
used up its sequence, or the clock has stepped back, the stamp goes on from the last one.
"""

from random import Random

from syscalls.errors import EINVAL

SIZE = 16
LENGTH = 26
MAX_SPACE = 2**32 - 1

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_TO_DIGITS = str.maketrans(_ALPHABET, _DIGITS)
_VALID = frozenset(_ALPHABET)


def to_text(number: int) -> str:
    """The 26 characters of a 128-bit id."""
    pairs = _PAIRS
    return (
        pairs[number >> 120]
        + pairs[number >> 110 & 1023]
        + pairs[number >> 100 & 1023]
        + pairs[number >> 90 & 1023]
        + pairs[number >> 80 & 1023]
        + pairs[number >> 70 & 1023]
        + pairs[number >> 60 & 1023]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


def from_text(rid: str) -> int:
    """The 128-bit number of a rid. Raises EINVAL."""
    if len(rid) != LENGTH or not _VALID.issuperset(rid) or rid[0] > "7":
        raise EINVAL(f"{rid[:40]!r} is not a record id", hint="a rid has 26 characters")
    return int(rid.translate(_TO_DIGITS), 32)


def pack(rid: str) -> bytes:
    """The 16 bytes of a rid. Raises EINVAL."""
    return from_text(rid).to_bytes(SIZE, "big")


def unpack(data: bytes) -> str:
    """The rid of 16 bytes."""
    return to_text(int.from_bytes(data, "big"))


def space_of(rid: str) -> int:
    """The number of the space that a record is in. Raises EINVAL."""
    return from_text(rid) >> 32 & MAX_SPACE


def time_of(rid: str) -> float:
    """When a record was made, in seconds since the epoch, to the millisecond."""
    return (from_text(rid) >> 80) / 1000


class RidMaker:
    """Makes the ids of one space, each above the one before."""

    __slots__ = ("_random", "_space", "_stamp")

    def __init__(self, space: int, random: Random) -> None:
        if not 0 < space <= MAX_SPACE:
            raise EINVAL(f"{space} is not a space number")
        self._space = space << 32
        self._random = random
        self._stamp = -1

    def follow(self, number: int) -> None:
        """Make every id from now on greater than ``number``, an id of this space."""
        self._stamp = max(self._stamp, number >> 64)

    def move(self, space: int) -> None:
        """Make the ids of another layer from now on, above those made before."""
        self._space = space << 32

    def make(self, now: float) -> int:
        """The next id, as a number; ``now`` is in seconds since the epoch."""
        stamp = int(now * 1000) << 16
        if stamp <= self._stamp:
            stamp = self._stamp + 1
        self._stamp = stamp
        return stamp << 64 | self._space | self._random.getrandbits(32)
