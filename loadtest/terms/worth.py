"""`python -m loadtest.terms --traces DIR`: what each term that the default policy has not would be worth to it.

Each trial (trials.py) plays beside the policy that ships, the same requests and seeds, in virtual time, near the load
that the policy sustains; and under the hardship in which it should help. Told are the difference in mean time to first
token with its 95 % interval (router/lab/pairs.py), and hits. The interval is of one draw of the engines' noise and of
ties a seed, so a placebo plays too: what it "wins" or "loses" is what such a comparison cannot tell.

A term earns its place when it is better somewhere, worse nowhere, and by more than the placebo.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.progress import track

from loadtest.cells import CELLS, Cell
from loadtest.machine import ROOT, machine
from loadtest.notebook import policy_file
from loadtest.terms.trials import OURS, TRIALS, Trial, true_speed
from router.lab.pairs import Difference, Verdict, difference
from router.lab.run import Fleet, Played, play
from router.lab.shared_prefixes import PrefixShape
from router.lab.workloads import PRESETS, Preset, WorkloadAt, preset_at, workload

HOT = "hot-prefixes"  # three long beginnings that eight replicas are asked for all the time
HOT_PRESET = Preset(
    "made up, for replication",
    PrefixShape(3, 4_000, system_tokens=24_000, question_tokens=400, answer_tokens=150),
    replicas=8,
    cache_tokens=307_328,
    timing="qwen3_32b_h100",
)
EVERYWHERE = ("placebo", *(name for name in TRIALS if name not in {"placebo", "believing"}), "true_speed")
MARKS = {Verdict.BETTER: "**better**", Verdict.WORSE: "worse", Verdict.INCONCLUSIVE: ""}


@dataclass(frozen=True, slots=True)
class Place:
    """A cell at a load near what the policy sustains there, and the trials that are played in it."""

    cell: str
    load: float
    hardship: str | None = None
    trials: tuple[str, ...] = EVERYWHERE

    @property
    def name(self) -> str:
        return self.cell if self.hardship is None else f"{self.cell}, {self.hardship}"


PLACES: tuple[Place, ...] = (
    Place("conversation", 7.8),
    Place("synthetic", 8.3),
    Place("agents", 50),
    Place("b2b-73", 34),
    Place("conversation", 7.0, "one at half speed", ("placebo", "no_cache_in_use", "true_speed")),
    Place("agents", 44, "one at half speed", ("placebo", "no_cache_in_use", "true_speed")),
    Place(
        "conversation", 6.4, "4 routers", ("placebo", "no_cache_in_use", "no_open_requests", "no_waited", "believing")
    ),
    Place("conversation", 7.6, "5 % of events lost", ("placebo", "believing")),
    Place(HOT, 60, None, ("placebo", "no_waited", "replicate", "decode_penalty", "session_price")),
    Place("code-generation", 40, None, ("placebo", "decode_penalty", "decode_for_in_use", "session_price")),
)


@dataclass(frozen=True, slots=True)
class Game:
    """One run of a trial, or of the policy as it ships. Small enough to be sent to another process."""

    place: Place
    trial: str | None
    seed: int
    requests: int
    traces: Path

    def play(self) -> Played:
        cell = cell_of(self.place, self.traces)
        run = cell.run(OURS if self.trial is None else self.trial, self.place.load, self.requests, self.seed)
        if self.trial is None:
            return play(run, workload_at(cell.workload))
        trial = trial_of(self.trial, cell.fleet.timing, run.fleet.slow)
        policy = trial.policy(policy_file(OURS).read_text(encoding="utf-8"))
        return play(run, workload_at(cell.workload), policy, trial.open_blocks)


def trial_of(name: str, timing: str, slow: float) -> Trial:
    return true_speed(timing, slow) if name == "true_speed" else TRIALS[name]


def cell_of(place: Place, traces: Path) -> Cell:
    if place.cell in CELLS:
        source, fleet = CELLS[place.cell]
    else:
        preset = HOT_PRESET if place.cell == HOT else PRESETS[place.cell]
        source, fleet = place.cell, Fleet(preset.replicas, preset.cache_tokens, 128, preset.timing)
    by_sessions = place.cell in {"agents", "code-generation"}
    where = source if source in PRESETS or source == HOT else str(traces / source)
    return Cell(place.cell, where, fleet, by_sessions, full=place.load, hardship=place.hardship)


@cache
def workload_at(name: str) -> WorkloadAt:
    return preset_at(HOT_PRESET) if name == HOT else workload(name)


@dataclass(frozen=True, slots=True)
class Figures:
    """One trial in one place, means over its seeds."""

    hit_ratio: float
    mean_seconds: float
    p90_seconds: float
    inter_token_p99_seconds: float
    against_ours: Difference | None  # None: it is ours


def figures(played: Sequence[Played], ours: Sequence[Played] | None) -> Figures:
    told = [one.outcome for one in played]
    return Figures(
        fmean(one.hit_ratio for one in told),
        fmean(one.ttft_mean_seconds for one in told),
        fmean(one.ttft_p90_seconds for one in told),
        fmean(one.inter_token_p99_seconds for one in told),
        ours and difference([one.ttft_seconds for one in played], [one.ttft_seconds for one in ours]),
    )


def report(about: Mapping[str, str | int], found: Mapping[tuple[Place, str | None], Figures]) -> str:
    names = list(dict.fromkeys(name for _, name in found if name is not None))
    places = list(dict.fromkeys(place for place, _ in found))
    lines = [
        "# What other terms would be worth",
        "",
        f"{about['machine']}, commit {about['commit']}: `{about['command']}`",
        "",
        f"{about['requests']} requests a run, {about['seeds']} seeds from {about['from']}; the second half of each "
        "workload. Each trial is "
        f"{OURS} with the change that is told. Differences are its mean TTFT less that of {OURS}, paired by request "
        "and seed, with the 95 % interval of batch means: below 0 the change helps. The placebo changes nothing but "
        "chance: what it wins or loses is beyond what this comparison can tell.",
        "",
        "| trial | change | better | inconclusive | worse |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name in names:
        verdicts = [one.against_ours.verdict for (_, of), one in found.items() if of == name and one.against_ours]
        counts = " | ".join(str(verdicts.count(one)) for one in (Verdict.BETTER, Verdict.INCONCLUSIVE, Verdict.WORSE))
        lines.append(f"| {name} | {trial_of(name, 'qwen3_32b_h100', 1.0).why} | {counts} |")
    for place in places:
        lines += [
            "",
            f"## {place.name}, at {place.load:g}",
            "",
            "| trial | hit | TTFT mean | p90 | inter-token p99 | TTFT less that of ours |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for (where, trial), one in found.items():
            if where == place:
                lines.append(_row(trial or OURS, one))
    return "\n".join(lines) + "\n"


def _row(name: str, one: Figures) -> str:
    told = ""
    if (by := one.against_ours) is not None:
        told = f"{by.mean:+.3f} s [{by.low:+.3f}, {by.high:+.3f}] {MARKS[by.verdict]}".rstrip()
    return (
        f"| {name} | {one.hit_ratio:.1%} | {one.mean_seconds:.2f} s | {one.p90_seconds:.2f} s "
        f"| {1000 * one.inter_token_p99_seconds:.0f} ms | {told} |"
    )


def played(games: Sequence[Game], jobs: int) -> Iterable[Played]:
    if jobs == 1:
        yield from map(Game.play, games)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(Game.play, games)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.terms", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, default=ROOT / "traces", metavar="DIR")
    parser.add_argument("--place", action="append", choices=[place.name for place in PLACES], help="[default: all]")
    parser.add_argument("--trial", action="append", choices=EVERYWHERE, help="[default: all]")
    parser.add_argument("--requests", type=int, default=1_200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first-seed", type=int, default=11, help="others than those the terms were made with (1 to 6)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=ROOT / "loadtest" / "results" / "terms.md", metavar="FILE")
    given = parser.parse_args(arguments)
    games = [
        Game(place, trial, seed, given.requests, given.traces)
        for place in PLACES
        if not given.place or place.name in given.place
        for trial in (None, *(one for one in place.trials if not given.trial or one in given.trial))
        for seed in range(given.first_seed, given.first_seed + given.seeds)
    ]
    by_trial: dict[tuple[Place, str | None], list[Played]] = {}
    bar = track(played(games, given.jobs), "runs", total=len(games), console=Console(stderr=True))
    for game, one in zip(games, bar, strict=True):
        by_trial.setdefault((game.place, game.trial), []).append(one)
    found = {
        (place, trial): figures(runs, None if trial is None else by_trial[place, None])
        for (place, trial), runs in by_trial.items()
    }
    about = {**machine(), "requests": given.requests, "seeds": given.seeds, "from": given.first_seed}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(report(about, found), encoding="utf-8")
    Console().print(f"{given.out}")
