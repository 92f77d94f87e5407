"""Two classes of agents that are equals, one asking ten times as much, and a person at a shell.

Two sessions have one agent each. One agent keeps 120 requests before the model, the other 12;
every request begins with one of the agent's documents and goes on with a question of its own,
and the engine has room for about half of the documents. Then, under the same load, a third session
asks a short question now and then and waits for the first word. The load meets, one after
another on the same engine:

    none   no scheduling: everything goes to the engine, which serves first come, first served
    fcfs   first come, first served, by the scheduler
    vtc    the virtual token counter: fair, knows nothing of prefixes
    lpm    the longest cached prefix first: knows nothing of fairness
    dlpm   deficit longest prefix match, which is the default

``jain`` is Jain's index of the tokens that were computed for the two agents, of dlpm: at least
0.97. ``ours`` and ``floor`` are the 95th percentile of the shell's time to the first word in
seconds, of dlpm under load and of a machine without load; ``ratio`` is at most 3.
``throughput`` is tokens of dlpm over none (at least 0.95), ``locality`` is the cached part of
prompts of dlpm over lpm (at least 0.9), ``over_vtc`` the same over vtc (more than 1). The model
is small and has random weights. ``--engine transformers`` takes that engine; ``--seconds`` is
how long each order is loaded.
"""

import argparse
import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks._harness import kernel, percentile, report
from syscalls.calls import llm
from userland.client import BlockingClient

ORDERS = ("none", "fcfs", "vtc", "lpm", "dlpm")
WORDS = 2000
"""Words of the model's language; each is one token."""
DOCUMENTS, LONG, SHORT = 12, 512, 64
"""Documents of an agent; tokens of one, and of a question about it."""
ANSWER = (16, 48)
MANY, FEW = 120, 12
BATCH = 16
BLOCK = 128
ROOM = DOCUMENTS * LONG + BATCH * 2 * BLOCK
"""Tokens of keys and values: half of all documents, and the ends of what runs."""
LAYERS, HEADS, HEAD = 6, 4, 32
KV_BYTES = ROOM * LAYERS * 2 * HEADS * HEAD * 4
QUIET, WARM = 20, 5.0
"""Questions without load; seconds of load before anything counts."""
AGENT = """
import json, random, time, trio

async def main(agent):
    load = json.loads(agent.goal)
    own = random.Random(load["seed"])
    words = lambda n: " ".join(f"w{{own.randrange({words})}}" for _ in range(n))
    documents = [words({long}) for _ in range({documents})]
    done = []

    async def work():
        while True:
            prompt = own.choice(documents) + " " + words({short})
            made = await agent.llm.generate(prompt=prompt, max_tokens=own.randrange(*{answer}))
            usage = made.usage
            done.append([time.monotonic(), usage.prompt, usage.cached, usage.completion])

    async with trio.open_nursery() as nursery:
        for _ in range(load["requests"]):
            nursery.start_soon(work)
        await agent.recv()
        nursery.cancel_scope.cancel()
    await agent.ipc.publish(topic="done", body={{"requests": load["requests"], "done": done}})
"""


class Loaded(msgspec.Struct):
    """What one order came to."""

    computed: list[int]
    """Tokens computed for each agent."""
    tokens: float
    """Of prompts and completions, in a second."""
    hits: float
    """Part of the prompts that was cached."""
    first: list[float]
    """Seconds to the shell's first words."""
    waits: float
    """The median seconds that a request of the smaller agent waited in the scheduler."""

    @property
    def jain(self) -> float:
        """Of the tokens computed."""
        squares = len(self.computed) * sum(each * each for each in self.computed)
        return sum(self.computed) ** 2 / squares if squares else 0.0


def make_model(folder: Path) -> None:
    """A model with random weights whose tokens are words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words | {"?": WORDS}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(str(folder))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS + 1,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=LAYERS,
        num_attention_heads=2 * HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))


class Shell:
    """A session that asks short questions and waits for the first word of each answer."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client
        self._random = random.Random(5)

    def ask(self) -> float:
        """Seconds to the first word."""
        words = " ".join(f"w{self._random.randrange(WORDS)}" for _ in range(2 * BLOCK))
        call = llm.Generate(prompt=words, max_tokens=8, stream=True)
        began, first = time.monotonic(), 0.0
        for _ in self._client.stream(call):
            first = first or time.monotonic() - began
        return first

    def keep_asking(self, seconds: float) -> list[float]:
        """For so long, with a pause of about half a second after each."""
        until, taken = time.monotonic() + seconds, []
        while time.monotonic() < until:
            taken.append(self.ask())
            time.sleep(self._random.uniform(0.3, 0.7))
        return taken


