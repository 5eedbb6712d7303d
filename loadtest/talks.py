"""What simulated users say: people who chat, and agents that read source with tools. Both share system prompts.

A chat grows by what the engine really answered, as a person's does; an agent's turns are fixed before, its tool calls
being the workload's own (router/sim/coding.py). Deterministic by seed, but for those answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import msgspec

from router.sim.coding import QUESTIONS, CodingAgent, Source, coding_conversations
from router.sim.workload import Chat, Turn

AGENTS_PREPARED = 200  # then they come again, as tasks do


@dataclass(frozen=True, slots=True)
class TalkShape:
    """Characters, since tokens depend on the tokenizer: three to four of them make one."""

    turns: int = 6
    turn_characters: int = 4_000  # of source that a turn adds: read by an agent, pasted by a person
    system_prompts: int = 4  # distinct ones of each kind of user
    system_characters: int = 2_000
    max_tokens: int = 32


class Talk(Protocol):
    """One conversation, turn by turn. Changed by the user who holds it."""

    name: str

    def next_turn(self) -> Turn | None:
        """None: it is over."""

    def heard(self, answer: str) -> None: ...


class PersonTalk:
    """Asks about a piece of source, then goes on about what was answered."""

    def __init__(self, name: str, number: int, shape: TalkShape, sources: Sequence[Source], chance: Random) -> None:
        self.name = name
        self._shape = shape
        self._source = chance.choice(sources)
        self._chance = chance
        self._asked = 0
        # The number comes first, so that two system prompts differ from their first words on.
        system = f"Assistant {number % shape.system_prompts}. " + _repeated(sources[0].text, shape.system_characters)
        self._messages = [_message("system", system)]

    def next_turn(self) -> Turn | None:
        shape = self._shape
        if self._asked == shape.turns:
            return None
        piece = _repeated(self._source.text[self._asked * shape.turn_characters :], shape.turn_characters)
        question = self._chance.choice(QUESTIONS).format(module=self._source.module)
        self._messages.append(_message("user", f"{self.name}, message {self._asked}. {question}\n\n{piece}"))
        turn = Turn(0.0, self.name, self._asked, Chat(tuple(self._messages)), shape.max_tokens)
        self._asked += 1
        return turn

    def heard(self, answer: str) -> None:
        self._messages.append(_message("assistant", answer))


class AgentTalk:
    """Works through one prepared task."""

    def __init__(self, name: str, turns: Sequence[Turn]) -> None:
        self.name = name
        self._turns = iter(turns)

    def next_turn(self) -> Turn | None:
        return next(self._turns, None)

    def heard(self, answer: str) -> None:
        """Nothing: what follows was fixed before."""


def people(shape: TalkShape, sources: Sequence[Source], seed: int) -> Iterator[Talk]:
    for number in itertools.count():
        yield PersonTalk(f"chat-{seed}-{number}", number, shape, sources, Random(seed * 1_000_003 + number))


def agents(shape: TalkShape, sources: Sequence[Source], seed: int) -> Iterator[Talk]:
    coding = CodingAgent(
        conversations=AGENTS_PREPARED,
        turns=shape.turns,
        turn_characters=shape.turn_characters,
        system_prompts=shape.system_prompts,
        system_characters=shape.system_characters,
        max_tokens=shape.max_tokens,
    )
    for made in itertools.cycle(coding_conversations(coding, sources, seed)):
        asks = enumerate(made.asks)
        yield AgentTalk(made.name, [Turn(0.0, made.name, number, ask.prompt, ask.max_tokens) for number, ask in asks])


def _repeated(text: str, characters: int) -> str:
    return (text * (1 + characters // max(1, len(text))))[:characters] if text else ""


def _message(role: str, content: str) -> bytes:
    return msgspec.json.encode({"role": role, "content": content})
