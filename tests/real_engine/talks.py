"""What the suite asks: conversations that grow, share beginnings, use adapters and salts, and come back after eviction.

Everything is drawn from a seed, so a run differs from the next only in the order in which answers come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol  # Any: request bodies are JSON

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WORDS = (
    *("list", "of", "the", "names", "that", "are", "bound", "in", "a", "module", "function", "class", "object"),
    *("returns", "value", "when", "statement", "raises", "error", "import", "async", "with", "lambda", "yield"),
    *("global", "nonlocal", "pass", "break", "continue", "for", "while", "if", "else", "try"),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
SHARED_WORDS = 160
FIRST_ID, LAST_ID = 300, 1900  # token ids that are plain text in any vocabulary


class Talk(Protocol):
    """A conversation: `turn` gives the next question, `answered` takes what came."""

    path: str

    def turn(self, chance: Random) -> dict[str, Any]: ...

    def answered(self, text: str, chance: Random) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversation to be held: its kind in the table, its turns, and what goes into every body."""

    kind: str
    turns: int
    talk: Talk
    seed: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComeBack:
    """Ask again what the talk that ended `talks_ago` asked last."""

    talks_ago: int
    kind: str = "came back"


class Chat:
    """Chat messages; with `tools`, every other answer is taken for a call of one."""

    path = CHAT

    def __init__(self, system: str | None = None, *, tools: bool = False) -> None:
        self._messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self._tools = tools
        self._turns = 0

    def turn(self, chance: Random) -> dict[str, Any]:
        self._messages.append({"role": "user", "content": words(chance.randint(20, 90), chance)})
        return {"messages": list(self._messages), **({"tools": TOOLS} if self._tools else {})}

    def answered(self, text: str, chance: Random) -> None:
        turn = self._turns
        self._turns += 1
        if not self._tools or turn % 2:
            self._messages.append({"role": "assistant", "content": text})
            return
        name = f"call{turn:05d}"
        arguments = json.dumps({"city": "Köln", "days": turn, "x": [1, 2.5, None, True]})
        call = {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        result = json.dumps({"sky": "clear", "t": 20 + turn})
        said = text if turn % 4 == 0 else None
        self._messages.append({"role": "assistant", "content": said, "tool_calls": [call]})
        self._messages.append({"role": "tool", "tool_call_id": name, "content": result})


class Text:
    """A text prompt that goes on with its own answer."""

    path = COMPLETIONS

    def __init__(self, chance: Random) -> None:
        self._prompt = words(chance.randint(40, 120), chance)

    def turn(self, chance: Random) -> dict[str, Any]:
        return {"prompt": self._prompt}

    def answered(self, text: str, chance: Random) -> None:
        self._prompt += f"{text} {words(20, chance)}"


class Ids:
    """A prompt of token ids. Each second turn only asks again: whole blocks twice make copies in the engine."""

    path = COMPLETIONS

    def __init__(self, chance: Random) -> None:
        self._prompt = [chance.randrange(FIRST_ID, LAST_ID) for _ in range(64 * chance.randint(1, 3))]
        self._turns = 0

    def turn(self, chance: Random) -> dict[str, Any]:
        return {"prompt": list(self._prompt)}

    def answered(self, text: str, chance: Random) -> None:
        self._turns += 1
        if self._turns % 2 == 0:
            self._prompt += [chance.randrange(FIRST_ID, LAST_ID) for _ in range(chance.randint(5, 60))]


def rounds(count: int, *, seed: str, model: str, adapters: Sequence[str]) -> Iterator[Plan | ComeBack]:
    """Rounds of talks of every kind. `seed` makes all texts its own, but for the prefix that talks share."""
    shared = words(SHARED_WORDS, Random("shared"))
    for number in range(count):
        chance = Random(f"{seed} {number}")
        plain = {"model": model}
        salt = {"model": model, "cache_salt": f"salt {number % 2}"}
        kinds: list[tuple[str, int, Talk, dict[str, Any]]] = [
            ("chat", 5, Chat(words(30, chance)), plain),
            ("chat", 4, Chat(), plain),
            ("shared prefix", 5, Chat(shared), plain),
            ("shared prefix", 3, Chat(shared), plain),
            ("tools", 5, Chat(shared, tools=True), plain),
            ("salt", 4, Chat(shared), salt),
            ("text", 4, Text(chance), plain),
            ("token ids", 4, Ids(chance), plain),
            ("token ids, salt", 3, Ids(chance), salt),
        ]
        for adapter in adapters:
            lora = {"model": adapter}
            # Told from a LoRA's blocks, whose extra keys begin with its name, by the events' lora_name alone.
            named_alike = {"cache_salt": adapter}
            kinds += [
                ("LoRA", 4, Chat(shared), lora),
                ("LoRA, token ids", 3, Ids(chance), lora),
                ("LoRA, salt", 3, Chat(shared), lora | named_alike),
                ("salt", 3, Chat(shared), plain | named_alike),
            ]
        plans: list[Plan | ComeBack] = [
            Plan(kind, turns, talk, f"{seed} {number} {at}", fields)
            for at, (kind, turns, talk, fields) in enumerate(kinds)
        ]
        plans += [ComeBack(chance.randint(3, 60)) for _ in range(4)]
        chance.shuffle(plans)
        yield from plans


def words(count: int, chance: Random) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(count))
