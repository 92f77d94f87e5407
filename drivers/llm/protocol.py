"""The part of OpenAI's protocol that is read here, as data."""

from __future__ import annotations

import msgspec

from syscalls.errors import EAGAIN, EINVAL, EIO, EngramError
from syscalls.shapes import Usage

SHOWN = 500
"""Characters of a server's complaint that are passed on."""


class Served(msgspec.Struct):
    """One model of a server."""

    id: str
    owned_by: str = ""
    max_model_len: int | None = None
    """Context in tokens; only vLLM says it."""


class Models(msgspec.Struct):
    """What a server has."""

    data: list[Served]


class Tokenized(msgspec.Struct):
    """What vLLM's server says of a prompt."""

    count: int


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class Spent(msgspec.Struct):
    """Tokens of a request, said in its last chunk."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None

    def shape(self) -> Usage:
        """As the syscalls have it."""
        details = self.prompt_tokens_details
        cached = details.cached_tokens or 0 if details else 0
        return Usage(self.prompt_tokens, cached, self.completion_tokens or 0)


class _Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    """A piece of one answer; ``delta`` of a chat, ``text`` of a completion."""

    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    def said(self) -> str:
        """The new text."""
        return (self.delta.content if self.delta else self.text) or ""


class Complaint(msgspec.Struct):
    """What went wrong; ``code`` is a status of HTTP where a server says it in mid-stream."""

    message: str = ""
    code: int | str | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[Choice] = []
    usage: Spent | None = None
    error: Complaint | None = None


class _Complained(msgspec.Struct):
    error: Complaint


def refusal(url: str, status: int, body: bytes) -> EngramError:
    """The error for an answer that is not 200."""
    try:
        said = msgspec.json.decode(body, type=_Complained).error.message
    except msgspec.DecodeError:
        said = body.decode(errors="replace")
    return complaint(f"{url} answers {status}", status, said)


def complaint(who: str, status: object, said: str) -> EngramError:
    """The error for what a server says went wrong, with the status that it gives."""
    text = f"{who}: {said[:SHOWN]}"
    match status:
        case 400 | 413 | 422:
            return EINVAL(text)
        case 429:
            return EAGAIN(text, retry_after=1.0)
        case 401 | 403:
            hint = "set ENGRAM_API_KEY for the kernel"
            return EIO(text, hint=hint, driver="llm", retryable=False)
    lasting = isinstance(status, int) and 400 <= status < 500
    return EIO(text, driver="llm", retryable=not lasting)
