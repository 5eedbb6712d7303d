"""The workloads by name: published benchmark shapes, agents, and files.

What a source leaves out is assumed, and said here. A preset brings the fleet it was published with: replicas, cache
and the engines' speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from router.errors import ConfigError
from router.lab.block_trace import BlockRow, BlockTrace, part, rate_of, trace_rows
from router.lab.chats import ChatShape, LogNormal, SubAgents, by_mean, chats
from router.lab.recorded_agents import clones, recordings
from router.lab.sessions import Script, Sessions, enough
from router.lab.shared_prefixes import PrefixShape, SharedPrefixes
from router.sim.traces import is_agents_log
from router.sim.virtual import Workload

FIRST_HALF_SEEDS = 500_000  # beyond all that a run is given

Item = TypeVar("Item")


class Half(Enum):
    """Which part of a workload is played: policies are tuned on the first half and judged by the second."""

    WHOLE = "whole"
    FIRST = "first"
    SECOND = "second"

    def of(self, whole: Sequence[Item]) -> Sequence[Item]:
        """What is in this half of a recording, in its order."""
        middle = len(whole) // 2
        return {Half.WHOLE: whole, Half.FIRST: whole[:middle], Half.SECOND: whole[middle:]}[self]

    def seed(self, seed: int) -> int:
        """For workloads that are made up: the halves never draw the same."""
        return seed + (FIRST_HALF_SEEDS if self is Half.FIRST else 0)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked: requests a second, or sessions at a time where the workload has sessions."""

    requests: int
    rate_per_second: float
    sessions: int | None
    seed: int
    half: Half = Half.WHOLE


WorkloadAt = Callable[[Load], Workload]


@dataclass(frozen=True, slots=True)
class Preset:
    """A shape, the fleet it was published with, and where."""

    source: str
    shape: PrefixShape | ChatShape
    replicas: int
    cache_tokens: int  # per replica
    timing: str  # of router/sim/timing.py


