"""The engine model beside published measurements, each on one engine in virtual time, and its noise."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from statistics import fmean, pstdev

import pytest

from router.sim.engine import Engine, EngineLimits, Job
from router.sim.timing import (
    GPT_OSS_120B_H100,
    LLAMA3_8B_H100,
    LLAMA3_70B_H100_TP2,
    QWEN3_32B_H100_TP2,
    TIMINGS,
    Timing,
    noisy,
)

WITHIN = 0.10


@dataclass(frozen=True, slots=True)
class Measured:
    first_token_seconds: float
    inter_token_seconds: float
    answer_tokens_per_second: float


def served(timing: Timing, streams: int, prompt_tokens: int, answer_tokens: int) -> Measured:
    """`streams` clients, each asking anew when it is answered; the middle half of the run is measured."""
    limits = EngineLimits(block_count=60_000, block_size_tokens=64, max_sequences=512)
    engine = Engine(limits, timing, b"root", longest_stride=4096)
    asked, requests = 0, streams * 6
    asks = [(0.05 * stream, stream) for stream in range(streams)]
    sent: dict[str, float] = {}
    first: dict[str, float] = {}
    ends: list[tuple[float, str]] = []
    while asks or engine.next_step_at() is not None:
        due = engine.next_step_at()
        if asks and (due is None or asks[0][0] <= due):
            now, stream = heapq.heappop(asks)
            if asked < requests:
                asked += 1
                own = range(asked * 100_000, asked * 100_000 + prompt_tokens)
                name = f"{asked}.{stream}"
                engine.submit(Job(name, own, range(answer_tokens)), now)
                sent[name] = now
                if due is None:
                    engine.step(now)
            continue
        assert due is not None
        for output in engine.step(due).outputs:
            first.setdefault(output.request_id, due)
            if output.finished:
                ends.append((due, output.request_id))
                heapq.heappush(asks, (due, int(output.request_id.split(".")[1])))
    began, ended = len(ends) // 4, 3 * len(ends) // 4
    middle = [name for _, name in ends[began:ended]]
    return Measured(
        fmean(first[name] - sent[name] for name in middle),
        fmean((end - first[name]) / (answer_tokens - 1) for end, name in ends[began:ended]),
        answer_tokens * (ended - began) / (ends[ended][0] - ends[began][0]),
    )


def prefill_seconds(timing: Timing, tokens: int, chunk: int = 8192) -> float:
    return sum(timing.step_seconds([(min(chunk, tokens - done), done)], 0, 0) for done in range(0, tokens, chunk))


@pytest.mark.parametrize(("streams", "published"), [(1, 51.67), (5, 218.48), (25, 623.4)])
def test_llama3_70b_gives_the_throughput_nvidia_publishes(streams: int, published: float) -> None:
    assert served(LLAMA3_70B_H100_TP2, streams, 5_000, 500).answer_tokens_per_second == pytest.approx(published, WITHIN)


def test_llama3_70b_gives_its_first_token_when_nvidia_says() -> None:
    assert prefill_seconds(LLAMA3_70B_H100_TP2, 5_000) == pytest.approx(0.40677, WITHIN)


@pytest.mark.parametrize(("streams", "published"), [(1, 214.56), (25, 4_678.88), (100, 12_214.97)])
def test_llama3_8b_gives_the_throughput_nvidia_publishes(streams: int, published: float) -> None:
    assert served(LLAMA3_8B_H100, streams, 200, 200).answer_tokens_per_second == pytest.approx(published, WITHIN)


def test_llama3_8b_gives_its_first_token_when_nvidia_says() -> None:
    assert prefill_seconds(LLAMA3_8B_H100, 200) == pytest.approx(0.01026, WITHIN)


def test_qwen3_32b_takes_as_long_as_llm_d_measured() -> None:
    timing = QWEN3_32B_H100_TP2
    assert prefill_seconds(timing, 8_192) == pytest.approx(0.40, WITHIN)
    assert served(timing, 1, 7_200, 1_000).inter_token_seconds == pytest.approx(0.011, WITHIN)
    # Their 190 streams are mostly warm: what is left to prefill is small beside the tokens.
    assert timing.step_seconds((), 190, 190 * 7_700) == pytest.approx(0.047, WITHIN)


def test_gpt_oss_120b_takes_as_long_as_llm_d_measured() -> None:
    published: Mapping[int, float] = {8_192: 0.250, 16_384: 0.510, 32_768: 1.173, 49_152: 1.988}
    for tokens, seconds in published.items():
        assert prefill_seconds(GPT_OSS_120B_H100, tokens) == pytest.approx(seconds, WITHIN)


@pytest.mark.parametrize("name", sorted(TIMINGS))
def test_every_fit_names_its_source_and_prices_depth(name: str) -> None:
    timing = TIMINGS[name]
    assert timing.source
    assert prefill_seconds(timing, 131_072) > 131_072 / 8_192 * prefill_seconds(timing, 8_192)


def test_noise_has_its_spread_leaves_the_mean_and_averages_out_over_a_stride() -> None:
    timing = noisy(LLAMA3_8B_H100, 0.15, Random(1))
    for steps in (1, 25):
        paces = [timing.pace(steps) for _ in range(4_000)]
        assert fmean(paces) == pytest.approx(1.0, abs=0.01)
        assert pstdev(paces) == pytest.approx(0.15 / steps**0.5, rel=0.1)
    assert timing.faster(0.5).pace(1) != 1.0, "a straggler keeps its noise"


def test_the_same_seed_gives_the_same_noise() -> None:
    one, same = (noisy(LLAMA3_8B_H100, 0.15, Random(7)) for _ in range(2))
    assert [one.pace(1) for _ in range(5)] == [same.pace(1) for _ in range(5)]
