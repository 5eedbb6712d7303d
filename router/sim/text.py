"""Text to tokens and back, as a simulated engine does it: Hugging Face `tokenizers` and jinja2.

The router has its own reader for the same job; this one shares nothing with it, so that agreement means something.

Token ids are remembered per stretch of text between added tokens, because a turn repeats all turns before it. That is
exact where the tokenizer looks at nothing beyond such a stretch: added tokens are cut out of the raw text before
anything else, and byte-level pre-tokenizers neither add a prefix space nor look back. Any other tokenizer is asked for
the whole text every time.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any  # template arguments and parsed JSON have no narrower type

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer

from router.sim.chat import Json, Malformed, conversation, tool_forms, without_developer
from router.sim.jinja import cut_at_mark, jinja_environment, marked, takes_parts

SHIPPED_TOKENIZER = Path(__file__).parent / "tokenizer"
EXACT_PRE_TOKENIZERS = {"Sequence", "Split", "ByteLevel", "Digits"}
EXACT_NORMALIZERS = {"NFC"}


class TextError(Exception):
    """The template refused the conversation, or it cannot be read."""


class Tokens:
    """A tokenizer with a bounded memory of stretches. May be called from several threads."""

    def __init__(self, directory: Path, *, remembered_bytes: int = 64 << 20) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        description = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        self.vocabulary_tokens = self.tokenizer.get_vocab_size()
        self._frame = self.tokenizer.encode("").ids  # what a post-processor puts around every completion prompt
        added = [token["content"] for token in description["added_tokens"]]
        self._cut = re.compile("(" + "|".join(re.escape(text) for text in sorted(added, key=len, reverse=True)) + ")")
        self._exact = bool(added) and _cuts_cleanly(description)
        self._lock = Lock()
        self._memory: OrderedDict[str, array[int]] = OrderedDict()
        self._remembered_bytes = 0
        self._remembered_limit_bytes = remembered_bytes
        self._texts: dict[int, str] = {}

    def encode(self, text: str, *, framed: bool = False) -> list[int]:
        """Token ids; `framed` puts the tokenizer's own begin and end tokens around them (completions do, chats not)."""
        if not self._exact or (framed and self._frame):
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=framed).ids
            return ids
        whole = array("I")
        for stretch in self._cut.split(text):
            if stretch:
                whole.extend(self._stretch(stretch))
        return whole.tolist()

    def new_characters(self, text: str) -> int:
        """Characters of stretches not remembered: what `encode` would have to work on."""
        if not self._exact:
            return len(text)
        return sum(len(stretch) for stretch in self._cut.split(text) if stretch not in self._memory)

    def text(self, token: int) -> str:
        """The text of one token alone. Bytes that are no character by themselves show as a replacement mark."""
        found = self._texts.get(token)
        if found is None:
            found = self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=True)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _stretch(self, text: str) -> array[int]:
        with self._lock:
            found = self._memory.get(text)
            if found is not None:
                self._memory.move_to_end(text)
                return found
        ids = array("I", self.tokenizer.encode(text, add_special_tokens=False).ids)  # frees the GIL: not under the lock
        with self._lock:
            if text not in self._memory:
                self._memory[text] = ids
                self._remembered_bytes += _weight(text, ids)
            while self._remembered_bytes > self._remembered_limit_bytes:
                self._remembered_bytes -= _weight(*self._memory.popitem(last=False))
        return ids


def _weight(text: str, ids: array[int]) -> int:
    """Bytes a remembered stretch costs, roughly."""
    return len(text) + 4 * len(ids) + 200


def _cuts_cleanly(description: Mapping[str, Any]) -> bool:
    """Whether tokenizing stretch by stretch between added tokens equals tokenizing the whole."""
    pre_tokenizer, normalizer = description.get("pre_tokenizer"), description.get("normalizer")
    odd = {"lstrip", "rstrip", "single_word"} | ({"normalized"} if _kinds(normalizer) - {"Sequence"} else set())
    if any(token.get(flag) for token in description["added_tokens"] for flag in odd):
        return False
    return _kinds(pre_tokenizer) <= EXACT_PRE_TOKENIZERS and _kinds(normalizer) <= EXACT_NORMALIZERS | {"Sequence"}


def _kinds(part: Mapping[str, Any] | None) -> set[str]:
    """The types of a pre-tokenizer or normalizer and of its parts; one that adds a prefix space counts as unknown."""
    if part is None:
        return set()
    kinds = {"prefix space"} if part.get("add_prefix_space") else {part["type"]}
    for inner in [*part.get("pretokenizers", ()), *part.get("normalizers", ())]:
        kinds |= _kinds(inner)
    return kinds


class ChatTemplate:
    """A model's chat template, rendered as vLLM renders it."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        apart = directory / "chat_template.jinja"
        source = apart.read_text(encoding="utf-8") if apart.exists() else config.get("chat_template")
        if isinstance(source, list):  # named templates: the default one
            source = next(item["template"] for item in source if item["name"] == "default")
        self._source: str = source or ""
        environment = jinja_environment()
        self._template = environment.from_string(source) if source else None
        self._takes_parts = bool(source) and takes_parts(environment.parse(source))
        self._knows_developer = any(name in self._source for name in ('"developer"', "'developer'"))
        special = {name: value for name, value in config.items() if name.endswith("_token")}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in special.items()}
        self._special = {name: text for name, text in texts.items() if isinstance(text, str)}
        self.end_token: str | None = self._special.get("eos_token")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of messages and tools as a client wrote them, `arguments` being whatever else the template
        is to see. Raises TextError where something is malformed, the template refuses or the tokenizer has none.
        """
        if self._template is None:
            raise TextError("This model has no chat template.")
        try:
            chat = conversation(messages, parts=self._takes_parts)
            if not self._knows_developer and any(message["role"] == "developer" for message in chat):
                chat = without_developer(chat)
            seen: Json = {"documents": None, "tools": None if tools is None else tool_forms(tools)}
            seen |= {**self._special, **(arguments or {}), "add_generation_prompt": add_generation_prompt}
            if not continue_final_message:
                return self._template.render(seen, messages=chat)
            chat, final = self._marked(chat, add_generation_prompt)
            return cut_at_mark(self._template.render(seen, messages=chat), final)
        except Malformed as error:
            raise TextError(str(error)) from error
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError) as error:
            raise TextError(f"{type(error).__name__}: {error}") from error

    def _marked(self, chat: list[Json], add_generation_prompt: bool) -> tuple[list[Json], str]:
        if add_generation_prompt:
            raise Malformed("a chat that goes on with its final message cannot add a generation prompt")
        if "content" not in self._source:
            raise Malformed("the chat template does not show content, so no message can go on")
        return marked(chat)
