"""`python -m loadtest.ladder`: llm-d's published ladder on b2b-73, played in virtual time beside the published figures.

As published (llm-d-kv-cache benchmarking/73-capacity): 8 replicas of Qwen3-32B on two H100, 307,328 KV tokens each,
150 groups x 5 prompts, short stages of rising rate. Each stage is a burst and its drain: the next begins when the last
request of the one before it is answered, caches stay warm throughout, and tokens/s count the drain. So what is
reproduced is the shape: who keeps up, and at which rate the others collapse.

The published arms differ in more than their index. `approximate` weighed prefix, cache and queue 1:1:1 and matched at
most 256 blocks of 64 characters, 4,096 tokens of the 6,000 shared ones; here it is longest_match without events.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtest.machine import machine
from router.lab.run import Fleet, Run, play
from router.lab.shared_prefixes import PrefixShape, SharedPrefixes
from router.lab.workloads import PRESETS, Load
from router.sim.report import percentile
from router.sim.virtual import Arrival, Story

TABLE_WIDTH = 190  # all arms side by side, whatever the terminal
WARMUP = (15.0, 50.0)
STAGES = (  # requests a second, seconds
    *((3.0, 20.0), (10.0, 20.0), (15.0, 20.0), (20.0, 38.0), (22.0, 34.0), (25.0, 30.0), (30.0, 25.0), (35.0, 21.0)),
    *((40.0, 38.0), (43.0, 36.0), (46.0, 33.0), (49.0, 30.0), (52.0, 29.0), (55.0, 27.0), (57.0, 26.0), (60.0, 25.0)),
)
# Output tokens/s and TTFT p90 in seconds, from the same report.
PUBLISHED = {
    "precise": {3: (1219, 0.50), 10: (3902, 0.60), 15: (5761, 0.40), 20: (9185, 0.60), 30: (9222, 0.51)}
    | {35: (9781, 0.50), 40: (10271, 0.49), 52: (10285, 0.51), 60: (10497, 0.50)},
    "approximate": {3: (1311, 0.50), 10: (3842, 0.50), 15: (5153, 0.40), 20: (8083, 0.60), 30: (8436, 0.71)}
    | {35: (7444, 2.46), 40: (8046, 43.0), 52: (7452, 47.3), 60: (7248, 50.2)},
    "random": {3: (1314, 0.82), 10: (3569, 1.40), 15: (3791, 2.30), 20: (4933, 70.3), 30: (4636, 86.2)}
    | {35: (4333, 91.5), 40: (4774, 101.0), 52: (4845, 105.0), 60: (4835, 106.0)},
    "load": {3: (1275, 1.61), 10: (3607, 4.12), 15: (3348, 7.00), 20: (4903, 77.7), 30: (4889, 83.8)}
    | {35: (4661, 88.1), 40: (4946, 101.0), 52: (3991, 109.0), 60: (4745, 110.0)},
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy of ours that stands for an arm of theirs; None: it has no counterpart there."""

    policy: str
    published: str | None
    events: bool = True


ARMS = (
    Arm("random", "random"),
    Arm("least_loaded", "load"),
    Arm("longest_match", "approximate", events=False),
    Arm("llmd_blend", "precise"),
    Arm("llmd_affinity", None),
    Arm("cache_aware", None),
)


@dataclass(slots=True)
class Ladder:
    """Stages one after another, each when the one before it is answered. One object plays one run."""

    shape: PrefixShape
    stages: Sequence[tuple[float, float]]
    seed: int
    _stage: int = field(default=0, init=False)
    _open: int = field(default=0, init=False)

    def begin(self) -> Iterator[Arrival]:
        return iter(self._next(0.0))

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:  # noqa: ARG002
        self._open -= 1
        return self._next(now) if not self._open and self._stage < len(self.stages) else ()

    def _next(self, now: float) -> list[Arrival]:
        rate, seconds = self.stages[self._stage]
        stage = SharedPrefixes(self.shape, round(rate * seconds), rate, self.seed * 1_000 + self._stage)
        arrivals = [
            Arrival(f"{self._stage}.{one.request_id}", now + one.at_seconds, one.prompt, one.answer, one.session)
            for one in stage.begin()
        ]
        self._stage += 1
        self._open = len(arrivals)
        return arrivals


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of one arm."""

    rate_per_second: float
    answer_tokens_per_second: float
    ttft_p90_seconds: float
    ttft_mean_seconds: float
    hit_ratio: float


def climb(arm: Arm, stages: Sequence[tuple[float, float]], seed: int, noise_ratio: float) -> list[Step]:
    preset = PRESETS["b2b-73"]
    assert isinstance(preset.shape, PrefixShape)
    shape = preset.shape
    fleet = Fleet(preset.replicas, preset.cache_tokens, 64, preset.timing, events=arm.events, noise_ratio=noise_ratio)
    run = Run(arm.policy, "b2b-73", fleet, Load(0, 0.0, None, seed))
    stories = play(run, lambda load: Ladder(shape, (WARMUP, *stages), load.seed)).stories
    return [
        _step(rate, [story for name, story in stories.items() if name.startswith(f"{number}.")])
        for number, (rate, _) in enumerate(stages, start=1)
    ]


def _step(rate: float, stories: Sequence[Story]) -> Step:
    first = [(story.first_token_seconds or 0.0) - story.arrival_seconds for story in stories]
    began, ended = min(s.arrival_seconds for s in stories), max(s.last_token_seconds for s in stories)
    return Step(
        rate,
        sum(story.answer_tokens for story in stories) / (ended - began),
        percentile(first, 0.90) or 0.0,
        sum(first) / len(first),
        sum(story.cached_tokens for story in stories) / sum(story.prompt_tokens for story in stories),
    )


def _table(climbs: dict[Arm, list[Step]], stages: Sequence[tuple[float, float]]) -> Table:
    table = Table(title="b2b-73: output tokens/s and TTFT p90, ours | published")
    table.add_column("rate", justify="right", no_wrap=True)
    for arm in climbs:
        table.add_column(f"{arm.policy}\n| {arm.published or '-'}", justify="right", no_wrap=True)
    for number, (rate, _) in enumerate(stages):
        cells = []
        for arm, steps in climbs.items():
            step = steps[number]
            theirs = PUBLISHED.get(arm.published or "", {}).get(round(rate))
            beside = f" | {theirs[0]:,} {theirs[1]:.1f} s" if theirs else ""
            cells.append(f"{step.answer_tokens_per_second:,.0f} {step.ttft_p90_seconds:.1f} s{beside}")
        table.add_row(f"{rate:g}/s", *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.ladder", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", action="append", choices=[arm.policy for arm in ARMS], help="only these arms")
    parser.add_argument("--rate", action="append", type=float, help="only these stages")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--noise", type=float, default=0.15, help="deviation of a step's length over its mean")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    given = parser.parse_args(arguments)
    stages = [stage for stage in STAGES if not given.rate or stage[0] in given.rate]
    arms = [arm for arm in ARMS if not given.policy or arm.policy in given.policy]
    console = Console(stderr=True)
    climbs = {
        arm: climb(arm, stages, given.seed, given.noise)
        for arm in track(arms, description="arms", console=console, transient=True)
    }
    Console(width=TABLE_WIDTH).print(_table(climbs, stages))
    if given.json:
        figures = {
            arm.policy: {
                "published_as": arm.published,
                "steps": [{name: getattr(step, name) for name in Step.__dataclass_fields__} for step in climbs[arm]],
            }
            for arm in climbs
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(machine() | {"arms": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
