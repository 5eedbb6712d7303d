"""One router, and several that share their load or do not, in virtual time: `python -m loadtest.several`.

Every arm plays the same requests at the same moments on the same fleet, at a share of what a single router sustains
with the policy (loadtest/results/summary.md). Routers that share tell each other what the live ones tell through Redis,
a message every 25 ms that takes `--delay`. Writes `--results`/routers.md. `loadtest/routers.py` does the same with real
processes and a real Redis.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from loadtest.cells import CELLS, cells
from loadtest.machine import ROOT, machine
from router.lab.many import play_all
from router.lab.over_time import unevenness
from router.lab.run import Played, Run
from router.lab.workloads import Half, Load

POLICY = "cache_aware"
# Of loadtest/results/summary.md; the agents' load is sessions, which wait for their answers and so hide a loss.
SUSTAINED: Mapping[str, float] = {"conversation": 8.0, "synthetic": 8.6, "b2b-73": 34.0}
ARMS = ((1, False), (2, True), (2, False), (4, True), (4, False))  # routers, and whether they share


@dataclass(frozen=True, slots=True)
class Arm:
    """The mean over seeds."""

    routers: int
    shared: bool
    hit_ratio: float
    unevenness: float
    ttft_mean_seconds: float
    ttft_p90_seconds: float
    bytes_per_second: float  # told by each router
    unanswered: int  # of all seeds


def arm(routers: int, shared: bool, played: Sequence[Played], replicas: int) -> Arm:
    def told(one: Played) -> float:
        return one.shared_bytes / routers / max(story.last_token_seconds for story in one.stories.values())

    return Arm(
        routers,
        shared,
        fmean(one.outcome.hit_ratio for one in played),
        fmean(unevenness(list(one.stories.values()), replicas) for one in played),
        fmean(one.outcome.ttft_mean_seconds for one in played),
        fmean(one.outcome.ttft_p90_seconds for one in played),
        fmean(map(told, played)),
        sum(one.outcome.requests - one.outcome.answered for one in played),
    )


def table(arms: Sequence[Arm]) -> list[str]:
    """Differences are to the first, a single router."""
    one = arms[0]
    lines = [
        "| routers | hit ratio | points | max/mean in flight | more | TTFT mean | p90 | told by each | unanswered |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in arms:
        name = "1" if each.routers == 1 else f"{each.routers}, {'shared' if each.shared else 'apart'}"
        lines.append(
            f"| {name} | {each.hit_ratio:.1%} | {100 * (each.hit_ratio - one.hit_ratio):+.1f} | "
            f"{each.unevenness:.3f} | {each.unevenness - one.unevenness:+.3f} | "
            f"{each.ttft_mean_seconds:.2f} s | {each.ttft_p90_seconds:.2f} s | "
            f"{each.bytes_per_second / 1000:.1f} KB/s | {each.unanswered} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.several", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cell", action="append", choices=SUSTAINED, help="[default: all]")
    parser.add_argument("--policy", default=POLICY, metavar="NAME|FILE")
    parser.add_argument("--share", type=float, default=0.8, help="of what a single router sustains")
    parser.add_argument("--delay", type=float, default=0.002, help="seconds a message takes")
    parser.add_argument("--requests", type=int, default=2_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--traces", type=Path, default=ROOT / "traces", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "loadtest" / "results", metavar="DIR")
    given = parser.parse_args(arguments)
    about = machine()
    lines = [
        "# Several routers over one fleet, in virtual time",
        "",
        f"`python -m loadtest.several --policy {given.policy} --share {given.share:g} --delay {given.delay:g} "
        f"--requests {given.requests} --seeds {given.seeds}`; commit {about.get('commit', 'unknown')}.",
        "",
        f"At {given.share:.0%} of the load that a single router sustains with cache_aware (summary.md), the mean of "
        f"{given.seeds} seeds. *Shared*: through a Redis that takes {1000 * given.delay:g} ms; *apart*: routers "
        "hear all events and know only their own requests. *Points* and *more* are against the single router. *In "
        "flight*: prompt tokens of requests sent and not yet answered, the fullest replica over the mean, over time.",
    ]
    for cell in cells(given.cell or list(SUSTAINED), given.traces):
        rate = round(given.share * SUSTAINED[cell.name], 4)
        fleet = replace(CELLS[cell.name][1], share_delay_seconds=given.delay)
        runs = [
            Run(
                given.policy,
                cell.workload,
                replace(fleet, routers=routers, shared=shared),
                Load(given.requests, rate, None, seed, Half.SECOND),
            )
            for routers, shared in ARMS
            for seed in range(1, given.seeds + 1)
        ]
        played = play_all(runs, given.jobs)
        at = range(0, len(played), given.seeds)
        arms = [arm(*ARMS[n], played[i : i + given.seeds], fleet.replicas) for n, i in enumerate(at)]
        lines += ["", f"## {cell.name}, {rate:g} requests/s on {fleet.replicas} replicas", "", *table(arms)]
        print("\n".join(lines[-len(arms) - 4 :]), flush=True)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "routers.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
