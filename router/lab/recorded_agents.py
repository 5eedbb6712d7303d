"""Recorded agent sessions, cloned: each clone under a root of its own, what all sessions share kept shared.

The recordings are texts (LMCache's agent traces: `input` the whole flattened prompt of a call). Lengths and common
beginnings are measured in characters, four to a token, so no tokenizer is needed. A call begins with as much of an
earlier call of its session, or of another session's first, as their texts have in common; what follows is new. So an
agent that goes back and forth between several prompts (an orchestrator and its sub-agents) does so here.

Think time is the recorded gap between two calls less the time the answer took there. The recordings do not tell that
time, so ANSWER_TOKENS_PER_SECOND is assumed. Calls with an empty input (a picture, which the recording leaves out) are
passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from router.errors import ConfigError
from router.lab.sessions import Script, Span, Turn, clipped
from router.sim.traces import CHARACTERS_PER_TOKEN, Call, load_calls

ANSWER_TOKENS_PER_SECOND = 200.0  # the shortest recorded gaps are half a second for a hundred tokens
SHORTEST_THINK_SECONDS, LONGEST_THINK_SECONDS = 0.1, 60.0

# Ids of a clone's own tokens, above those that are shared. A session longer than this would touch its neighbour.
FIRST_OWN_TOKEN, SESSION_TOKENS, CLONES = 1 << 20, 1 << 19, 8_000


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded session, its own tokens numbered from 0 and above those shared with other sessions."""

    turns: tuple[Turn, ...]
    own_tokens: int


def recordings(path: Path) -> list[Recording]:
    """The sessions of an agents' log, in its order. Raises ConfigError."""
    sessions: dict[str, list[Call]] = {}
    for call in load_calls(path):
        if call.input:
            sessions.setdefault(call.session_id, []).append(call)
    if not sessions:
        raise ConfigError([f"{path}: holds no session with an input."])
    firsts = [calls[0].input for calls in sessions.values()]
    return [_recording(calls, firsts) for calls in sessions.values()]


def clones(recorded: Sequence[Recording], seed: int) -> Iterator[Script]:
    """Scripts without end: recordings drawn at random, each with tokens of its own."""
    chance = Random(seed)
    for number in count():
        one = recorded[int(chance.random() * len(recorded))]
        offset = number % CLONES * SESSION_TOKENS
        yield Script(f"s{number}", tuple(_moved(turn, offset) for turn in one.turns))


def _recording(calls: Sequence[Call], firsts: Sequence[str]) -> Recording:
    own = FIRST_OWN_TOKEN
    turns: list[Turn] = []
    # What this session's first call has in common with the first of any other is a system prompt of theirs.
    begins = calls[0].input
    shared = max((_in_common(begins, first) for first in firsts if first != begins), default=0)
    known: list[tuple[str, tuple[Span, ...]]] = [
        (begins[:shared], (Span(_shared_id(begins), shared // CHARACTERS_PER_TOKEN),))
    ]
    before: Call | None = None
    for call in calls:
        in_common, spans = max(((_in_common(text, call.input), spans) for text, spans in known), key=_first)
        kept = in_common // CHARACTERS_PER_TOKEN
        fresh = max(1, len(call.input) // CHARACTERS_PER_TOKEN) - kept
        prompt = (*clipped(spans, kept), *((Span(own, fresh),) if fresh > 0 else ()))
        own += max(fresh, 0)
        answer_tokens = max(1, len(call.output) // CHARACTERS_PER_TOKEN)
        think = 0.0
        if before is not None:
            answered = len(before.output) / CHARACTERS_PER_TOKEN / ANSWER_TOKENS_PER_SECOND
            think = call.timestamp / 1e6 - before.timestamp / 1e6 - answered
            think = min(max(think, SHORTEST_THINK_SECONDS), LONGEST_THINK_SECONDS)
        turns.append(Turn(prompt, Span(own, answer_tokens), think))
        own += answer_tokens
        known.append((call.input, prompt))
        before = call
    return Recording(tuple(turns), own - FIRST_OWN_TOKEN)


def _first(one: tuple[int, object]) -> int:
    return one[0]


def _in_common(one: str, other: str) -> int:
    """Characters that both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _shared_id(text: str) -> int:
    """Where the ids of this system prompt begin: sessions whose texts begin alike share it."""
    return sum(text[:8].encode()) % 64 * (FIRST_OWN_TOKEN // 64)


def _moved(turn: Turn, offset: int) -> Turn:
    spans = tuple(_own(span, offset) for span in turn.prompt)
    return Turn(spans, _own(turn.answer, offset), turn.think_seconds)


def _own(span: Span, offset: int) -> Span:
    return span if span.first < FIRST_OWN_TOKEN else Span(span.first + offset, span.tokens)
