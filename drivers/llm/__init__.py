"""Language models: prompts to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from drivers.contracts import Clock
    from drivers.llm.hosted import HostedLLM, NoLLM
    from drivers.supervisor import HostSettings, Log

ELSEWHERE = ("openai:", "http://", "https://")
"""What the name of a model on a server begins with."""


def make_llm(
    spec: str,
    *,
    engine: str,
    run_dir: Path,
    log: Log,
    clock: Clock,
    settings: HostSettings | None = None,
    options: dict[str, Any] | None = None,
) -> HostedLLM | NoLLM:
    """The language model that a setting names; it does nothing before its ``run``.

    ``spec`` is one of:

    - a folder, or else a hub name, of a causal language model
    - ``openai:MODEL@URL``, ``openai:MODEL`` or ``http://HOST:PORT/v1``: one on a server
    - ``none``

    ``engine`` is ``auto``, ``vllm``, ``transformers`` or ``openai``; ``options`` are the
    engine's (``key`` and ``sees`` go to one on a server only). Raises EINVAL for a local engine
    and a server. A model that cannot be loaded is not an error here: the model gets the state
    ``failed``, and its calls say why.
    """
    from drivers.llm.hosted import HostedLLM, NoLLM

    if spec in ("", "none"):
        return NoLLM()

    from drivers.protocol import EngineSpec
    from drivers.supervisor import Host
    from syscalls.errors import EINVAL

    given = dict(options or {})
    if spec.startswith(ELSEWHERE):
        if engine not in ("auto", "openai"):
            raise EINVAL(
                f"the model {spec} is on a server, the engine {engine} is not",
                hint="leave out --engine, or give a folder or hub name as --model",
            )
        if engine == "auto":
            log("info", "llm", "engine openai: the model is on a server")
        engine = "openai"
    if engine != "openai":
        given.pop("key", None)
        given.pop("sees", None)
    host = Host(
        "llm",
        EngineSpec("llm", engine, spec.removeprefix("openai:"), given),
        run_dir=run_dir,
        log=log,
        clock=clock,
        settings=settings,
    )
    return HostedLLM(host)
