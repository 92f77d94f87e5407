"""Language models: prompts to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.contracts import Clock
    from drivers.llm.hosted import HostedLLM, NoLLM
    from drivers.supervisor import HostSettings, Log


def make_llm(
    spec: str,
    *,
    engine: str,
    run_dir: Path,
    log: Log,
    clock: Clock,
    settings: HostSettings | None = None,
) -> HostedLLM | NoLLM:
    """The language model that a setting names; it does nothing before its ``run``.

    ``spec`` is a folder, or else a hub name, or ``none``; ``engine`` is ``transformers``.
    A model that cannot be loaded is not an error here: the model gets the state
    ``failed``, and its calls say why.
    """
    from drivers.llm.hosted import HostedLLM, NoLLM

    if spec in ("", "none"):
        return NoLLM()

    if engine == "auto":
        engine = "transformers"

    from drivers.protocol import EngineSpec
    from drivers.supervisor import Host

    host = Host(
        "llm",
        EngineSpec("llm", engine, spec),
        run_dir=run_dir,
        log=log,
        clock=clock,
        settings=settings,
    )
    return HostedLLM(host)
