"""From token ids to text as it grows, and where it stops. No torch."""

from collections.abc import Callable, Sequence

HOLD = 8
"""Tokens after which what looks like the beginning of a character is taken as it is."""
REPLACEMENT = "\ufffd"
"""What a tokenizer gives for bytes that are not (yet) a character."""


class Detokenizer:
    """Text of a growing list of tokens, in pieces that never have to be taken back.

    A token may be a part of a character, and what it decodes to can depend on its
    neighbours (a leading space). So a short window of earlier tokens is decoded with and
    without the new ones; the difference is the new text, held back while it ends in an
    incomplete character. The scheme is that of Hugging Face's text-generation-inference.

        tokens   a b c d e f g
                     ^prefix ^read      text = decode(c..g) minus decode(c..f)
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._prefix = 0
        self._read = 0

    def push(self, token: int) -> str:
        """The text that this token completes; often a few characters, sometimes none."""
        self._tokens.append(token)
        return self._advance(final=len(self._tokens) - self._read >= HOLD)

    def flush(self) -> str:
        """What is still held back, its broken characters replaced."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._prefix : self._read])
        after = self._decode(self._tokens[self._prefix :])
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not final):
            return ""
        self._prefix, self._read = self._read, len(self._tokens)
        return after[len(before) :]


class Stopper:
    """Cuts a growing text at the first of some strings, which it does not let through.

    Text that may be the beginning of such a string is held back until that is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text that is certain to come before any stop string."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def flush(self) -> str:
        """What was held back, the text having ended without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
