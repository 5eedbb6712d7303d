"""What a simulated model says: fixed by the prompt, so that equal prompts get equal answers. Pure.

Plain answers are words. Each word is one token that begins with its space, so the text of an answer gives back the
very tokens that made it when it returns in the next turn's prompt, and the engine finds their blocks. A model's own
text does the same nearly always; words drawn from the whole vocabulary would not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any  # JSON schemas have no narrower type
from zlib import crc32

WORDS_TRIED = 4096


def word_tokens(vocabulary: Mapping[str, int]) -> list[int]:
    """Tokens that are one lower-case word with its space, by falling frequency in the training text (low ids first)."""
    words = [
        (token, text)
        for text, token in vocabulary.items()
        if len(text) > 2 and text[0] in "Ġ▁ " and text[1:].isascii() and text[1:].isalpha() and text[1:].islower()
    ]
    return [token for token, _ in sorted(words)[:WORDS_TRIED]] or list(vocabulary.values())[:WORDS_TRIED]


def answer(prompt: Sequence[int], count: int, words: Sequence[int], *, variant: int = 0) -> list[int]:
    """`count` tokens, a function of the prompt, the variant (choice, seed) and the words alone."""
    seed = crc32(repr((len(prompt), list(prompt[-256:]), sum(prompt), variant)).encode())
    return Random(seed).choices(words, k=count)


def tool_to_call(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any, messages: Sequence[Mapping[str, Any]] | None
) -> Mapping[str, Any] | None:
    """The function the model decides to call, if any.

    `tool_choice: required` takes the first, a named choice that one. Left to itself the model calls a function whose
    name the last message, if it is the user's, contains.
    """
    functions: list[Mapping[str, Any]] = [
        tool["function"] for tool in tools or () if isinstance(tool.get("function"), dict)
    ]
    if not functions or not messages or choice == "none":
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function.get("name") == name), None)
    if choice == "required":
        return functions[0]
    last = messages[-1]
    said = json.dumps(last.get("content")) if last.get("role") == "user" else ""
    return next((function for function in functions if function.get("name") and function["name"] in said), None)


def call_arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that satisfy the function's required properties."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    return {name: _example(properties.get(name) or {}) for name in schema.get("required") or ()}


def _example(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    examples = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}, "null": None}
    return examples.get(str(schema.get("type")), "value")
