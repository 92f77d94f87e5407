"""32 agents that generate at once, through the kernel; floor: the bare vLLM engine.

Each agent is a process with one ``llm.generate`` of its own prompt and salt; the floor gives
the same 32 requests to ``LLMEngine`` in a process that does nothing else. The model has 30
million random weights and no end token, so both make the same number of tokens. ``ours`` and
``floor`` are tokens a second in turn, medians; ``ratio`` is the median of ours over the floor
of the same turn, and more is better: at least 0.9.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import kernel, percentile, report
from userland.client import BlockingClient

AGENTS = 32
TOKENS = 96
ROUNDS = 5
KV_BYTES = 512 << 20
TEXT = "the kernel answers and each agent remembers what its user said about the model"
AGENT = """
import time
async def main(agent):
    done = None
    while True:
        order = (await agent.recv()).body
        if order is None:
            return
        began = time.monotonic()
        made = await agent.llm.generate(prompt=order, max_tokens={tokens})
        done = {{"began": began, "ended": time.monotonic(), "tokens": made.usage.completion}}
        await agent.ipc.publish(topic="done", body=done)
"""


def make_model(folder: Path) -> None:
    """A model of a common architecture with random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=alphabet, show_progress=False, special_tokens=["<pad>"]
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))


def prompts(turn: int) -> list[str]:
    """The prompts of one round; their beginnings differ, so that no cache helps anyone."""
    return [f"{turn} {agent} " + f"{TEXT} " * 4 for agent in range(AGENTS)]


# --- the floor, in a process of its own


def bare(folder: str) -> None:
    """Serve rounds: a line with prompts comes in, one with tokens and seconds goes out."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CONFIGURE_LOGGING": "0"}
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    where: dict[str, Any] = {"gpu_memory_utilization": 0.4}
    if current_platform.is_cpu():
        where = {"kv_cache_memory_bytes": KV_BYTES, "dtype": "float32", "enforce_eager": True}
    engine = LLMEngine.from_engine_args(
        EngineArgs(model=folder, max_num_seqs=64, disable_log_stats=True, **where)
    )
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, output_kind=RequestOutputKind.DELTA)
    number = 0
    print("ready", flush=True)
    for line in sys.stdin:
        made, began = 0, time.monotonic()
        for agent, prompt in enumerate(json.loads(line)):
            number += 1
            request = {"prompt": prompt, "cache_salt": str(agent)}
            engine.add_request(str(number), request, params.clone())
        while engine.has_unfinished_requests():
            for output in engine.step():
                made += len(output.outputs[0].token_ids)
        print(json.dumps([made, time.monotonic() - began]), flush=True)


class Bare:
    """The floor's process."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.throughput", "--bare", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "passive", "VLLM_NO_USAGE_STATS": "1"},
        )
        while (line := self._read()) != "ready":
            assert line is not None, "the bare engine ended before it was ready"

    def _read(self) -> str | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return line.strip() if line else None

    def round(self, texts: list[str]) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        made, seconds = json.loads(self._read() or "null")
        assert made == AGENTS * TOKENS
        return float(made / seconds)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


# --- the kernel


class Agents:
    """Agent processes that wait for a prompt each."""

    def __init__(self, client: BlockingClient, folder: Path) -> None:
        program = folder / "generator.py"
        program.write_text(AGENT.format(tokens=TOKENS))
        self._client = client
        client.ipc.subscribe(topic="done")
        self._apids = [client.proc.spawn(program=str(program)).apid for _ in range(AGENTS)]

    def round(self, texts: list[str]) -> float:
        """Tokens a second, from the first agent's call to the last one's reply."""
        for apid, text in zip(self._apids, texts, strict=True):
            self._client.ipc.send(to=apid, body=text)
        done = [
            self._client.ipc.recv(topic="done", timeout=300.0).message.body for _ in self._apids
        ]
        seconds = max(each["ended"] for each in done) - min(each["began"] for each in done)
        assert sum(each["tokens"] for each in done) == AGENTS * TOKENS
        return float(AGENTS * TOKENS / seconds)

    def close(self) -> None:
        """Let them end."""
        for apid in self._apids:
            self._client.ipc.send(to=apid, body=None)
            self._client.proc.wait(target=apid)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as name:
        folder = Path(name)
        make_model(folder / "model")
        flags = ("--embedder", "none", "--engine", "vllm", "--model", str(folder / "model"))
        with kernel(*flags) as data, BlockingClient.open(data) as client:
            client.llm.generate(prompt="it has loaded", max_tokens=4)
            floor = Bare(folder / "model")
            agents = Agents(client, folder)
            ours, floors = [], []
            for turn in range(ROUNDS + 1):  # in turn, so that a drift of the machine meets both
                texts = prompts(turn)
                taken = agents.round(texts), floor.round(texts)
                if turn:  # the first round warms both up
                    ours.append(taken[0])
                    floors.append(taken[1])
            agents.close()
            floor.close()
    ratios = [our / base for our, base in zip(ours, floors, strict=True)]
    report(
        "throughput",
        percentile(ours, 0.5),
        percentile(floors, 0.5),
        percentile(ratios, 0.5),
        unit="tokens/s",
        bound=0.9,
        agents=AGENTS,
        tokens=TOKENS,
        best_ratio=max(ratios),
        worst_ratio=min(ratios),
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bare", metavar="FOLDER", help=argparse.SUPPRESS)
    if (place := arguments.parse_args().bare) is not None:
        bare(place)
    else:
        main()
