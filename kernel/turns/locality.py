"""What is believed of an engine's prefix cache, by text: the kernel has no tokenizer.

    text    [256 chars][256 chars][256 chars] ... [4096] ... [65536]       boundaries by position
    chain    h1         h2=h(h1,..) h3 ...         each hash stands for all that is before it

A prompt shares with the cache what its chain shares with the chains served before under the
same salt. Approximated are three things: how many characters a token has (learned from what
engines count), what the engine has evicted (least recently used is assumed; an engine that
reports fewer cached tokens than expected puts that right), and what a completion leaves in
the cache (nothing is assumed).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drivers.llm.contract import GenerateRequest
    from syscalls.shapes import Usage

Chain = tuple[int, ...]

STEPS = ((256, 64), (4096, 60), (65536, 1000))
"""Characters of a chunk, and how many chunks of that size there are, from the start on."""
BOUNDS = list(accumulate((size for size, count in STEPS for _ in range(count)), initial=0))
"""Where chunks begin: that many characters have so many chunks."""
UNKNOWN = 1 << 20
"""Tokens that an engine is taken to keep when it does not say."""
ENTRIES = 1 << 16
"""Chunks remembered at most."""
SLACK = 192
"""Tokens that an engine may report less than expected: it keeps whole blocks."""
LEARN = 0.1
"""Weight of a new observation."""


class Locality:
    """The chains that one engine was given, and those that it works on now."""

    def __init__(self, tokens: int = 0) -> None:
        """``tokens``: what the engine's cache holds; 0 where it does not say."""
        self.tokens = tokens
        self.chars = 4.0
        """Characters of a token, learned."""
        self._own = 0.0
        """Tokens of running requests that no chunk stands for: the ends, and completions."""
        self._stamp = 0
        self._known: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """Stamp of the last use of each chunk, and its number in its chain; the least recently
        used first."""
        self._size = 0
        """Characters of all these."""
        self._pinned: dict[int, int] = {}
        """Running requests that have each chunk."""
        self._shared = 0
        """Characters of all these."""
        self._running = 0

    def chain(self, request: GenerateRequest) -> tuple[Chain, float]:
        """The chain of a request and the tokens of its prompt, estimated."""
        text = request.prompt or ""
        if request.messages is not None:
            text = "".join(_turns(request))
        mark = hash((request.salt, request.adapter))
        chain = []
        start = 0
        for stop in BOUNDS[1 : bisect_right(BOUNDS, len(text))]:
            mark = hash((mark, text[start:stop]))
            chain.append(mark)
            start = stop
        return tuple(chain), len(text) / self.chars + 1

    def match(self, chain: Chain) -> int:
        """How many chunks of a chain are known; a chunk is never known without its parents."""
        low, high = 0, len(chain)
        if not high or chain[0] not in self._known:
            return 0
        while low < high:
            middle = (low + high + 1) // 2
            if chain[middle - 1] in self._known:
                low = middle
            else:
                high = middle - 1
        return low

    def tokens_of(self, chunks: int) -> float:
        """Tokens that so many chunks from the start have."""
        return BOUNDS[chunks] / self.chars

    def stamp_of(self, chain: Chain, chunks: int) -> int:
        """When the last of so many chunks was last used."""
        return self._known[chain[chunks - 1]][0] if chunks else 0

    @property
    def used(self) -> float:
        """Tokens of keys and values that running requests have; what they share counts once."""
        return self._own + self._shared / self.chars

    def fits(self, chain: Chain, own: float) -> bool:
        """Whether there is room for it beside what runs; always when nothing does.

        ``own`` are the tokens that the chain does not stand for.
        """
        if not self.tokens or not self._running:
            return True
        shared = 0
        for mark in chain:
            if mark not in self._pinned:
                break
            shared += 1
        more = self.tokens_of(len(chain)) - self.tokens_of(shared) + own
        return self.used + more <= self.tokens

    def begin(self, chain: Chain, own: float) -> None:
        """A request goes to the engine: its prompt will be in the cache."""
        self._own += own
        self._running += 1
        for number, mark in enumerate(chain):
            count = self._pinned[mark] = self._pinned.get(mark, 0) + 1
            if count == 1:
                self._shared += BOUNDS[number + 1] - BOUNDS[number]
        self._stamp += 1
        for number in range(len(chain) - 1, -1, -1):  # so that parents outlive children
            mark = chain[number]
            if mark in self._known:
                self._known.move_to_end(mark)
            else:
                self._size += BOUNDS[number + 1] - BOUNDS[number]
            self._known[mark] = self._stamp, number
        most = (self.tokens or UNKNOWN) * self.chars
        while self._size > most or len(self._known) > ENTRIES:
            self._drop()

    def end(self, chain: Chain, own: float) -> None:
        """The engine has let go of a request."""
        self._running -= 1
        self._own = self._own - own if self._running else 0.0
        for number, mark in enumerate(chain):
            left = self._pinned[mark] = self._pinned[mark] - 1
            if not left:
                del self._pinned[mark]
                self._shared -= BOUNDS[number + 1] - BOUNDS[number]

    def learn(self, chars: float, expected: float, stamp: int, usage: Usage) -> None:
        """What a request has shown: ``expected`` cached tokens, last used at ``stamp``.

        Where far fewer were cached, what was used no later than those has been evicted too.
        """
        if usage.prompt and chars:
            self.chars += LEARN * (max(chars / usage.prompt, 0.25) - self.chars)
        if expected and usage.cached < expected / 2 - SLACK:
            while self._known and next(iter(self._known.values()))[0] <= stamp:
                self._drop()

    def clear(self) -> None:
        """The engine has lost what it kept."""
        self._known.clear()
        self._size = 0

    def _drop(self) -> None:
        number = self._known.popitem(last=False)[1][1]
        self._size -= BOUNDS[number + 1] - BOUNDS[number]


def _turns(request: GenerateRequest) -> Iterator[str]:
    for message in request.messages or ():
        yield f"\0{message.role}\0"
        yield message.content
        for image in message.images:
            yield f"\0{hash(image)}"
