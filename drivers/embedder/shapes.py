"""What travels between ``HostedEmbedder`` and the engine in its host."""

import msgspec


class EmbedArguments(msgspec.Struct):
    """Arguments of ``embed``."""

    texts: list[str]
    background: bool = False


class Embedding(msgspec.Struct):
    """Answer of ``embed``: rows of little-endian float32, one for each text."""

    data: bytes
    tokens: int = 0
