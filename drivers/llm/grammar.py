"""Text that follows a JSON Schema or a grammar: tokens that would break it are masked.

llguidance (https://github.com/guidance-ai/llguidance) walks the tokenizer's trie with a lexer
of regular-expression derivatives and an Earley parser; a mask costs tens of microseconds.
vLLM uses the same library, so that both local engines accept the same grammars.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from torch import Tensor

    from drivers.llm.contract import GenerateRequest

KEPT = 64
"""Compiled grammars that are remembered."""


def compiled(request: GenerateRequest) -> str:
    """The constraint in llguidance's own form; empty for none. Raises EINVAL."""
    from llguidance import LLMatcher

    if request.schema is None and not request.grammar:
        return ""
    try:
        if request.schema is not None:
            # A small model may go on with white space for ever where it is free to.
            return str(
                LLMatcher.grammar_from_json_schema(
                    request.schema, defaults={"whitespace_flexible": False}
                )
            )
        return str(LLMatcher.grammar_from_lark(request.grammar))
    except ValueError as error:
        raise EINVAL(f"the schema or grammar cannot be read: {error}") from error


class Grammars:
    """Makes constraints for one tokenizer; equal grammars are compiled once."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> None:
        """``vocabulary`` is the number of logits, ``ends`` the tokens that end a text."""
        self._tokenizer = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._ends = sorted(ends)
        self._trie: Any = None
        self._matchers: OrderedDict[str, Any] = OrderedDict()

    def constraint(self, request: GenerateRequest) -> Constraint | None:
        """A constraint at its beginning; None for a free text. Raises EINVAL."""
        grammar = compiled(request)
        if not grammar:
            return None
        matcher = self._matchers.pop(grammar, None) or self._compile(grammar)
        self._matchers[grammar] = matcher
        if len(self._matchers) > KEPT:
            self._matchers.popitem(last=False)
        return Constraint(matcher.deep_copy())

    def _compile(self, grammar: str) -> Any:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._trie is None:  # a second for a large vocabulary, so only when it is wanted
            try:
                self._trie = from_tokenizer(
                    self._tokenizer, self._vocabulary, eos_token=self._ends or None
                )
            except ValueError as error:
                raise EINVAL(f"this model's tokenizer cannot be constrained: {error}") from error
        if wrong := LLMatcher.validate_grammar(grammar, self._trie):
            raise EINVAL(f"the schema or grammar is not valid: {wrong}")
        return LLMatcher(self._trie, grammar, log_level=0)


class Constraint:
    """One text on its way through a grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self, logits: Tensor) -> Tensor:
        """The logits, those of tokens that cannot follow at minus infinity."""
        import torch

        words = numpy.frombuffer(self._matcher.compute_bitmask(), numpy.uint8)
        allowed = numpy.unpackbits(words, bitorder="little")[: len(logits)].astype(bool)
        barred = torch.ones(len(logits), dtype=torch.bool)
        barred[: len(allowed)] = torch.from_numpy(~allowed)
        return logits.masked_fill(barred.to(logits.device), -math.inf)

    def take(self, token: int) -> bool:
        """Take the next token; True when nothing can follow it. Raises EINVAL."""
        if not self._matcher.consume_token(token):
            raise EINVAL(f"the grammar cannot go on: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())
