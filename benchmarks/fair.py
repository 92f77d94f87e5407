"""Two classes of agents that are equals, one asking ten times as much, and a person at a shell.

Two sessions have one agent each. One agent keeps 120 requests before the model, the other 12;
every request begins with one of the agent's documents and goes on with a question of its own,
and the engine has room for about half of the documents. Then, under the same load, a third session
asks a short question now and then and waits for the first word. Five kernels, each with an
engine of its own, have this load in turn:

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
how long each order is measured, without and then with the shell.
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
from syscalls.errors import ETIME
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
PATIENCE = 15.0
"""Seconds after which a question without an answer is given up."""
ROUNDS = 3
QUIET, WARM = 10, 3.0
"""Of a round: questions without load; seconds of load before anything counts."""
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

    while (await agent.recv()).body == "go":
        done.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(load["seed"]):
                nursery.start_soon(work)
            await agent.recv()
            nursery.cancel_scope.cancel()
        await agent.ipc.publish(topic="done", body={{"requests": load["seed"], "done": done}})
"""


class Loaded(msgspec.Struct):
    """What one order came to, in all rounds."""

    computed: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    """Tokens computed for the smaller agent and for the larger."""
    prompt: int = 0
    cached: int = 0
    rates: list[float] = []
    """Tokens of prompts and completions in a second, of each round."""
    first: list[float] = []
    """Seconds to the shell's first words, under load."""
    quiet: list[float] = []
    """Likewise, without load."""

    @property
    def jain(self) -> float:
        """Of the tokens computed."""
        squares = len(self.computed) * sum(each * each for each in self.computed)
        return sum(self.computed) ** 2 / squares if squares else 0.0

    @property
    def hits(self) -> float:
        """Part of the prompts that was cached."""
        return self.cached / max(self.prompt, 1)


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
        """Seconds to the first word; ``PATIENCE`` where none comes by then."""
        words = " ".join(f"w{self._random.randrange(WORDS)}" for _ in range(2 * BLOCK))
        call = llm.Generate(prompt=words, max_tokens=8, stream=True, deadline=PATIENCE)
        began, first = time.monotonic(), 0.0
        try:
            for _ in self._client.stream(call):
                first = first or time.monotonic() - began
        except ETIME:
            return first or PATIENCE
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


class System:
    """One kernel with its agents, which has load only in its rounds."""

    def __init__(self, stack: ExitStack, order: str, model: Path, engine: str) -> None:
        self.loaded = Loaded()
        data = stack.enter_context(kernel(*flags(order, model, engine)))
        many, few, person = (stack.enter_context(BlockingClient.open(data)) for _ in range(3))
        self._person = person
        self._shell = Shell(person)
        person.llm.generate(prompt="w1", max_tokens=4)  # it has loaded
        person.ipc.subscribe(topic="done")
        self._agents = [
            client.proc.spawn(
                program=str(model.parent / "asker.py"), goal=json.dumps({"seed": requests})
            ).apid
            for client, requests in ((many, MANY), (few, FEW))
        ]

    def round(self, seconds: float) -> None:
        """Some questions without load, then load, then questions under load."""
        loaded = self.loaded
        loaded.quiet += [self._shell.ask() for _ in range(QUIET)]
        self._tell("go")
        time.sleep(WARM)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        loaded.first += self._shell.keep_asking(seconds)
        self._tell("stop")
        told = [self._person.ipc.recv(topic="done", timeout=120.0).message.body for _ in (0, 1)]
        tokens = 0
        for number, each in enumerate(sorted(told, key=lambda each: int(each["requests"]))):
            for at, prompt, cached, completion in each["done"]:
                if began <= at <= ended:
                    loaded.computed[number] += prompt - cached + completion
                    loaded.prompt += prompt
                    loaded.cached += cached
                    tokens += prompt + completion
        loaded.rates.append(tokens / (ended - began))

    def _tell(self, word: str) -> None:
        for apid in self._agents:
            self._person.ipc.send(to=apid, body=word)


def figures(loaded: Loaded) -> dict[str, Any]:
    """One order's, for the report."""
    return {
        "jain": loaded.jain,
        "tokens": percentile(loaded.rates, 0.5),
        "hits": loaded.hits,
        "first_p50": percentile(loaded.first, 0.5),
        "first_p95": percentile(loaded.first, 0.95),
        "questions": len(loaded.first),
    }


def main(engine: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as name, ExitStack() as stack:
        model = Path(name) / "model"
        make_model(model)
        program = AGENT.format(
            words=WORDS, long=LONG, short=SHORT, documents=DOCUMENTS, answer=ANSWER
        )
        (model.parent / "asker.py").write_text(program)
        systems = {order: System(stack, order, model, engine) for order in ORDERS}
        for _ in range(ROUNDS):  # in turn, so that a drift of the machine meets all
            for system in systems.values():
                system.round(seconds / ROUNDS)
    got = {order: system.loaded for order, system in systems.items()}
    alone = percentile([taken for each in got.values() for taken in each.quiet], 0.95)
    fair = got["dlpm"]
    ours = percentile(fair.first, 0.95)
    ratios = [rate / base for rate, base in zip(fair.rates, got["none"].rates, strict=True)]
    report(
        "fair",
        ours,
        alone,
        ours / alone,
        unit="s",
        bound=3.0,
        jain=fair.jain,
        first_fcfs_ratio=percentile(got["fcfs"].first, 0.95) / alone,
        throughput=percentile(ratios, 0.5),
        locality=fair.hits / max(got["lpm"].hits, 1e-9),
        over_vtc=fair.hits / max(got["vtc"].hits, 1e-9),
        orders={order: figures(each) for order, each in got.items()},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--seconds", type=float, default=25.0)
    arguments = parser.parse_args()
    main(arguments.engine, arguments.seconds)
