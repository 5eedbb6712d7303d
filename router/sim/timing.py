"""How long one engine step takes.

A step computes a prefill chunk for some requests and one token for others, together. Its time is

    fixed + sum over chunks (a*new + b*context + c*new*context) + d*sequences + e*sum of decoded contexts

`new` are the tokens computed now, `context` those before them. The product term is attention over what is already
cached: half a thousand new tokens at a depth of 100K take six times as long as at depth zero. A model that prices new
tokens alone would make every deep hit look free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one engine step. All coefficients are seconds, per token where the name says so."""

    source: str  # where the numbers come from
    fixed_seconds: float  # weights are read once a step, whatever the batch
    per_new_token_seconds: float
    per_context_token_seconds: float  # for each chunk of a prefill
    per_new_and_context_token_seconds: float
    per_sequence_seconds: float
    per_decode_context_token_seconds: float

    def step_seconds(self, prefills: Iterable[tuple[int, int]], sequences: int, context_tokens: int) -> float:
        """Time of a step with these `(new, context)` prefill chunks and so many decoding sequences and their tokens."""
        seconds = self.fixed_seconds
        for new, context in prefills:
            seconds += self.per_new_token_seconds * new + self.per_context_token_seconds * context
            seconds += self.per_new_and_context_token_seconds * new * context
        return seconds + self.per_sequence_seconds * sequences + self.per_decode_context_token_seconds * context_tokens

    def faster(self, factor: float) -> Timing:
        """The same engine, `factor` times as fast. For demos and tests; below 1 it is a straggler."""
        return replace(
            self,
            source=f"{self.source}, {factor:g} times as fast",
            fixed_seconds=self.fixed_seconds / factor,
            per_new_token_seconds=self.per_new_token_seconds / factor,
            per_context_token_seconds=self.per_context_token_seconds / factor,
            per_new_and_context_token_seconds=self.per_new_and_context_token_seconds / factor,
            per_sequence_seconds=self.per_sequence_seconds / factor,
            per_decode_context_token_seconds=self.per_decode_context_token_seconds / factor,
        )


# The prefill part is Preble's regression (WukLab/preble, global_scheduler_with_time.py). For the decode part: a step
# without prefill costs the same fixed time, 60 us a sequence (AIConfigurator's queueing model), and reading the KV of
# each sequence at the bandwidth of the memory (320 KB a token for Llama-3-70B in bf16, two times 3.35 TB/s; the A100
# has two times 2.0 TB/s; 128 KB a token and 0.77 TB/s for Mistral-7B on the A6000).
LLAMA3_70B_H100_TP2 = Timing(
    source="Preble regression, Llama-3-70B on two H100",
    fixed_seconds=18.67e-3,
    per_new_token_seconds=0.0799e-3,
    per_context_token_seconds=0.00269e-3,
    per_new_and_context_token_seconds=7.44e-10,
    per_sequence_seconds=0.06e-3,
    per_decode_context_token_seconds=4.9e-8,
)
LLAMA3_70B_A100_TP2 = Timing(
    source="Preble regression, Llama-3-70B on two A100",
    fixed_seconds=28.9e-3,
    per_new_token_seconds=0.182e-3,
    per_context_token_seconds=0.0040e-3,
    per_new_and_context_token_seconds=2.55e-9,
    per_sequence_seconds=0.06e-3,
    per_decode_context_token_seconds=8.0e-8,
)
MISTRAL_7B_A6000 = Timing(
    source="Preble regression, Mistral-7B on one A6000; depth as Llama-3-70B on A100, scaled by attention work",
    fixed_seconds=4.2e-3,
    per_new_token_seconds=0.108e-3,
    per_context_token_seconds=0.0020e-3,
    per_new_and_context_token_seconds=2.0e-9,
    per_sequence_seconds=0.06e-3,
    per_decode_context_token_seconds=1.7e-7,
)
TIMINGS = {
    "llama3_70b_h100": LLAMA3_70B_H100_TP2,
    "llama3_70b_a100": LLAMA3_70B_A100_TP2,
    "mistral_7b_a6000": MISTRAL_7B_A6000,
}
