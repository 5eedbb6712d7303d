"""Made-up sessions of published shapes: conversations that grow by question and answer, some with sub-agents.

Prompts grow as a chat's do: the prompt before, its answer, then something new. Lengths and times are log-normal, as
inference-perf draws them, cut to bounds. Sub-agents begin from the shared system prompt, not from their parent's
conversation, and share a prompt among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from router.lab.sessions import Script, Span, Turn

# Ids of a session's own tokens, above those of the system prompts that are shared.
FIRST_OWN_TOKEN, SESSION_TOKENS, SESSIONS = 1 << 20, 1 << 18, 16_000
SUB_AGENT_PROMPT = 1 << 19  # where the ids of the prompt begin that sub-agents share


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Draws exp(normal), cut to bounds. `median` in whatever is drawn, `sigma` of its logarithm; 0 is a constant."""

    median: float
    sigma: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def draw(self, chance: Random) -> float:
        return min(max(self.median * math.exp(self.sigma * chance.gauss(0.0, 1.0)), self.low), self.high)


def by_mean(mean: float, deviation: float, low: float, high: float) -> LogNormal:
    """The log-normal of this mean and standard deviation (before it is cut)."""
    variance = math.log(1 + (deviation / mean) ** 2)
    return LogNormal(mean * math.exp(-variance / 2), math.sqrt(variance), low, high)


@dataclass(frozen=True, slots=True)
class SubAgents:
    """Some turns spawn a few sub-agents at once."""

    spawning_ratio: float  # of turns
    at_once: LogNormal
    turns: LogNormal
    shared_tokens: int  # of the prompt all sub-agents share
    task_tokens: LogNormal


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Sessions of one kind. Draws of tokens where the name says nothing else."""

    shared_tokens: int  # system prompt of all sessions
    first: LogNormal  # what a session's first prompt has beyond it
    turns: LogNormal
    question: LogNormal  # what each later prompt adds beyond the answer before
    answer: LogNormal
    think_seconds: LogNormal
    sub_agents: SubAgents | None = None


def chats(shape: ChatShape, seed: int) -> Iterator[Script]:
    """Scripts without end. A session's lengths depend on its number and the seed alone."""
    numbers = count()
    for number in count():
        yield _Writer(shape, Random(seed * 1_000_003 + number), numbers).session(f"s{number}")


class _Writer:
    """Writes one session. Each session, sub-agents too, takes a number, which is where its tokens begin."""

    def __init__(self, shape: ChatShape, chance: Random, numbers: Iterator[int]) -> None:
        self._shape, self._chance, self._numbers = shape, chance, numbers

    def session(self, name: str) -> Script:
        shape = self._shape
        turns = max(1, round(shape.turns.draw(self._chance)))
        return self._script(name, (Span(0, shape.shared_tokens),), shape.first, turns, shape.sub_agents)

    def _script(
        self, name: str, shared: tuple[Span, ...], first: LogNormal, turns: int, spawns: SubAgents | None
    ) -> Script:
        begins = FIRST_OWN_TOKEN + next(self._numbers) % SESSIONS * SESSION_TOKENS
        prompt_tokens, written = 0, []
        for number in range(turns):
            prompt_tokens += max(1, round((self._shape.question if number else first).draw(self._chance)))
            answer_tokens = max(1, round(self._shape.answer.draw(self._chance)))
            if prompt_tokens + answer_tokens > SESSION_TOKENS:
                break
            written.append(
                Turn(
                    (*shared, Span(begins, prompt_tokens)),
                    Span(begins + prompt_tokens, answer_tokens),  # which the next prompt has in this place
                    self._shape.think_seconds.draw(self._chance) if number else 0.0,
                    self._sub_agents(spawns, f"{name}.{number}") if spawns and number < turns - 1 else (),
                )
            )
            prompt_tokens += answer_tokens
        return Script(name, tuple(written))

    def _sub_agents(self, spawns: SubAgents, name: str) -> tuple[Script, ...]:
        if self._chance.random() >= spawns.spawning_ratio:
            return ()
        shared = (Span(0, self._shape.shared_tokens), Span(SUB_AGENT_PROMPT, spawns.shared_tokens))
        return tuple(
            self._script(
                f"{name}-{child}", shared, spawns.task_tokens, max(1, round(spawns.turns.draw(self._chance))), None
            )
            for child in range(max(1, round(spawns.at_once.draw(self._chance))))
        )
