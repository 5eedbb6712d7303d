"""Requests, places of shared files and strategies for the tests of this room."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from router.prompt.local import LocalTokens
from router.prompt.request import Endpoint, InferenceRequest, parse
from router.prompt.source import load_local
from router.prompt.template import ChatTemplate

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENIZERS = REPOSITORY.parent / "shared" / "tokenizers"
SHIPPED = REPOSITORY / "router" / "sim" / "tokenizer"

WALL_SECONDS = 1_700_000_000.0

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Characters from every corner where tokenizers, templates and JSON are known to differ.
ALPHABET = (
    "abcdeXYZ  \n\t\r0123456789.,:;!?'\"(){}[]<>|/\\_-=+*&^%$#@~`"
    "éßñçÅø\u0301\u0323\u030a\u00a0\u2003\u3000\u200b\u200d\ufeffאבגمرحבक्षि你好世界カタ한글สวัสดี🙂👩🏽\u200d🚀🇩🇪\ue000\U0010ffff▁Ġ\x00\x1f\x7f\x85\u2028"
)


def chat(messages: list[Any], **fields: Any) -> InferenceRequest:
    return parse(Endpoint.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode())


def completion(prompt: Any, **fields: Any) -> InferenceRequest:
    return parse(Endpoint.COMPLETIONS, json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def template(source: str = CHATML, **special_tokens: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens, lambda: WALL_SECONDS)


def folder(name: str) -> Path:
    """The folder of one shared tokenizer; skips where the shared files are missing."""
    path = TOKENIZERS / name
    if not path.is_dir():
        pytest.skip(f"{path} is not on this machine")
    return path


def shipped() -> Path:
    if not (SHIPPED / "tokenizer.json").is_file():
        pytest.skip(f"{SHIPPED} holds no tokenizer")
    return SHIPPED


def loaded(path: Path) -> LocalTokens:
    local = load_local(path, lambda: WALL_SECONDS)
    assert isinstance(local, LocalTokens), local
    return local


def fuzzed_text(chance: random.Random, specials: list[str], max_pieces: int = 16) -> str:
    """A text of words, odd characters, spaces and special tokens, whole and broken."""
    pieces = []
    for _ in range(chance.randint(1, max_pieces)):
        kind = chance.random()
        if kind < 0.35:
            pieces.append(chance.choice(WORDS))
        elif kind < 0.75:
            pieces.append("".join(chance.choices(ALPHABET, k=chance.randint(1, 6))))
        elif kind < 0.85:
            pieces.append("".join(map(chr, (_code_point(chance) for _ in range(chance.randint(1, 4))))))
        elif kind < 0.95:
            pieces.append(chance.choice(specials))
        else:
            special = chance.choice(specials)
            pieces.append(special[: chance.randint(1, len(special))])
        if chance.random() < 0.3:
            pieces.append(" " * chance.randint(1, 3))
    return "".join(pieces)


def _code_point(chance: random.Random) -> int:
    while True:
        point = chance.randint(0, 0x10FFFF) if chance.random() < 0.3 else chance.randint(0x20, 0x2FFF)
        if not 0xD800 <= point <= 0xDFFF:
            return point


WORDS = (
    *(
        "the",
        " of",
        " prefix",
        "cache",
        " don't",
        " I'LL",
        "def ",
        "return",
        "self.",
        "Straße",
        " naïve",
        "import os\n",
    ),
    *("    ", "\n\n", '{"a": 1}', "http://a.b/c", "2024-05-01", " 1234567", "snake_case", "CamelCase", "</think>"),
    *(" 北京", "ありがとう", " привет", " עולם"),
)


def fuzzed_conversation(chance: random.Random, specials: list[str]) -> list[dict[str, Any]]:
    """A chat every template takes: an optional system message, then turns that alternate and end with the user's."""
    messages: list[dict[str, Any]] = []
    if chance.random() < 0.6:
        messages.append({"role": "system", "content": fuzzed_text(chance, specials, 20)})
    for _ in range(chance.randint(0, 5)):
        messages.append(user(fuzzed_text(chance, specials)))
        messages.append(assistant(fuzzed_text(chance, specials)))
    messages.append(user(fuzzed_text(chance, specials)))
    return messages
