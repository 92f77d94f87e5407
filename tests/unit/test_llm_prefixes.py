"""What a transformers engine keeps in its own memory, and which models have blocks at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import DynamicCache, PretrainedConfig

from drivers.kv.chain import Mark
from drivers.kv.image import encode
from drivers.kv.tensors import layout, planes, tensors
from drivers.llm.pins import lasting
from drivers.llm.prefix import Kept, Prefixes, cut, fill, layers_of, plain
from drivers.llm.tokens import salt_of
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from pathlib import Path

ANA = Mark("salt:ana")
BYTES = 2 * 2 * 4 * 4
"""Of a token: two layers, keys and values, 4 wide, 4 bytes each."""


def cache_of(tokens: list[int]) -> Any:
    cache = DynamicCache()
    for layer in range(2):
        keys = torch.tensor(tokens, dtype=torch.float32).reshape(1, 1, -1, 1).repeat(1, 1, 1, 4)
        cache.update(keys + layer, -keys - layer, layer)
    return cache


def kept(tokens: list[int], mark: Mark = ANA) -> Kept:
    return Kept(mark, tokens, layers_of(cache_of(tokens)))


def test_the_longest_beginning_is_found_under_its_mark_only() -> None:
    prefixes = Prefixes(1 << 20)
    prefixes.keep(ANA, range(20), cache_of([*range(20)]), 0)
    prefixes.pin("h", kept([*range(10), 99, 98]))
    assert prefixes.find(ANA, [*range(30)]).tokens == 20
    assert prefixes.find(ANA, [*range(10), 99, 98, 97]).tokens == 12
    assert prefixes.find(ANA, [*range(5)]).tokens == 0, "sooner computed than copied"
    for mark in (Mark("salt:bob"), Mark("salt:ana", "a@1-000000000000"), Mark("owner:1")):
        assert prefixes.find(mark, [*range(30)]).tokens == 0


def test_what_is_filled_in_is_a_copy() -> None:
    prefixes = Prefixes(1 << 20)
    prefixes.pin("h", kept([*range(16)]))
    for _ in range(2):
        cache = DynamicCache()
        known = prefixes.find(ANA, [*range(12), 50])
        fill(cache, [cut(known.layers, 0, 4), cut(known.layers, 4, known.tokens)])
        assert cache.get_seq_length() == 12
        for layer, right in zip(cache.layers, cache_of([*range(12)]).layers, strict=True):
            assert torch.equal(layer.keys, right.keys)
            assert torch.equal(layer.values, right.values)
            layer.keys.zero_()
            layer.values.zero_()


def test_pinned_ones_stay_and_count() -> None:
    prefixes = Prefixes(40 * BYTES)
    prefixes.pin("h", kept([*range(20)]))
    for number in range(1, 9):
        tokens = [number * 100 + each for each in range(10)]
        prefixes.keep(ANA, tokens, cache_of(tokens), 0)
    assert prefixes.find(ANA, [*range(20)]).tokens == 20
    assert prefixes.pinned_bytes() == 20 * BYTES
    assert prefixes.pinned_bytes("h") == 0
    assert sum(each.bytes for each in prefixes) == 40 * BYTES
    prefixes.pin("h", kept([*range(500, 510)]))
    assert prefixes.pinned_bytes() == 10 * BYTES
    assert prefixes.find(ANA, [*range(20)]).tokens == 0, "the handle has another meaning now"
    prefixes.unpin("h")
    prefixes.unpin("nobody's")
    assert prefixes.pinned_bytes() == 0
    assert prefixes.find(ANA, [*range(500, 510)]).tokens == 10, "it may leave, it need not"


def test_what_began_before_something_was_forgotten_is_not_kept() -> None:
    prefixes = Prefixes(1 << 20)
    prefixes.pin("h", kept([*range(20)]))
    prefixes.pin("other", kept([*range(50, 70)]))
    epoch = prefixes.epoch
    assert prefixes.forget(lambda each: int(each.tokens[0]) == 0) == ["h"]
    prefixes.keep(ANA, range(25), cache_of([*range(25)]), epoch)
    assert prefixes.find(ANA, [*range(25)]).tokens == 0
    prefixes.keep(ANA, range(25), cache_of([*range(25)]), prefixes.epoch)
    assert prefixes.find(ANA, [*range(25)]).tokens == 25
    assert prefixes.find(ANA, [*range(50, 70)]).tokens == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_come_back_bit_by_bit(dtype: torch.dtype) -> None:
    given = {
        "a": torch.randn(1, 2, 8, 4).to(dtype),
        "b": torch.randn(1, 8, 2, 4).to(dtype).transpose(1, 2),
        "c": torch.randn(1, 2, 30, 4).to(dtype)[..., 10:18, :],
    }
    image = encode("ab" * 32, "n", 0.0, planes(given))
    got = tensors(image)
    assert image.layout() == layout(given)
    for key, tensor in given.items():
        assert torch.equal(got[key].view(torch.uint8), tensor.contiguous().view(torch.uint8))


def test_only_models_that_keep_every_token_have_blocks(tmp_path: Path) -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    from drivers.llm.model import Model
    from drivers.llm.pins import Pins
    from tests.models import tiny_llm

    assert plain(cache_of([1, 2]))
    assert not plain(DynamicCache())
    windowed = PretrainedConfig(sliding_window=4, num_hidden_layers=2)
    cache = DynamicCache(config=windowed)
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert not plain(cache)
    folder = tiny_llm(tmp_path / "model")
    config = Lfm2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
    )
    Lfm2ForCausalLM(config).save_pretrained(str(folder))
    options = {"threads": 1, "kv_dir": str(tmp_path / "kv")}
    pins = Pins(Model(folder, options), folder, options)
    with pytest.raises(EINVAL, match="nothing can be pinned"):
        pins.room("h", 1000)
    assert pins.held() == ([], type(pins.held()[1])())
    assert not (tmp_path / "kv").exists()
    pins.close()


def test_what_does_not_mean_the_same_after_a_reboot_is_in_no_file() -> None:
    from drivers.llm.contract import GenerateRequest

    named = Mark(salt_of(GenerateRequest(salt="s", owner=7)))
    assert lasting(named)
    assert not lasting(Mark(salt_of(GenerateRequest(owner=7)))), "an APID"
    assert lasting(named._replace(adapter="a@1-0123456789ab"))
    assert not lasting(named._replace(adapter="a#1")), "a name that may come to mean another"