PRESETS: Mapping[str, Preset] = {
    "b2b-73": Preset(
        "llm-d-kv-cache benchmarking/73-capacity: Qwen3-32B on 8 x 2 H100, prompts fill 73 % of all caches",
        PrefixShape(150, 5, system_tokens=6_000, question_tokens=1_200, answer_tokens=1_000),
        replicas=8,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
    # Four H100 a replica there; the nearest published fit is of two, so seconds here are about twice theirs.
    "b2b-37": Preset(
        "llm-d-kv-cache benchmarking/37-capacity: Llama-3.1-70B on 4 x 4 H100, prompts fill 37 % of all caches",
        PrefixShape(83, 3, system_tokens=8_000, question_tokens=1_000, answer_tokens=1_000),
        replicas=4,
        cache_tokens=461_376,
        timing="llama3_70b_h100",
    ),
    # The cache is not published: 0.9 of 80 GB less 65 GB of weights, at 36,864 bytes a token (18 full-attention layers
    # of 8 heads of 64 in bf16). One tier only: the arms of the source that offload to the CPU are not played.
    "tiered": Preset(
        "llm-d-benchmark guide_tiered-prefix-cache_1: gpt-oss-120b on 16 x 1 H100; cache size estimated",
        PrefixShape(250, 5, system_tokens=16_000, question_tokens=256, answer_tokens=256),
        replicas=16,
        cache_tokens=180_224,
        timing="gpt_oss_120b_h100",
    ),
    # Means are llm-d's; deviations are inference-perf's catalogue's (code-generation), scaled to those means, and its
    # tool calls of 15 s. Turns are given as 6 there, without a spread.
    "code-generation": Preset(
        "llm-d token-aware routing study 2026-08: Qwen3-32B on 10 x 2 H100; spreads from inference-perf's catalogue",
        ChatShape(
            shared_tokens=3_000,
            first=by_mean(52_000, 76_000, 10_000, 110_000),
            turns=LogNormal(6),
            question=by_mean(1_500, 1_200, 100, 10_000),
            answer=by_mean(800, 800, 50, 4_000),
            think_seconds=by_mean(15, 55, 1, 100),
        ),
        replicas=10,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
    # Published: one group of 20 users, 1,000 + 200 in, 200 out. Turns and think times are not: a run of 20 turns, asked
    # without a pause, as inference-perf's multi-turn users do.
    "multi-turn": Preset(
        "llm-d-benchmark shared prefix with enable_multi_turn_chat, 1 group x 20 users; turns and fleet assumed",
        ChatShape(
            shared_tokens=1_000,
            first=LogNormal(200),
            turns=LogNormal(20),
            question=LogNormal(200),
            answer=LogNormal(200),
            think_seconds=LogNormal(0.0),
        ),
        replicas=4,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
    "interactive-chat": Preset(
        "inference-perf workload-catalog/interactive-chat; fleet assumed",
        ChatShape(
            shared_tokens=1_000,
            first=by_mean(4_000, 2_500, 500, 15_000),
            turns=by_mean(4, 2.5, 1, 15),
            question=by_mean(50, 40, 10, 1_000),
            answer=by_mean(300, 150, 10, 1_000),
            think_seconds=by_mean(45, 40, 5, 300),
        ),
        replicas=8,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
    # Turns, first prompts, what a turn adds, answers: measured on LMCache's mini-swe-agent sessions (12 sessions, 260
    # calls; characters / 4). The shared beginning is Magentic's (312 characters), whose sessions hand every tenth turn
    # to another prompt: played as sub-agents. Tool times could not be measured there (about 1 s with the answer).
    "agents": Preset(
        "shape measured on LMCache's recorded agent sessions (mini-swe-agent, Magentic); fleet assumed",
        ChatShape(
            shared_tokens=78,
            first=by_mean(1_480, 310, 1_000, 4_000),
            turns=by_mean(24, 10, 5, 42),
            question=by_mean(182, 380, 12, 2_700),
            answer=by_mean(118, 64, 30, 400),
            think_seconds=by_mean(1.0, 1.0, 0.1, 30),
            sub_agents=SubAgents(
                spawning_ratio=0.03,
                at_once=LogNormal(3),
                turns=by_mean(6, 3, 1, 15),
                shared_tokens=500,
                task_tokens=by_mean(400, 300, 50, 3_000),
            ),
        ),
        replicas=8,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
    # 33.6K tokens in and 445 out on average, 4.8 % of them shared by all sessions (GLM's agent traffic); 43 turns at
    # the median and sub-agents in 44 % of sessions (AgentX); 632 more tokens a turn, 2 s between turns at the median
    # and 11 minutes at the p99, 7 sub-agents at once (219 sessions, llm-d 2026-07). Pauses are cut at a minute, or a
    # run of some thousand requests would be mostly its end; a sub-agent's turns and prompts are assumed.
    "agents-long": Preset(
        "published statistics of coding agents (GLM traffic, AgentX, llm-d's 219 sessions); fleet assumed",
        ChatShape(
            shared_tokens=1_600,
            first=by_mean(18_400, 9_000, 4_000, 60_000),
            turns=by_mean(46, 17, 5, 120),
            question=by_mean(300, 500, 20, 8_000),
            answer=by_mean(330, 300, 20, 4_000),
            think_seconds=LogNormal(2.0, 2.49, 0.1, 60),
            sub_agents=SubAgents(
                0.012, LogNormal(7, 0.8, 1, 51), by_mean(10, 6, 2, 30), 1_000, by_mean(3_000, 3_000, 200, 20_000)
            ),
        ),
        replicas=8,
        cache_tokens=307_328,
        timing="qwen3_32b_h100",
    ),
}


def workload(name: str) -> WorkloadAt:
    """A preset by name, else a file: a trace of block ids or lengths, or an agents' log. Raises ConfigError."""
    if name in PRESETS:
        return preset_at(PRESETS[name])
    path = Path(name)
    if not path.exists():
        raise ConfigError([f"{name} is neither a file nor one of: {', '.join(PRESETS)}."])
    if is_agents_log(path):
        recorded = recordings(path)
        return lambda load: sessions_at(clones(load.half.of(recorded) or recorded, load.seed), load)
    return trace_at(trace_rows(path))


def preset_at(preset: Preset) -> WorkloadAt:
    def at(load: Load) -> Workload:
        if isinstance(preset.shape, ChatShape):
            return sessions_at(chats(preset.shape, load.half.seed(load.seed)), load)
        _wants_rate(load)
        return SharedPrefixes(preset.shape, load.requests, load.rate_per_second, load.half.seed(load.seed))

    return at


def sessions_at(scripts: Iterator[Script], load: Load) -> Sessions:
    if load.sessions is not None:
        taken = enough(scripts, 2 * load.requests, 2 * load.sessions)  # so that the last to end are followed too
        return Sessions(taken, load.seed, at_a_time=load.sessions, most_requests=load.requests)
    taken = enough(scripts, load.requests)
    mean_requests = sum(script.requests for script in taken) / len(taken)
    return Sessions(taken, load.seed, sessions_per_second=load.rate_per_second / mean_requests)


def trace_at(rows: Sequence[BlockRow]) -> WorkloadAt:
    """The trace at the rate that is asked for: seeds take other stretches of it."""

    def at(load: Load) -> Workload:
        _wants_rate(load)
        taken = part(load.half.of(rows), load.requests, load.seed)
        return BlockTrace(taken, load.rate_per_second / rate_of(taken))

    return at


def _wants_rate(load: Load) -> None:
    if load.sessions is not None:
        raise ConfigError(["This workload has no sessions to be so many at a time. Give it a rate."])
