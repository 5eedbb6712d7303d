"""The one scenario that is played twice: in the virtual fleet, and over HTTP through a running Homing.

Groups of prompts share a long beginning (b2b-73 made small), arrivals are Poisson, and every prompt is drawn from all.
Both worlds get it as rows of block ids, as a recorded trace has them, so they make their own tokens from the same
sharing: what agrees does not agree because one side handed its tokens to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from router.fleet.rates import PRIOR_TOKENS_PER_SECOND
from router.lab.block_trace import BlockRow
from router.lab.run import Fleet
from router.sim.timing import TIMINGS
from router.sim.traces import MOONCAKE_BLOCK_TOKENS, TokenRuns
from router.sim.workload import Turn, Workload


@dataclass(frozen=True, slots=True)
class Scenario:
    """Prompts, arrivals and the engines they meet. Blocks are of MOONCAKE_BLOCK_TOKENS tokens.

    Two A100 a replica, the slowest published fit: a cold prompt takes a second, beside which what a busy machine adds
    to a request (some milliseconds) is small. All distinct prompts fill 70 % of the caches together.
    """

    groups: int = 40
    prompts_per_group: int = 5
    system_blocks: int = 8
    question_blocks: int = 2
    answer_tokens: int = 32
    requests: int = 500
    rate_per_second: float = 5.0
    seed: int = 1
    replicas: int = 4
    cache_tokens: int = 131_072  # per replica
    engine_block_tokens: int = 64
    timing: str = "llama3_70b_a100"

    @property
    def prompt_tokens(self) -> int:
        return (self.system_blocks + self.question_blocks) * MOONCAKE_BLOCK_TOKENS

    @property
    def fleet(self) -> Fleet:
        """As `homing sim` and `homing serve` make it: engines keep to the fit, routers begin with the shipped prior."""
        return Fleet(
            self.replicas,
            self.cache_tokens,
            self.engine_block_tokens,
            self.timing,
            index_by_design=False,
            noise_ratio=0.0,
            prior_ratio=PRIOR_TOKENS_PER_SECOND / TIMINGS[self.timing].prefill_tokens_per_second(),
        )

    @property
    def engine_blocks(self) -> int:
        """KV blocks that an engine is started with: one of them is its null block."""
        return self.cache_tokens // self.engine_block_tokens + 1


def rows(scenario: Scenario) -> list[BlockRow]:
    """The requests in order of arrival. The same scenario gives the same rows."""
    chance = Random(scenario.seed)
    systems = scenario.groups * scenario.system_blocks
    made: list[BlockRow] = []
    at_seconds = 0.0
    for number in range(scenario.requests):
        at_seconds += chance.expovariate(scenario.rate_per_second)
        prompt = chance.randrange(scenario.groups * scenario.prompts_per_group)
        system = prompt // scenario.prompts_per_group * scenario.system_blocks
        question = systems + prompt * scenario.question_blocks
        blocks = (
            *range(system, system + scenario.system_blocks),
            *range(question, question + scenario.question_blocks),
        )
        made.append(BlockRow(number, at_seconds, blocks, scenario.prompt_tokens, scenario.answer_tokens))
    return made


def over_http(requests: Sequence[BlockRow]) -> Workload:
    """The same requests as completions of token ids. A conversation is named by its row's number."""
    return Workload(
        tuple(
            Turn(row.at_seconds, str(row.number), 0, TokenRuns(row.blocks, row.prompt_tokens), row.answer_tokens)
            for row in requests
        )
    )