def flags(order: str, model: Path, engine: str) -> list[str]:
    """The kernel's."""
    given = ["--embedder", "none", "--engine", engine, "--model", str(model)]
    given += ["--adapters", "0", "--promote", "off", "--llm-queue", "1000"]
    if engine == "vllm":
        given += ["--engine-options", f"batch={BATCH},kv_bytes={KV_BYTES}"]
    scheduler = "fcfs" if order == "none" else order
    return [*given, "--scheduler", scheduler, *(["--llm-slots", "4096"] * (order == "none"))]


def load(order: str, model: Path, engine: str, seconds: float) -> tuple[Loaded, list[float]]:
    """One order under load; and the shell's times before that, without load."""
    program = model.parent / "asker.py"
    program.write_text(
        AGENT.format(words=WORDS, long=LONG, short=SHORT, documents=DOCUMENTS, answer=ANSWER)
    )
    with ExitStack() as stack:
        data = stack.enter_context(kernel(*flags(order, model, engine)))
        many, few, person = (stack.enter_context(BlockingClient.open(data)) for _ in range(3))
        shell = Shell(person)
        shell.ask()  # it has loaded
        quiet = [shell.ask() for _ in range(QUIET)]
        person.ipc.subscribe(topic="done")
        agents = []
        for client, requests in ((many, MANY), (few, FEW)):
            goal = json.dumps({"requests": requests, "seed": requests})
            agents.append(client.proc.spawn(program=str(program), goal=goal).apid)
        time.sleep(WARM)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        figures = person.sys.stats().stats["llm_time"]
        first = shell.keep_asking(seconds)
        for apid in agents:
            person.ipc.send(to=apid, body="enough")
        told = [person.ipc.recv(topic="done", timeout=120.0).message.body for _ in agents]
    rows = [
        [row for row in each["done"] if began <= row[0] <= ended]
        for each in sorted(told, key=lambda each: int(each["requests"]))
    ]
    whole = [row for each in rows for row in each]
    (waits,) = [p["wait_p50"] for p in figures["processes"] if p["apid"] == agents[1]]
    result = Loaded(
        computed=[sum(row[1] - row[2] + row[3] for row in each) for each in rows],
        tokens=sum(row[1] + row[3] for row in whole) / (ended - began),
        hits=sum(row[2] for row in whole) / max(sum(row[1] for row in whole), 1),
        first=first,
        waits=waits,
    )
    return result, quiet


def main(engine: str, seconds: float) -> None:
    results: dict[str, Loaded] = {}
    quiet: list[float] = []
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as name:
        make_model(Path(name) / "model")
        for order in ORDERS:
            results[order], unloaded = load(order, Path(name) / "model", engine, seconds)
            quiet += unloaded
            got = results[order]
            print(
                f"{order:5} jain {got.jain:.3f}  tokens/s {got.tokens:7.0f}  cached {got.hits:.3f}"
                f"  first word p95 {percentile(got.first, 0.95):.3f} s",
                flush=True,
            )
    fair = results["dlpm"]
    alone, ours = percentile(quiet, 0.95), percentile(fair.first, 0.95)
    orders: dict[str, Any] = {
        order: {
            "jain": got.jain,
            "tokens": got.tokens,
            "hits": got.hits,
            "first_p50": percentile(got.first, 0.5),
            "first_p95": percentile(got.first, 0.95),
            "wait_p50": got.waits,
        }
        for order, got in results.items()
    }
    report(
        "fair",
        ours,
        alone,
        ours / alone,
        unit="s",
        bound=3.0,
        jain=fair.jain,
        first_fcfs_ratio=percentile(results["fcfs"].first, 0.95) / alone,
        throughput=fair.tokens / results["none"].tokens,
        locality=fair.hits / max(results["lpm"].hits, 1e-9),
        over_vtc=fair.hits / max(results["vtc"].hits, 1e-9),
        orders=orders,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--seconds", type=float, default=25.0)
    arguments = parser.parse_args()
    main(arguments.engine, arguments.seconds)
