"""A recorded trace of block ids, replayed at so many times its own speed.

Prompts are equal exactly where their block ids are; the last block of a prompt may be cut. They are made when they
arrive: a trace's prompts together have more tokens than fit in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.errors import ConfigError
from router.lab.token_ids import LONGEST_ANSWER, answer_of
from router.sim.traces import MOONCAKE_BLOCK_TOKENS, TokenRuns, load_conversations
from router.sim.virtual import Arrival


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One recorded request: the ids of its blocks of MOONCAKE_BLOCK_TOKENS tokens, the last of which may be cut."""

    number: int  # in the trace, whatever part of it is played: two runs are paired by it
    at_seconds: float
    blocks: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class BlockTrace:
    """Open loop: the recorded times, `speed` times as fast."""

    rows: Sequence[BlockRow]
    speed: float

    def begin(self) -> Iterator[Arrival]:
        base = np.arange(MOONCAKE_BLOCK_TOKENS, dtype=np.uint32)
        first_seconds = self.rows[0].at_seconds if self.rows else 0.0
        for row in self.rows:
            blocks = np.array(row.blocks, dtype=np.uint32)
            tokens = array("I")
            ids = (blocks[:, None] * np.uint32(MOONCAKE_BLOCK_TOKENS) + base).ravel()[: row.prompt_tokens]
            tokens.frombytes(ids.tobytes())
            at_seconds = (row.at_seconds - first_seconds) / self.speed
            yield Arrival(str(row.number), at_seconds, tokens, answer_of(row.number, row.answer_tokens))

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:  # noqa: ARG002
        """Nothing: all was told before the run."""
        return ()


def trace_rows(path: Path) -> list[BlockRow]:
    """A trace of block ids or of lengths alone, in order of time. Raises ConfigError."""
    rows: list[BlockRow] = []
    for conversation in load_conversations(path, max_tokens=LONGEST_ANSWER):
        for ask in conversation.asks:
            if not isinstance(ask.prompt, TokenRuns) or ask.at_seconds is None:
                raise ConfigError(
                    [
                        f"{path}: holds texts without sessions. In virtual time only agents' logs (timestamp, input, "
                        "output, session_id) and traces of block ids or lengths are replayed."
                    ]
                )
            rows.append(BlockRow(len(rows), ask.at_seconds, ask.prompt.blocks, ask.prompt.count, ask.max_tokens))
    rows.sort(key=lambda row: row.at_seconds)
    return rows


def part(rows: Sequence[BlockRow], requests: int, seed: int) -> Sequence[BlockRow]:
    """`requests` rows in a stretch: the first for seed 1, the next for seed 2, and from the front again at the end.

    Where the trace is shorter than all stretches together they overlap, and different seeds share requests.
    """
    if requests >= len(rows):
        return rows
    first = (seed - 1) * requests % (len(rows) - requests + 1)
    return rows[first : first + requests]
