"""``--engine auto``: what it chooses from which facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drivers.llm import make_llm
from drivers.llm.auto import Facts, choose, look, parameters
from syscalls.errors import EINVAL, EIO
from tests.models import tiny_llm

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("facts", "engine", "said"),
    [
        (Facts(False, True, 10**10, LLAMA), "transformers", "not installed"),
        (Facts(True, True, 10**6, LLAMA), "vllm", "CUDA"),
        (Facts(True, False, 10**7, LLAMA), "transformers", "10.0M parameters"),
        (Facts(True, False, 10**9, LLAMA), "vllm", "1,000.0M parameters"),
        (Facts(True, True, 10**9, []), "transformers", "architecture"),
    ],
)
def test_what_is_chosen(facts: Facts, engine: str, said: str) -> None:
    chosen, why = choose(facts)
    assert chosen == engine
    assert said in why


def test_the_facts_of_a_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_llm(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert parameters(folder) == sum(weight.numel() for weight in model.parameters())
    assert look(folder).architectures == LLAMA
    (folder / "model.safetensors").write_bytes(b"\x05" + bytes(7) + b"hello")
    with pytest.raises(EIO, match="damaged"):
        look(folder)


def test_a_server_is_for_one_engine(tmp_path: Path) -> None:
    lines: list[str] = []

    def make(engine: str) -> None:
        make_llm(
            "openai:m@http://127.0.0.1:9/v1",
            engine=engine,
            run_dir=tmp_path,
            log=lambda _level, _source, text: lines.append(text),
            clock=None,  # type: ignore[arg-type]
        )

    with pytest.raises(EINVAL, match="on a server"):
        make("vllm")
    make("auto")
    assert lines == ["engine openai: the model is on a server"]
