"""From what is asked to token ids, and from token ids to text. The local engines share it."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

from drivers.llm.pictures import blind
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.kv.contract import PinRequest
    from drivers.llm.contract import GenerateRequest
    from syscalls.shapes import ChatMessage


class Tokens:
    """A tokenizer, and the rules about what in a prompt may be a special token.

    What a user, a note or a tool said must not become a turn of the conversation. So special
    tokens that are *written* are read as plain text, unless the request says ``special``;
    those that the chat template puts between the turns are tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer`` is one of transformers."""
        self.hugging = tokenizer
        written = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, filter(None, written))) or "(?!)")

    def encode(
        self,
        text: str | None,
        messages: Sequence[ChatMessage] | None,
        *,
        special: bool = False,
        asks: bool = True,
    ) -> list[int]:
        """Tokens of a text, or of messages up to where the assistant speaks.

        Without ``asks`` the assistant's turn is not begun.

        Raises EINVAL; ENODEV for pictures, which no local engine shows its model.
        """
        blind(messages)
        if messages is None:
            return list(self.hugging(text or "", split_special_tokens=not special)["input_ids"])
        if not self.hugging.chat_template:
            lines = [f"{message.role}: {message.content}\n" for message in messages]
            turn = "assistant:" if asks else ""
            return self.encode("".join(lines) + turn, None, special=special)
        nonce = secrets.token_hex(8)
        filled = self._fill(messages, "" if special else nonce, asks=asks)
        tokens: list[int] = []
        # Odd parts are special tokens that somebody wrote; the others are the template's.
        for place, part in enumerate(re.split(f"{nonce}<(.*?)>{nonce}", filled, flags=re.S)):
            tokens += self.hugging(
                part, add_special_tokens=False, split_special_tokens=bool(place % 2)
            )["input_ids"]
        return tokens

    def _fill(self, messages: Sequence[ChatMessage], nonce: str, *, asks: bool) -> str:
        """The template filled in, special tokens in the messages between marks of ``nonce``."""
        from jinja2 import TemplateError

        def said(content: str) -> str:
            return self._special.sub(rf"{nonce}<\g<0>>{nonce}", content) if nonce else content

        turns = [{"role": each.role, "content": said(each.content)} for each in messages]
        try:
            filled: str = self.hugging.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=asks
            )
        except TemplateError as error:
            raise EINVAL(
                f"the model's chat template refuses these messages: {error}",
                hint="some models take no `system` turn, or want user and assistant in turn",
            ) from error
        return filled

    def prompt(self, request: GenerateRequest, context: int) -> list[int]:
        """The prompt's tokens, at least one, fewer than ``context``. Raises EINVAL."""
        check(request)
        tokens = self.encode(request.prompt, request.messages, special=request.special)
        if not tokens:
            raise EINVAL("the prompt has no tokens", hint="give `messages` or a `prompt`")
        if len(tokens) >= context:
            raise EINVAL(
                f"the prompt has {len(tokens)} tokens, the model takes {context - 1}",
                hint="shorten it; `llm.count` counts tokens",
                tokens=len(tokens),
                limit=context - 1,
            )
        return tokens

    def beginning(self, request: PinRequest, context: int) -> list[int]:
        """The tokens that every prompt has which goes on from a pin's. Raises EINVAL.

        Of messages, those up to the end of the last: no turn of the assistant is begun.
        """
        if not request.salt:
            raise EINVAL("a pin without a salt would be nobody's", hint="give `salt`")
        if not request.prompt and not request.messages:
            raise EINVAL("there is nothing to pin", hint="give `messages` or a `prompt`")
        tokens = self.encode(request.prompt, request.messages, asks=False)
        if len(tokens) >= context:
            raise EINVAL(
                f"the beginning has {len(tokens)} tokens, the model takes {context - 1}",
                hint="pin a shorter one; `llm.count` counts tokens",
                tokens=len(tokens),
                limit=context - 1,
            )
        return tokens

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens, with special ones or without."""
        text: str = self.hugging.decode(tokens, skip_special_tokens=not special)
        return text


def check(request: GenerateRequest) -> None:
    """What no engine can serve. Raises EINVAL."""
    if not request.prompt and not request.messages:
        raise EINVAL("the prompt is empty", hint="give `messages` or a `prompt`")
    if request.schema is not None and request.grammar:
        raise EINVAL("a text follows a schema or a grammar, not both", hint="leave one out")


def salt_of(request: GenerateRequest | PinRequest) -> str:
    """What is cached under one salt is used for equal salts only."""
    return f"salt:{request.salt}" if request.salt else f"owner:{getattr(request, 'owner', 0)}"


def is_salt(salt: str) -> bool:
    """Whether what ``salt_of`` gave means the same after a reboot; an APID does not."""
    return salt.startswith("salt:")
