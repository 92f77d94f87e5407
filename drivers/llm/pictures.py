"""Pictures in messages: as OpenAI's protocol has them, or refused where a model is blind."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from syscalls.errors import EINVAL, ENODEV

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syscalls.shapes import ChatMessage

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def media(data: bytes) -> str:
    """The media type of a picture, by what it begins with. Raises EINVAL."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise EINVAL("a picture is none of PNG, JPEG, GIF and WebP", hint="convert it first")


def turns(messages: Sequence[ChatMessage] | None) -> list[dict[str, Any]] | None:
    """Messages as a server takes them, pictures as data URLs after the words. Raises EINVAL."""
    return None if messages is None else [_turn(message) for message in messages]


def _turn(message: ChatMessage) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}]
    for data in message.images:
        url = f"data:{media(data)};base64,{b64encode(data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": message.role, "content": parts}


def blind(messages: Sequence[ChatMessage] | None) -> None:
    """Refuse pictures. Raises ENODEV."""
    if any(message.images for message in messages or ()):
        raise ENODEV(
            "the attached model reads words only: it cannot be shown pictures",
            hint="attach one that sees, on a server, with `--model-sees true`",
        )
