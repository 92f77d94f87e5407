"""A language model behind the kernel: loaded from a folder, streamed, cancelled, absent."""

from collections.abc import Iterator
from typing import Any

import pytest

from syscalls.calls import llm
from syscalls.errors import EINVAL, ETIME
from tests.harness import BOUND, RunningKernel, running
from tests.models import tiny_llm


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("llm")
    model = tiny_llm(folder / "model")
    with running(folder / "data", "--embedder", "none", "--model", str(model)) as kernel:
        yield kernel


def test_text_comes_in_chunks_and_whole(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        whole = client.llm.generate(prompt="the agent remembers", max_tokens=16, deadline=BOUND)
        assert whole.usage.prompt > 0
        assert 0 < whole.usage.completion <= 16
        call = llm.Generate(prompt="the agent remembers", max_tokens=16, stream=True)
        stream = client.stream(call)
        text = "".join(chunk.text for chunk in stream)
        assert text == whole.text == stream.reply.text


def test_tokens_are_counted(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        few = client.llm.count(text="hello").tokens
        assert 0 < few < client.llm.count(text="hello world hello world").tokens


@pytest.mark.parametrize("arguments", [{"prompt": ""}, {"prompt": "word " * 5000}, {}])
def test_bad_prompts(kernel: RunningKernel, arguments: dict[str, Any]) -> None:
    with kernel.client() as client, pytest.raises(EINVAL):
        client.llm.generate(**arguments)


def test_a_deadline_says_what_there_was(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        with pytest.raises(ETIME) as caught:
            client.llm.generate(prompt="the", max_tokens=200, deadline=0.0)
        assert "text" in caught.value.detail
        client.llm.generate(prompt="the", max_tokens=2, deadline=BOUND)
