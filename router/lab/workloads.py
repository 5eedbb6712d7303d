"""What virtual clients ask: published benchmark shapes and block-id traces, as prompts of token ids.

Token ids are made up; two prompts are equal exactly where their source says they are. Arrivals are open loop, so slow
replies never thin the load and two policies see the same requests at the same moments. Prompts are made when they
arrive: a trace's prompts together have more tokens than fit in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from router.errors import ConfigError
from router.sim.traces import MOONCAKE_BLOCK_TOKENS, TokenRuns, load_conversations
from router.sim.virtual import Arrival, Workload

# Every run of made-up tokens begins at a number no other run reaches: prompts below, answers above.
RUN_TOKENS = 1 << 17
FIRST_ANSWER_TOKEN = 1 << 31
LONGEST_ANSWER = 1 << 14


def run_of(number: int, tokens: int) -> array[int]:
    """`tokens` ids that no run of another number has."""
    ids = array("I")
    ids.frombytes(np.arange(number * RUN_TOKENS, number * RUN_TOKENS + tokens, dtype=np.uint32).tobytes())
    return ids


def answer_of(number: int, tokens: int) -> range:
    first = FIRST_ANSWER_TOKEN + number * LONGEST_ANSWER % FIRST_ANSWER_TOKEN
    return range(first, first + max(1, tokens))


class OpenLoop:
    """A workload whose arrivals are all fixed before the run."""

    def after(self, arrival: Arrival, now: float) -> Arrival | None:  # noqa: ARG002
        """Nothing: who asks next has been told."""
        return None


@dataclass(frozen=True, slots=True)
class SharedPrefixes(OpenLoop):
    """Groups of prompts: a long beginning shared by the group, then one of a few questions. Poisson arrivals.

    As in inference-perf's `shared_prefix`: every request draws one of all prompts, so prompts come again and again.
    """

    groups: int
    prompts_per_group: int
    system_tokens: int
    question_tokens: int
    answer_tokens: int
    requests: int
    rate_per_second: float
    seed: int

    def begin(self) -> Iterator[Arrival]:
        chance = Random(self.seed)
        now = 0.0
        systems = [run_of(group, self.system_tokens) for group in range(self.groups)]
        for number in range(self.requests):
            now += chance.expovariate(self.rate_per_second)
            prompt = int(chance.random() * self.groups * self.prompts_per_group)
            question = run_of(self.groups + prompt, self.question_tokens)
            tokens = systems[prompt // self.prompts_per_group] + question
            answer = answer_of(number, self.answer_tokens)
            yield Arrival(str(number), now, tokens, answer, f"{prompt}")


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One recorded request: the ids of its blocks of MOONCAKE_BLOCK_TOKENS tokens, the last of which may be cut."""

    at_seconds: float
    blocks: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class BlockTrace(OpenLoop):
    """A recorded trace of block ids, replayed at so many times its own speed.

    Prompts are equal exactly where their block ids are; the last block of a prompt may be cut.
    """

    rows: Sequence[BlockRow]
    speed: float

    def begin(self) -> Iterator[Arrival]:
        base = np.arange(MOONCAKE_BLOCK_TOKENS, dtype=np.uint32)
        first_seconds = self.rows[0].at_seconds if self.rows else 0.0
        for number, row in enumerate(self.rows):
            blocks = np.array(row.blocks, dtype=np.uint32)
            tokens = array("I")
            ids = (blocks[:, None] * np.uint32(MOONCAKE_BLOCK_TOKENS) + base).ravel()[: row.prompt_tokens]
            tokens.frombytes(ids.tobytes())
            at_seconds = (row.at_seconds - first_seconds) / self.speed
            yield Arrival(str(number), at_seconds, tokens, answer_of(number, row.answer_tokens))


@dataclass(frozen=True, slots=True)
class Preset:
    """A published benchmark's shape."""

    source: str
    replicas: int
    cache_tokens: int  # per replica
    groups: int
    prompts_per_group: int
    system_tokens: int
    question_tokens: int
    answer_tokens: int


PRESETS: Mapping[str, Preset] = {
    "b2b-73": Preset(
        "llm-d-kv-cache benchmarking/73-capacity: Qwen3-32B on 8 x 2 H100, prompts fill 73 % of all caches",
        *(8, 307_328, 150, 5, 6_000, 1_200, 1_000),
    ),
    "b2b-37": Preset(
        "llm-d-kv-cache benchmarking/37-capacity: Llama-3.1-70B on 4 x 4 H100, prompts fill 37 % of all caches",
        *(4, 461_376, 83, 3, 8_000, 1_000, 1_000),
    ),
}


def trace_rows(path: Path, requests: int | None = None) -> list[BlockRow]:
    """The first rows of a trace of block ids or lengths. Raises ConfigError."""
    rows = []
    for conversation in load_conversations(path, max_tokens=LONGEST_ANSWER):
        for ask in conversation.asks:
            if not isinstance(ask.prompt, TokenRuns) or ask.at_seconds is None:
                raise ConfigError(
                    [f"{path}: holds texts. In virtual time only traces of block ids or lengths are replayed so far."]
                )
            rows.append(BlockRow(ask.at_seconds, ask.prompt.blocks, ask.prompt.count, ask.max_tokens))
    rows.sort(key=lambda row: row.at_seconds)
    return rows if requests is None else rows[:requests]


WorkloadAt = Callable[[float, int], Workload]  # rate (requests a second) and seed to a workload


def preset_at(preset: Preset, requests: int) -> WorkloadAt:
    def at(rate_per_second: float, seed: int) -> Workload:
        return SharedPrefixes(
            preset.groups,
            preset.prompts_per_group,
            preset.system_tokens,
            preset.question_tokens,
            preset.answer_tokens,
            requests,
            rate_per_second,
            seed,
        )

    return at


def trace_at(rows: Sequence[BlockRow]) -> WorkloadAt:
    span_seconds = rows[-1].at_seconds - rows[0].at_seconds if len(rows) > 1 else 1.0
    own_rate = len(rows) / max(span_seconds, 1e-9)

    def at(rate_per_second: float, _seed: int) -> Workload:
        return BlockTrace(rows, rate_per_second / own_rate)

    return at
