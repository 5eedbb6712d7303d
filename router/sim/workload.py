"""What a fleet is asked: conversations, and when each of their turns arrives.

Open loop: every arrival is fixed before the run, so slow replies never thin the load, and two policies see the same
requests at the same moments. Assistant messages in a history are the workload's own, never the engine's, so the prompts
are the same too. A conversation is what is asked (`router/sim/coding.py` and `router/sim/traces.py` make them), a
workload is conversations on a timetable (`schedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Protocol


class Prompt(Protocol):
    """What is asked: the path it goes to, and its members of the JSON body, each `"name":value`."""

    @property
    def path(self) -> str: ...

    def members(self) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat prompt. Messages are JSON objects already encoded, shared between the turns of a conversation."""

    messages: tuple[bytes, ...]
    tools: bytes | None = None  # a JSON array

    @property
    def path(self) -> str:
        return "/v1/chat/completions"

    def members(self) -> list[bytes]:
        tools = [b'"tools":' + self.tools] if self.tools else []
        return [b'"messages":[' + b",".join(self.messages) + b"]", *tools]


@dataclass(frozen=True, slots=True)
class Text:
    """A completion prompt, already encoded."""

    prompt: bytes  # a JSON string

    @property
    def path(self) -> str:
        return "/v1/completions"

    def members(self) -> list[bytes]:
        return [b'"prompt":' + self.prompt]


@dataclass(frozen=True, slots=True)
class Ask:
    """One turn of a conversation. `at_seconds` is when the source says it came, from the source's beginning."""

    prompt: Prompt
    max_tokens: int
    at_seconds: float | None = None
    took_seconds: float | None = None  # until its answer ended, where the source says


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order. Each prompt usually begins with the one before it, but nothing here demands it."""

    name: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a workload."""

    at_seconds: float  # from the start of the run
    conversation: str
    number: int  # of the turn in its conversation, from 0
    prompt: Prompt
    max_tokens: int

    @property
    def path(self) -> str:
        return self.prompt.path

    def body(self, model: str, *, stream: bool = True) -> bytes:
        """The request's JSON. `model` needs no escaping. Streams ask for usage, which carries the cached tokens."""
        members = [b'"model":"' + model.encode() + b'"', *self.prompt.members()]
        members.append(b'"max_tokens":%d,"temperature":0' % self.max_tokens)
        if stream:
            members.append(b'"stream":true,"stream_options":{"include_usage":true}')
        return b"{" + b",".join(members) + b"}"


@dataclass(frozen=True, slots=True)
class Workload:
    """Turns in order of arrival."""

    turns: tuple[Turn, ...]

    @property
    def span_seconds(self) -> float:
        """From the start of the run to the last arrival."""
        return self.turns[-1].at_seconds if self.turns else 0.0

    @property
    def requests_per_second(self) -> float:
        return len(self.turns) / self.span_seconds if self.span_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When conversations start and how long they think. The defaults suit a demo, not any fleet in particular."""

    starts_per_second: float = 6.0  # a Poisson process
    think_seconds: float = 3.0  # mean between two turns of a conversation, from arrival to arrival
    think_spread: float = 0.5  # uniform around the mean: 0 a metronome, 1 from nothing to twice the mean


def schedule(conversations: Sequence[Conversation], arrivals: Arrivals, seed: int) -> Workload:
    """Conversations on an open-loop timetable drawn from `seed`: Poisson starts, then a think time before each turn.

    A conversation's turns keep their order; times a source gave are ignored (`recorded` keeps them).
    """
    chance = Random(seed)
    turns: list[Turn] = []
    start_seconds = 0.0
    for conversation in conversations:
        start_seconds += chance.expovariate(arrivals.starts_per_second)
        at_seconds = start_seconds
        for number, ask in enumerate(conversation.asks):
            if number:
                at_seconds += arrivals.think_seconds * (1 + arrivals.think_spread * (2 * chance.random() - 1))
            turns.append(Turn(at_seconds, conversation.name, number, ask.prompt, ask.max_tokens))
    return Workload(tuple(sorted(turns, key=lambda turn: turn.at_seconds)))


def recorded(conversations: Sequence[Conversation]) -> Workload:
    """The source's own arrival times. Raises ValueError where a turn has none."""
    turns: list[Turn] = []
    for conversation in conversations:
        for number, ask in enumerate(conversation.asks):
            if ask.at_seconds is None:
                raise ValueError(f"{conversation.name} turn {number} has no arrival time: use schedule() instead.")
            turns.append(Turn(ask.at_seconds, conversation.name, number, ask.prompt, ask.max_tokens))
    return Workload(tuple(sorted(turns, key=lambda turn: turn.at_seconds)))


def first(workload: Workload, requests: int) -> Workload:
    return Workload(workload.turns[:requests])


def at_rate(workload: Workload, requests_per_second: float) -> Workload:
    """The same turns from 0 s on, their times stretched or squeezed to that rate on average."""
    if len(workload.turns) < 2:
        return Workload(tuple(replace(turn, at_seconds=0.0) for turn in workload.turns))
    begin = workload.turns[0].at_seconds
    factor = (len(workload.turns) - 1) / requests_per_second / max(workload.span_seconds - begin, 1e-9)
    return Workload(tuple(replace(turn, at_seconds=(turn.at_seconds - begin) * factor) for turn in workload.turns))


def grows(conversation: Conversation) -> bool:
    """Whether every chat prompt of the conversation begins with the whole of the one before it."""
    chats = [ask.prompt for ask in conversation.asks if isinstance(ask.prompt, Chat)]
    return len(chats) == len(conversation.asks) and all(
        after.messages[: len(before.messages)] == before.messages for before, after in pairwise(chats)
    )
