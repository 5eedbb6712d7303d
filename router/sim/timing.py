"""How long one engine step takes.

A step computes a prefill chunk for some requests and one token for others, together. Its time is

    fixed + sum over chunks (a*new + b*context + c*new*context) + d*sequences + e*sum of decoded contexts

`new` are the tokens computed now, `context` those before them. The product term is attention over what is already
cached: half a thousand new tokens at a depth of 100K take six times as long as at depth zero. A model that prices new
tokens alone would make every deep hit look free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from random import Random


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

    def prefill_tokens_per_second(self, step_tokens: int = 8192) -> float:
        """Of a prompt that fills one step, alone and from its beginning."""
        return step_tokens / self.step_seconds([(step_tokens, 0)], 0, 0)

    def pace(self, steps: int) -> float:  # noqa: ARG002
        """What the next steps take, together, over what they should: more than 1 is slow."""
        return 1.0

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


@dataclass(frozen=True, slots=True)
class NoisyTiming(Timing):
    """Steps vary as on real machines: each by a log-normal factor of mean 1, independent of the others.

    Steps taken as one stride share one draw, of the variance that their mean has; a stride cut short keeps it.
    """

    noise_ratio: float = 0.0  # standard deviation of a step's factor
    chance: Random = field(default_factory=Random, repr=False)

    def pace(self, steps: int) -> float:
        variance = math.log1p(self.noise_ratio**2 / steps)
        return math.exp(math.sqrt(variance) * self.chance.gauss(0.0, 1.0) - variance / 2)


def noisy(timing: Timing, noise_ratio: float, chance: Random) -> NoisyTiming:
    own = {one.name: getattr(timing, one.name) for one in fields(Timing)}
    return NoisyTiming(**own, noise_ratio=noise_ratio, chance=chance)


# How each was fitted, and to what. tests/sim/test_timing.py plays the published points named here on one engine.
#
# llama3_70b_h100: the prefill part is Preble's regression (WukLab/preble, global_scheduler_with_time.py). The decode
# part: reading each sequence's KV at the memory's bandwidth (160 KB a token in fp8, two times 3.35 TB/s), and 20 us a
# sequence, which gives NVIDIA's published throughputs (NIM benchmarks 1.8.0, Llama-3.3-70B fp8 on two H100, 5,000 in,
# 500 out): 51.7, 218 and 623 tokens/s for 1, 5 and 25 streams, and 0.407 s to the first token for one.
LLAMA3_70B_H100_TP2 = Timing(
    source="Preble regression, Llama-3-70B on two H100; decode as NVIDIA NIM 1.8.0, fp8",
    fixed_seconds=18.67e-3,
    per_new_token_seconds=0.0799e-3,
    per_context_token_seconds=0.00269e-3,
    per_new_and_context_token_seconds=7.44e-10,
    per_sequence_seconds=0.02e-3,
    per_decode_context_token_seconds=2.45e-8,
)
# As above for two A100 (2.0 TB/s each, KV in bf16, 60 us a sequence as in AIConfigurator's queueing model); no
# published points beside the regression.
LLAMA3_70B_A100_TP2 = Timing(
    source="Preble regression, Llama-3-70B on two A100",
    fixed_seconds=28.9e-3,
    per_new_token_seconds=0.182e-3,
    per_context_token_seconds=0.0040e-3,
    per_new_and_context_token_seconds=2.55e-9,
    per_sequence_seconds=0.06e-3,
    per_decode_context_token_seconds=8.0e-8,
)
# llm-d: a chunk of 8,192 tokens takes 0.40 s, one stream gets a token each 11 ms, about 190 streams of 7,200 + 500
# tokens one each 47 ms (router token-aware study 2026-08, 73-capacity report). The last is less than reading all that
# KV would take (57 ms at two times 3.35 TB/s), so fewer than 190 ran, or they shared reads; taken as published.
# Depth is Preble's Llama-3-70B, by layers (64 of 80; the same heads).
QWEN3_32B_H100_TP2 = Timing(
    source="llm-d calibration, Qwen3-32B on two H100; depth as Llama-3-70B, scaled by attention work",
    fixed_seconds=10.9e-3,
    per_new_token_seconds=0.0474e-3,
    per_context_token_seconds=0.00215e-3,
    per_new_and_context_token_seconds=5.95e-10,
    per_sequence_seconds=0.02e-3,
    per_decode_context_token_seconds=2.2e-8,
)
# NVIDIA NIM 1.8.0, Llama-3.1-8B on H100, 200 in and 200 out (which follows from the other columns; so does fp8, since
# one token each 4.63 ms is less than reading bf16 weights takes): 214.6, 4,679 and 12,215 tokens/s for 1, 25 and 100
# streams, 10.3 ms to the first token for one. Above 100 its scheduler falls behind this formula. Depth is Preble's
# Llama-3-70B, by layers times heads (1/5) and one GPU for two.
LLAMA3_8B_H100 = Timing(
    source="NVIDIA NIM 1.8.0, Llama-3.1-8B on one H100; depth as Llama-3-70B, scaled by attention work",
    fixed_seconds=4.55e-3,
    per_new_token_seconds=0.025e-3,
    per_context_token_seconds=0.00108e-3,
    per_new_and_context_token_seconds=2.98e-10,
    per_sequence_seconds=0.001e-3,
    per_decode_context_token_seconds=3.9e-8,
)
# llm-d's P2P study: prefilling 8, 16, 32 and 48 thousand tokens takes 0.250, 0.510, 1.173 and 1.988 s (an H200, whose
# compute is the H100's); its tiered-cache report: 16,256 + 256 tokens take 1.80 s in all, 0.45 s to the first.
GPT_OSS_120B_H100 = Timing(
    source="llm-d P2P study, gpt-oss-120b on one H200",
    fixed_seconds=4.6e-3,
    per_new_token_seconds=0.0285e-3,
    per_context_token_seconds=0.0,
    per_new_and_context_token_seconds=6.3e-10,
    per_sequence_seconds=0.02e-3,
    per_decode_context_token_seconds=5.5e-9,
)
# The KV of a token is 128 KB, read at 0.77 TB/s.
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
    "gpt_oss_120b_h100": GPT_OSS_120B_H100,
    "llama3_70b_a100": LLAMA3_70B_A100_TP2,
    "llama3_70b_h100": LLAMA3_70B_H100_TP2,
    "llama3_8b_h100": LLAMA3_8B_H100,
    "mistral_7b_a6000": MISTRAL_7B_A6000,
    "qwen3_32b_h100": QWEN3_32B_H100_TP2,
}
