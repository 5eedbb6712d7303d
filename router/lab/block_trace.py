"""A recorded trace of block ids, replayed at so many times its own speed.

Prompts are equal exactly where their block ids are; the last block of a prompt may be cut. They are made when they
arrive: a trace's prompts together have more tokens than fit in memory.

A recording tells when a request was answered. Where its session's next one came after that, it comes here too when that
much time has passed since the answer here: a slow fleet is not asked what nobody had time to ask. All others come at
their recorded times.

Nobody records what an answer said. But an engine caches answers too, and a chat's next prompt holds the last one: where
a later prompt of the session begins with all full blocks of this one, and goes on for longer than this one's answer
did, its tokens there are taken to be that answer. Where the growth is shorter (a reasoning model, whose thoughts are
left out), and where there are no sessions, answers are like nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from router.errors import ConfigError
from router.lab.token_ids import FIRST_ANSWER_TOKEN, LONGEST_ANSWER, answer_of
from router.sim.traces import MOONCAKE_BLOCK_TOKENS, TokenRuns, load_conversations
from router.sim.virtual import Arrival

LOOK_AHEAD = 8  # turns of a session in which the next one of the same conversation, or the last one, is looked for


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One recorded request: the ids of its blocks, the last of which may be cut, then, if known, of its answer's."""

    number: int  # in the trace, whatever part of it is played: two runs are paired by it
    at_seconds: float
    blocks: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    block_tokens: int = MOONCAKE_BLOCK_TOKENS
    session: str | None = None
    answer_known: bool = False  # the blocks go on with it
    took_seconds: float | None = None  # until it was answered
    waits_for: int | None = None  # the request whose answer it came after
    think_seconds: float = 0.0  # from that answer


@dataclass(slots=True)
class BlockTrace:
    """The recorded times, `speed` times as fast. One object plays one run."""

    rows: Sequence[BlockRow]
    speed: float
    _waiting: dict[str, list[BlockRow]] = field(default_factory=dict, init=False)  # by the request they wait for
    _widest: int = field(default=0, init=False)

    def begin(self) -> Iterator[Arrival]:
        self._widest = max((row.block_tokens for row in self.rows), default=0)
        played = {row.number for row in self.rows}
        first_seconds = self.rows[0].at_seconds if self.rows else 0.0
        waiting = [row for row in self.rows if row.waits_for in played]  # of others nobody will tell the end
        for row in waiting:  # all of them first: answers come while arrivals are still being asked for
            self._waiting.setdefault(str(row.waits_for), []).append(row)
        for row in self.rows:
            if row.waits_for not in played:
                yield self._ask(row, (row.at_seconds - first_seconds) / self.speed)

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:
        rows = self._waiting.pop(arrival.request_id, ())
        return [self._ask(row, now + row.think_seconds / self.speed) for row in rows]

    def _ask(self, row: BlockRow, at_seconds: float) -> Arrival:
        base = np.arange(row.block_tokens, dtype=np.uint32)
        blocks = np.array(row.blocks, dtype=np.uint32)
        tokens = array("I")
        end = row.prompt_tokens + (row.answer_tokens if row.answer_known else 0)
        tokens.frombytes((blocks[:, None] * np.uint32(self._widest) + base).ravel()[:end].tobytes())
        answer: Sequence[int] = tokens[row.prompt_tokens :]
        if not row.answer_known:
            answer = answer_of(row.number, row.answer_tokens)
        return Arrival(str(row.number), at_seconds, tokens[: row.prompt_tokens], answer, row.session)


def trace_rows(path: Path) -> list[BlockRow]:
    """A trace of block ids or of lengths alone, or a recording, in order of time. Raises ConfigError."""
    rows: list[BlockRow] = []
    for conversation in load_conversations(path, max_tokens=LONGEST_ANSWER):
        session = conversation.name if len(conversation.asks) > 1 else None
        for ask in conversation.asks:
            if not isinstance(ask.prompt, TokenRuns) or ask.at_seconds is None:
                raise ConfigError(
                    [
                        f"{path}: holds texts without sessions. In virtual time only agents' logs (timestamp, input, "
                        "output, session_id) and traces of block ids or lengths are replayed."
                    ]
                )
            prompt = ask.prompt
            rows.append(
                BlockRow(
                    len(rows),
                    ask.at_seconds,
                    prompt.blocks,
                    prompt.count,
                    ask.max_tokens,
                    prompt.block_tokens,
                    session,
                    took_seconds=ask.took_seconds,
                )
            )
    highest = max(max(row.blocks, default=0) for row in rows) + 1
    if highest * max(row.block_tokens for row in rows) > FIRST_ANSWER_TOKEN:
        raise ConfigError([f"{path}: has {highest:,} distinct blocks, too many to be told apart. Take a part of it."])
    rows = [row for _, turns in groupby(rows, key=lambda row: row.session) for row in _one_session(list(turns))]
    rows.sort(key=lambda row: row.at_seconds)
    return rows


def _one_session(turns: list[BlockRow]) -> list[BlockRow]:
    """The turns of one session, in order of time, with what is known of each from the others."""
    if turns[0].session is None:
        return turns
    return _with_answers(_with_waits(turns))


def _with_waits(turns: list[BlockRow]) -> list[BlockRow]:
    """Each after the turn whose answer ended last before it came."""
    told: list[BlockRow] = []
    for turn in turns:
        ended = [
            (one.at_seconds + one.took_seconds, one.number)
            for one in told[-LOOK_AHEAD:]
            if one.took_seconds is not None and one.at_seconds + one.took_seconds <= turn.at_seconds
        ]
        if ended:
            end_seconds, number = max(ended)
            turn = replace(turn, waits_for=number, think_seconds=turn.at_seconds - end_seconds)
        told.append(turn)
    return told


def _with_answers(turns: list[BlockRow]) -> list[BlockRow]:
    """Each with its answer where a later one tells it."""
    told: list[BlockRow] = []
    for turn in reversed(turns):
        soon = reversed(told[-LOOK_AHEAD:])  # the next turn first
        later = next((one for one in soon if _goes_on(turn, one)), None)
        told.append(turn if later is None else replace(turn, blocks=later.blocks, answer_known=True))
    return told[::-1]


def _goes_on(turn: BlockRow, later: BlockRow) -> bool:
    """Whether the later prompt begins with this one's full blocks and has room for its answer."""
    full = turn.prompt_tokens // turn.block_tokens
    return (
        0 < full <= len(later.blocks)
        and later.block_tokens == turn.block_tokens
        and later.blocks[full - 1] == turn.blocks[full - 1]  # an id names all blocks before it too
        and later.prompt_tokens - turn.prompt_tokens >= turn.answer_tokens
    )


def rate_of(rows: Sequence[BlockRow]) -> float:
    """Requests a second, as recorded."""
    span_seconds = rows[-1].at_seconds - rows[0].at_seconds if len(rows) > 1 else 1.0
    return len(rows) / max(span_seconds, 1e-9)


def part(rows: Sequence[BlockRow], requests: int, seed: int) -> Sequence[BlockRow]:
    """`requests` rows in a stretch: the first for seed 1, the next for seed 2, and from the front again at the end.

    Where the trace is shorter than all stretches together they overlap, and different seeds share requests.
    """
    if requests >= len(rows):
        return rows
    first = (seed - 1) * requests % (len(rows) - requests + 1)
    return rows[first : first + requests]
