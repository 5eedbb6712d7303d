"""`python -m loadtest.pools`: when to split prefill from decode, in virtual time: our joint choice against fixed rules.

Two fleets of four replicas: `any`, where each may compute for any other, and `2p2d`, where two only compute prompts for
others as long as anybody else can answer. Two workloads: long prompts with short answers, short prompts with longer
ones. The seeds are others than those the price of stalls was chosen by (seeds 1 to 3).

Policies see the same requests at the same moments; the last columns are the times to first and last token of ours less
theirs, paired by request and seed (`router/lab/pairs.py`). The wires carry 100 Gb/s each; step times vary by 15 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.progress import track

from loadtest.machine import machine
from router.fleet.replica import Role
from router.lab.pairs import Difference, difference
from router.lab.run import Fleet, Run, play
from router.lab.shared_prefixes import PrefixShape, SharedPrefixes
from router.lab.workloads import Load

REPLICAS = 4
ROLES: Mapping[str, tuple[Role, ...]] = {
    "any": (Role.BOTH,) * 4,
    "2p2d": (Role.PREFILL, Role.PREFILL, Role.DECODE, Role.DECODE),
}
# 200 groups of two prompts each: a quarter of what is asked has been asked before.
SHAPES: Mapping[str, PrefixShape] = {
    "long": PrefixShape(200, 2, system_tokens=2_000, question_tokens=8_000, answer_tokens=150),
    "short": PrefixShape(200, 2, system_tokens=200, question_tokens=400, answer_tokens=250),
}
# Requests a second, from idle to what the fleet can only just sustain.
RATES: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("any", "long"): (2.0, 4.0, 6.0, 8.0),
    ("any", "short"): (20.0, 60.0, 100.0, 140.0),
    ("2p2d", "long"): (1.5, 3.0, 4.5, 6.0),
    ("2p2d", "short"): (20.0, 40.0, 60.0, 80.0),
}
OURS = "disaggregated"
RIVALS = ("split_never", "split_always", "split_threshold", "dynamo_conditional")
FIRST_SEED = 11


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet under one workload at one rate."""

    roles: str
    shape: str
    rate_per_second: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Seconds are virtual."""

    first_token: Mapping[str, float]  # by request
    whole: Mapping[str, float]  # to the last token
    inter_token_p99_seconds: float
    split: int
    hit_ratio: float


def run(cell: Cell, policy: str, seed: int, requests: int) -> Figures:
    fleet = Fleet(REPLICAS, 307_328, 64, "qwen3_32b_h100", noise_ratio=0.15, roles=ROLES[cell.roles])
    shape = SHAPES[cell.shape]
    played = play(
        Run(policy, cell.shape, fleet, Load(requests, cell.rate_per_second, None, seed)),
        lambda load: SharedPrefixes(shape, load.requests, load.rate_per_second, load.seed),
    )
    stories = played.stories
    return Figures(
        {name: (one.first_token_seconds or 0.0) - one.arrival_seconds for name, one in stories.items()},
        {name: one.last_token_seconds - one.arrival_seconds for name, one in stories.items()},
        played.outcome.inter_token_p99_seconds,
        sum(one.donor is not None for one in stories.values()),
        played.outcome.hit_ratio,
    )


def row(policy: str, runs: Sequence[Figures], ours: Sequence[Figures]) -> tuple[list[str], list[Difference]]:
    """Cells of the table, and our first and last tokens less this policy's; none for ourselves."""
    less = []
    if runs is not ours:
        less.append(difference([one.first_token for one in ours], [one.first_token for one in runs]))
        less.append(difference([one.whole for one in ours], [one.whole for one in runs]))
    first = fmean(fmean(one.first_token.values()) for one in runs)
    whole = fmean(fmean(one.whole.values()) for one in runs)
    share = fmean(one.split / len(one.whole) for one in runs)
    gap = fmean(one.inter_token_p99_seconds for one in runs)
    cells = [policy, f"{share:.0%}", f"{fmean(one.hit_ratio for one in runs):.0%}", f"{first:.3f} s"]
    cells += [f"{1000 * gap:.0f} ms", f"{whole:.2f} s"]
    cells += [f"{one.mean:+.3f} s [{one.low:+.3f}, {one.high:+.3f}] {one.verdict}" for one in less] or ["", ""]
    return cells, less


def page(results: Mapping[tuple[Cell, str], Sequence[Figures]], about: Mapping[str, object]) -> str:
    lines = ["# When to split prefill from decode", ""]
    lines += [f"{about['machine']}, commit {about['commit']}: `{about['command']}`", "", (__doc__ or "").strip(), ""]
    verdicts: dict[str, dict[str, int]] = {"first": {}, "last": {}}
    headings = ("policy", "split", "hit", "TTFT mean", "inter-token p99", "to the last token")
    headings += (f"first token, {OURS} less it", "last token")
    for cell in dict.fromkeys(cell for cell, _ in results):
        lines += [f"## {cell.roles}, {cell.shape} prompts, {cell.rate_per_second:g}/s", ""]
        lines += ["| " + " | ".join(headings) + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
        for policy in (OURS, *RIVALS):
            cells, less = row(policy, results[cell, policy], results[cell, OURS])
            lines.append("| " + " | ".join(cells) + " |")
            for name, one in zip(verdicts, less, strict=False):
                verdicts[name][one.verdict] = verdicts[name].get(one.verdict, 0) + 1
        lines.append("")
    for name, counts in verdicts.items():
        told = ", ".join(f"{verdict} in {count}" for verdict, count in sorted(counts.items()))
        lines += [f"Time to the {name} token, {OURS} against each rule in each cell: {told}.", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.pools", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fleet", choices=sorted(ROLES), action="append", help="only this one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args(arguments)
    cells = [
        Cell(roles, shape, rate)
        for (roles, shape), rates in RATES.items()
        if not given.fleet or roles in given.fleet
        for rate in rates
    ]
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    jobs = [(cell, policy, seed) for cell in cells for policy in (OURS, *RIVALS) for seed in seeds]
    results: dict[tuple[Cell, str], list[Figures]] = {}
    with ProcessPoolExecutor(given.processes) as pool:
        running = [pool.submit(run, cell, policy, seed, given.requests) for cell, policy, seed in jobs]
        told = track(zip(jobs, running, strict=True), "runs", len(jobs), console=Console(stderr=True), transient=True)
        for (cell, policy, _), one in told:
            results.setdefault((cell, policy), []).append(one.result())
    given.out.mkdir(parents=True, exist_ok=True)
    text = page(results, machine())
    (given.out / "pools.md").write_text(text)
    figures = [
        {
            "fleet": cell.roles,
            "workload": cell.shape,
            "rate_per_second": cell.rate_per_second,
            "policy": policy,
            "ttft_mean_seconds": [fmean(one.first_token.values()) for one in runs],
            "inter_token_p99_seconds": [one.inter_token_p99_seconds for one in runs],
            "last_token_mean_seconds": [fmean(one.whole.values()) for one in runs],
            "split_ratio": [one.split / len(one.whole) for one in runs],
        }
        for (cell, policy), runs in results.items()
    ]
    (given.out / "pools.json").write_text(
        json.dumps(machine() | {"seeds": list(seeds), "runs": figures}, indent=1) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
