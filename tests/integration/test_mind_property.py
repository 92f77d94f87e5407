"""No model can say what its caller may not do: random logits under the grammar of random rights.

Most programs come from random logits put straight through the constraint (the same compiled
grammar, trie and masks that the engine uses), which is a model at infinite temperature with
nothing but noise for weights; some dozens come from a real random-weights model in the real
engine. After ``noise.PATIENCE`` tokens it is tilted towards the tokens that close a text, a
list or an object, where the grammar lets them: noise alone hardly ever ends a text. The tilt
chooses among what the mask allows and never past it.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from drivers.llm.contract import GenerateRequest
from drivers.nano import dialect as nano
from kernel.mind.chat import ChatDialect
from kernel.mind.grammar import NEVER, Surfaces, allowed, program_schema
from kernel.mind.nano import NanoDialect
from kernel.mind.prompt import Context
from syscalls.capability import CapSet
from syscalls.table import TABLE
from tests.models import tiny_llm
from tests.noise import Noise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAMS = 2000
SETS = 100
NANO_PROGRAMS = 400
GRANTS = sorted(TABLE.capabilities())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("tiny"), context=16384)


@cache
def struct_of(call: str) -> Callable[[Any], Any]:
    """Decodes the arguments of a call as the trap does: from msgpack, by the table."""
    return msgspec.msgpack.Decoder(TABLE.by_name[call].call).decode


def random_rights(chance: random.Random) -> CapSet:
    """A capability set: a few grants, many, or whole groups; sometimes on named objects."""
    some = chance.sample(GRANTS, chance.randint(0, chance.choice((2, 6, len(GRANTS)))))
    targets = ("", "", ":*", ":child", ":space/7")
    return CapSet(grant + chance.choice(targets) for grant in some)


def check(text: str, caps: CapSet) -> int:
    """Every step is a struct of the table that the set may call; returns how many there are."""
    thought = ChatDialect().parse(text, Context("", ()))
    assert thought.understood, text
    for step in thought.steps:
        entry = TABLE.by_name[step.call]
        assert caps.may(entry.capability), (step.call, caps)
        assert step.call not in NEVER
        struct_of(step.call)(msgspec.msgpack.encode(step.args))
    return len(thought.steps)


@pytest.mark.slow
def test_programs_over_random_rights_decode_and_stay_inside(model: Path) -> None:
    from transformers import AutoTokenizer

    noise = Noise(AutoTokenizer.from_pretrained(str(model)), 0, seed=3)
    chance = random.Random(5)
    surfaces = Surfaces()
    made = steps = empty = 0
    seen: set[str] = set()
    for _ in range(SETS):
        caps = random_rights(chance)
        surface = surfaces.of(caps)
        assert set(surface.calls) == set(allowed(caps))
        matcher = noise.matcher(GenerateRequest(schema=surface.schema))
        for _ in range(PROGRAMS // SETS):
            text = noise.program(matcher.deep_copy())
            count = check(text, caps)
            seen |= {step["call"] for step in json.loads(text)["steps"]}
            made, steps, empty = made + 1, steps + count, empty + (count == 0)
    assert made == PROGRAMS
    assert steps > PROGRAMS / 3, "the noise hardly ever makes a call: the test tests nothing"
    assert len(seen) > len(TABLE) / 2, sorted(seen)


def test_a_set_without_calls_leaves_only_words(model: Path) -> None:
    from transformers import AutoTokenizer

    noise = Noise(AutoTokenizer.from_pretrained(str(model)), 0, seed=4)
    matcher = noise.matcher(GenerateRequest(schema=program_schema(())))
    for _ in range(20):
        assert json.loads(noise.program(matcher.deep_copy()))["steps"] == []


# --- nano: the grammar is of the text as well

WORDS = (
    "kill,counter,and,remember,that,the,meeting,is,at,noon,tell,bob,“,delete,everything,”,in,10,"
    "minutes,half,an,hour,start,writer,with,goal,report,set,nice,to,five,提醒,我,记住,停止"
)


@pytest.fixture(scope="module")
def nano_tokenizer(model: Path) -> Any:
    """The tiny tokenizer with nano's tokens added as nano's own tokenizer has them."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    names = [nano.token(name) for name in nano.SPECIAL]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer.add_special_tokens({"eos_token": nano.STOP, "pad_token": nano.token(nano.PAD)})
    return tokenizer


def test_nano_programs_copy_from_the_text_and_stay_inside(nano_tokenizer: Any) -> None:
    """What is not counted (``after``: no duration) is no program; all else is in the table."""
    end = nano_tokenizer.convert_tokens_to_ids(nano.STOP)
    noise = Noise(nano_tokenizer, end, seed=6)
    dialect = NanoDialect()
    chance = random.Random(7)
    steps = refused = 0
    for _ in range(NANO_PROGRAMS):
        text = " ".join(chance.choices(WORDS.split(","), k=chance.randint(1, 25)))
        caps = random_rights(chance)
        surface = Surfaces().of(caps)
        context = Context(text, surface.calls)
        output = noise.program(noise.matcher(dialect.render(context, surface)))
        thought = dialect.parse(output, context)
        refused += not thought.understood
        for step in thought.steps:
            assert caps.may(TABLE.by_name[step.call].capability), (step.call, caps)
            struct_of(step.call)(msgspec.msgpack.encode(step.args))
            steps += 1
            copied = [step.args.get(name) for name in ("content", "query", "body", "message")]
            assert all(value in text for value in copied if value is not None), (text, step)
    assert steps > NANO_PROGRAMS / 4
    assert refused < NANO_PROGRAMS / 2
