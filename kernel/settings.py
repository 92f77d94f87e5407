"""Settings: from flags, then environment, then a TOML file, then defaults.

One struct is the whole truth: the field ``agent_memory`` is the flag ``--agent-memory``,
the variable ``ENGRAM_AGENT_MEMORY`` and the key ``agent_memory`` of the file. The file is
``--config``, or ``ENGRAM_CONFIG``, or ``engram.toml`` in the data directory where it exists.
"""

import argparse
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from syscalls.errors import EINVAL

Positive = Annotated[int, Meta(ge=1)]


def _doc(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set when the kernel starts."""

    data: Annotated[str, _doc("directory of everything that is kept; one kernel each")] = ""
    embedder: Annotated[
        str,
        _doc(
            "minilm, none, hash:DIM, or a sentence-transformers folder or hub name; "
            "what turns texts into vectors"
        ),
    ] = "minilm"
    embedder_before: Annotated[
        str,
        _doc(
            "the embedder used before, for a while after a change: searches use its vectors "
            "until every record is embedded anew; empty for none"
        ),
    ] = ""
    model: Annotated[
        str,
        _doc(
            "none, or the folder or hub name of a causal language model, or one on a server: "
            "openai:MODEL@URL"
        ),
    ] = "none"
    engine: Annotated[
        Literal["auto", "vllm", "transformers", "openai"],
        _doc("what runs the model: auto (chooses, and says why), vllm, transformers, openai"),
    ] = "auto"
    engine_options: Annotated[
        str,
        _doc(
            "options of the model's engine, such as batch=16,kv_bytes=268435456 (docs/models.md)",
            pattern=r"^([a-z_]+=[A-Za-z0-9_.-]+(,[a-z_]+=[A-Za-z0-9_.-]+)*)?$",
        ),
    ] = ""
    llm_slots: Annotated[
        int, _doc("generations in a model's engine at once; 0 for what the engine takes", ge=0)
    ] = 0
    llm_queue: Annotated[
        Positive, _doc("generations of one process that may wait for a model before EAGAIN")
    ] = 128
    scheduler: Annotated[
        Literal["dlpm", "vtc", "fcfs", "lpm"],
        _doc(
            "whose generation is next: dlpm (fair, prefixes that are cached first), vtc (fair), "
            "fcfs (first come, first served), lpm (cached prefixes only, to compare with)"
        ),
    ] = "dlpm"
    kv_ram: Annotated[
        int, _doc("bytes of keys and values kept in memory beside the model's engine", ge=0)
    ] = 1 << 30
    kv_disk: Annotated[
        int, _doc("bytes of keys and values kept on disk, in data/kv, over restarts", ge=0)
    ] = 20 << 30
    model_sees: Annotated[
        bool, _doc("whether a model on a server may be shown pictures; a server does not say")
    ] = False
    adapters: Annotated[
        int,
        _doc("LoRA adapters that an engine holds at once; 0 for none (docs/models.md)", ge=0),
    ] = 4
    adapter_rank: Annotated[
        int, _doc("highest rank of an adapter that vLLM makes room for", ge=1, le=512)
    ] = 32
    graph: Annotated[
        Literal["kuzu", "ladybug", "memory", "none"],
        _doc("what keeps the entity graphs, from the first question about entities on"),
    ] = "kuzu"
    mind: Annotated[
        Literal["nano", "model", "none"],
        _doc(
            "what understands intents: nano (the embedded small model, started at the first "
            "intent), model (the attached one), or none"
        ),
    ] = "nano"
    policy: Annotated[
        Literal["rules", "model"],
        _doc("who judges the importance of records: rules, or in the background the model"),
    ] = "rules"
    tidy_every: Annotated[
        float,
        _doc("seconds between two rounds that merge and archive records; 0 for never", ge=0.0),
    ] = 600.0
    consolidate_every: Annotated[
        float,
        _doc("seconds between two rounds that make facts of episodes; 0 for never", ge=0.0),
    ] = 600.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _doc("least level that goes to stderr")
    ] = "info"
    init: Annotated[
        str,
        _doc(
            "file with what init runs (docs/supervision.md); empty for init.toml in the data "
            "directory, where it exists"
        ),
    ] = ""
    seed: Annotated[int, _doc("seed of the kernel's randomness; 0 takes a new one")] = 0
    grace: Annotated[float, _doc("seconds between TERM and KILL", ge=0.0, le=600.0)] = 3.0
    session_timeout: Annotated[
        float,
        _doc("seconds a detached session is kept without a running job; 0 for ever", ge=0.0),
    ] = 0.0
    search_deadline: Annotated[
        float,
        _doc("seconds a search waits for the embedder before it answers without", ge=0.0, le=600.0),
    ] = 15.0
    recall_weights: Annotated[
        str,
        _doc(
            "how much the signals of a search count, such as voice=0,cjk_dense=1 "
            "(docs/recall.md); the others as they are",
            pattern=r"^([a-z_]+=[0-9.]+(,[a-z_]+=[0-9.]+)*)?$",
        ),
    ] = ""
    agent_memory: Annotated[
        int, _doc("bytes of private writable memory of an agent (RLIMIT_DATA)", ge=16 << 20)
    ] = 2 << 30
    agent_files: Annotated[int, _doc("open descriptors of an agent", ge=16, le=65536)] = 256
    agent_children: Annotated[
        int, _doc("live children of a process, those of the operating system included", ge=0)
    ] = 1000
    agent_records: Annotated[int, _doc("records in the space of an agent", ge=0)] = 2_000_000
    agent_kv: Annotated[
        int, _doc("bytes of keys and values that the pinned prefixes of a space may take", ge=0)
    ] = 2 << 30
    user_tokens: Annotated[
        int, _doc("tokens that models compute for one user (docs/processes.md); 0 for any", ge=0)
    ] = 0
    user_tokens_per: Annotated[
        float, _doc("seconds in which a user's tokens come back, evenly; 0 for never", ge=0.0)
    ] = 0.0
    user_records: Annotated[int, _doc("records of one user; 0 for any", ge=0)] = 0
    user_bytes: Annotated[
        int, _doc("stored bytes of one user, originals included; 0 for any", ge=0)
    ] = 0
    user_kv: Annotated[
        int, _doc("bytes of pinned keys and values of one user; 0 for any", ge=0)
    ] = 0
    promote: Annotated[
        Literal["on", "off"],
        _doc(
            "whether the stable beginning of what a busy process asks a model is pinned by itself, "
            "and let go again when it is cold"
        ),
    ] = "on"
    working_tokens: Annotated[
        int,
        _doc(
            "tokens of working memory in one space; over it the least wanted goes to episodic "
            "memory when the context is asked for",
            ge=256,
        ),
    ] = 16384
    stale_adapters: Annotated[
        Literal["detach", "retrain"],
        _doc(
            "what becomes of an adapter when a record that it was trained on is forgotten: it is "
            "erased and detached, or also trained again without that record"
        ),
    ] = "detach"
    training_jobs: Annotated[Positive, _doc("adapters that may be trained at the same time")] = 1
    adapter_bytes: Annotated[
        int, _doc("bytes that the adapters of a space may take before no more are trained", ge=0)
    ] = 2 << 30
    adapter_versions: Annotated[
        int, _doc("earlier versions of an adapter that are kept to go back to", ge=0)
    ] = 4
    adapter_tolerance: Annotated[
        float,
        _doc(
            "share of nano's regression set that a new adapter may answer wrongly and go live",
            ge=0.0,
            le=1.0,
        ),
    ] = 0.01
    adapter_drift: Annotated[
        float,
        _doc(
            "nats a token by which a new adapter may make a general model's former answers less "
            "likely and go live",
            ge=0.0,
        ),
    ] = 0.1
    tool_failures: Annotated[
        Positive,
        _doc("failures in a row, of one kind, after which the same tool call is refused"),
    ] = 2
    forgotten_images: Annotated[
        Literal["remove", "keep"],
        _doc(
            "what becomes of the images of a process when a record of its space is forgotten or "
            "deleted: they may hold it (docs/processes.md)"
        ),
    ] = "remove"
    checkpoint_every: Annotated[
        float,
        _doc(
            "seconds between two rounds that write images of the agents that have changed; "
            "0 for never",
            ge=0.0,
        ),
    ] = 0.0
    inflight: Annotated[Positive, _doc("calls in flight of one process")] = 1024
    mailbox: Annotated[Positive, _doc("messages waiting in one mailbox")] = 1000
    open_spaces: Annotated[Positive, _doc("spaces whose indexes are kept open")] = 256
    audit_lines: Annotated[Positive, _doc("uses by others that each space's audit remembers")] = (
        1000
    )
    store_limit: Annotated[
        int, _doc("most bytes the store may grow to; 0 for what the disk has", ge=0)
    ] = 0
    trace_lines: Annotated[Positive, _doc("syscalls that the trace remembers")] = 4096
    log_lines: Annotated[Positive, _doc("lines that the log remembers")] = 4096
    runtime: Annotated[
        str, _doc("module that runs Python agents; loaded once, before the first spawn")
    ] = "userland.runtime"

    def options(self) -> dict[str, Any]:
        """``engine_options`` by their names; whole numbers are numbers."""
        given = (item.partition("=") for item in self.engine_options.split(",") if item)
        return {name: int(value) if value.isdecimal() else value for name, _, value in given}

    def init_file(self) -> Path | None:
        """The file with what init runs; None where there is none."""
        usual = Path(self.data, "init.toml")
        return Path(self.init) if self.init else usual if usual.exists() else None


def described() -> list[tuple[str, str, str]]:
    """``(name, default, meaning)`` of each setting, in order; the manual is made from it."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Settings):
        metas = [m for m in hints[field.name].__metadata__ if isinstance(m, Meta) and m.description]
        rows.append((field.name, str(field.default), str(metas[0].description)))
    return rows


def default_data(environment: Mapping[str, str]) -> str:
    """Where the data directory is when nobody says."""
    base = environment.get("XDG_DATA_HOME") or os.path.join(
        environment.get("HOME", "/tmp"),
        ".local",
        "share",
    )
    return os.path.join(base, "engram")


def parser() -> argparse.ArgumentParser:
    """The flags of ``python -m kernel``, one a setting."""
    flags = argparse.ArgumentParser("engram boot", description="Start the EngramOS kernel.")
    flags.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, default, meaning in described():
        text = f"{meaning} [{default or 'see docs/settings.md'}]".replace("%", "%%")
        flags.add_argument("--" + name.replace("_", "-"), metavar="VALUE", help=text)
    return flags


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings in force. Raises EINVAL naming the setting and where it came from."""
    given = {k: v for k, v in vars(parser().parse_args(arguments)).items() if v is not None}
    names = [field.name for field in msgspec.structs.fields(Settings)]
    from_env = {
        name: environment["ENGRAM_" + name.upper()]
        for name in names
        if environment.get("ENGRAM_" + name.upper())
    }
    file = given.pop("config", None) or environment.get("ENGRAM_CONFIG")
    data = given.get("data") or from_env.get("data")
    from_file = _read_file(file, data or default_data(environment))
    values: dict[str, Any] = {}
    for source, layer in (("file", from_file), ("environment", from_env), ("flag", given)):
        for name, value in layer.items():
            values[name] = _checked(name, value, source)
    values["data"] = os.path.abspath(
        os.path.expanduser(values.get("data") or default_data(environment))
    )
    return Settings(**values)


def _read_file(file: str | None, data: str) -> dict[str, Any]:
    path = Path(file) if file else Path(data).expanduser() / "engram.toml"
    if not file and not path.exists():
        return {}
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise EINVAL(f"cannot read the settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise EINVAL(f"the settings file {path} is not TOML: {error}") from error


def _checked(name: str, value: Any, source: str) -> Any:
    hints = get_type_hints(Settings, include_extras=True)
    if name not in hints:
        raise EINVAL(
            f"there is no setting {name!r} (from {source})",
            hint="docs/settings.md lists them; `engram boot --help` too",
        )
    try:
        return msgspec.convert(value, hints[name], strict=source == "file")
    except msgspec.ValidationError as error:
        raise EINVAL(f"setting {name} from {source} is {value!r}: {error}") from error


def settings_page() -> str:
    """The page of all settings, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Generated from `kernel/settings.py`; do not edit.",
        "",
        "A setting comes from its flag (`engram boot --agent-memory 1000000000`), else from its"
        " environment variable (`ENGRAM_AGENT_MEMORY`), else from a TOML file (`agent_memory ="
        " 1000000000`), else it has its default. The file is `--config FILE`, or"
        " `ENGRAM_CONFIG`, or `engram.toml` in the data directory.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for name, default, meaning in described():
        shown = f"`{default}`" if default else "`~/.local/share/engram`" if name == "data" else ""
        lines.append(f"| `{name}` | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1], "settings.md").write_text(settings_page(), encoding="utf-8")
