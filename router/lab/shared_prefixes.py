"""Groups of prompts that share a long beginning, in an open loop: inference-perf's `shared_prefix`.

Slow replies never thin the load, so two policies see the same requests at the same moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from router.lab.token_ids import answer_of, run_of
from router.sim.virtual import Arrival


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """So many groups, each a system prompt and a few questions. Counts of tokens where the name says nothing else."""

    groups: int
    prompts_per_group: int
    system_tokens: int
    question_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Poisson arrivals; every request draws one of all prompts, so prompts come again and again."""

    shape: PrefixShape
    requests: int
    rate_per_second: float
    seed: int

    def begin(self) -> Iterator[Arrival]:
        chance, shape = Random(self.seed), self.shape
        now = 0.0
        systems = [run_of(group, shape.system_tokens) for group in range(shape.groups)]
        for number in range(self.requests):
            now += chance.expovariate(self.rate_per_second)
            prompt = int(chance.random() * shape.groups * shape.prompts_per_group)
            question = run_of(shape.groups + prompt, shape.question_tokens)
            tokens = systems[prompt // shape.prompts_per_group] + question
            yield Arrival(str(number), now, tokens, answer_of(number, shape.answer_tokens), f"{prompt}")

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:  # noqa: ARG002
        """Nothing: all was told before the run."""
        return ()
