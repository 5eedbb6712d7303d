"""`python -m loadtest.lab`, or `make lab`: policies against each other on real traces, in virtual time.

For each cell (a workload on a fleet, cells.py): each policy's best settings, found on the first half of the workload
(tuning.py); then, on the second half, the load each can sustain (router/lab/capacity.py), every policy at the same
shares of what the best rival sustains, several seeds each, the paired difference of ours and each rival
(router/lab/pairs.py), and an oracle (router/lab/oracle.py). Then what is left of sustainable loads under hardships.
Engines' steps are rough (router/sim/rough.py) and routers begin with a rate that is half the true one, so nobody's
price formula is exact.

`--ablation` plays ours beside itself without one term at a time (loadtest/ablation/*.yaml) instead of rivals.

Every run is kept as soon as it is played (notebook.py): a lab that was stopped goes on where it was. Results go to
`--results`: summary.md, results.json, pictures.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from loadtest.cells import CELLS, HARDSHIPS, Cell, cells
from loadtest.lab_report import Found, Place, write
from loadtest.machine import ROOT, machine
from loadtest.notebook import ORACLE, Record
from loadtest.stages import Bench, Crew, bounds, capacities, crew, guesses, records, tuned
from loadtest.tuning import Player, as_it_stands
from router.errors import ConfigError
from router.lab.capacity import Sustained
from router.lab.run import Run
from router.policy.load import load

OURS = "cache_aware"
# The published rules that are deployed most, and bounded-load hashing, which every load balancer has.
RIVALS = ("consistent_hash", "dynamo", "llmd_affinity", "llmd_blend", "lmetric", "mooncake", "smg_cache_aware")
SHARES = (0.60, 0.80, 0.95, 1.10)  # of the best rival's sustainable load
TESTED_HARDEST = 3  # rivals beside ours under hardships, unless all are asked for
OUT = ROOT / "out" / "lab"


@dataclass(frozen=True, slots=True)
class Study:
    """What is played: ours first. `everywhere`: hardships in every cell and for all, else in the first for the best."""

    title: str
    policies: tuple[str, ...]
    shares: tuple[float, ...]
    seeds: int
    tune: bool
    hardships: tuple[str, ...]
    everywhere: bool


def shelf_rivals() -> list[str]:
    """All rivals of the shelf, and bounded-load consistent hashing, which is on our own shelf."""
    return [*sorted(path.stem for path in (ROOT / "policies" / "rivals").glob("*.yaml")), "consistent_hash"]


def play(study: Study, chosen: Sequence[Cell], bench: Bench, crew: Crew, folder: Path) -> Found:
    plain = [as_it_stands(name, folder) for name in study.policies]
    names = [player.name for player in plain]
    guessed = guesses(crew, bench, chosen, plain[0].policy)
    if study.tune:
        playing, tried = tuned(crew, bench, guessed, plain, folder)
    else:
        tried = {}
        playing = {(cell, player.name): player for cell in chosen for player in plain}
    within = bounds(crew, bench, playing)
    asked = {place: (player, within[place[0]], guessed[place[0]].load) for place, player in playing.items()}
    rates = capacities(crew, bench, "sustainable loads", asked)
    runs = dict(_grid(study, chosen, playing, rates, bench.requests))
    ideals = {place: replace(run, policy=ORACLE) for place, run in runs.items() if place[2] == names[0]}
    found = records(crew, bench, runs.values(), ideals.values())
    at: dict[Place, Record] = {place: found[run] for place, run in runs.items()}
    at |= {(cell, share, ORACLE, seed): found[run] for (cell, share, _, seed), run in ideals.items()}
    hard = _under_hardships(study, chosen, bench, crew, playing, rates)
    return Found(
        cells={cell.name: cell.unit for cell in chosen},
        policies=names,
        settings={(cell.name, name): player.settings for (cell, name), player in playing.items()},
        tried={(cell.name, player.name, player.settings): p90 for (cell, player), p90 in tried.items()},
        rates={(cell.name, name): one for (cell, name), one in rates.items()},
        hard={(cell.name, cell.hardship or "", name): one for (cell, name), one in hard.items()},
        runs=at,
    )


def _grid(
    study: Study,
    chosen: Sequence[Cell],
    playing: Mapping[tuple[Cell, str], Player],
    rates: Mapping[tuple[Cell, str], Sustained],
    requests: int,
) -> Iterator[tuple[Place, Run]]:
    for cell in chosen:
        best = _best(cell, rates)
        for share in study.shares:
            for (where, name), player in playing.items():
                if where == cell:
                    for seed in range(1, study.seeds + 1):
                        yield (cell.name, share, name, seed), cell.run(player.policy, best * share, requests, seed)


def _best(cell: Cell, rates: Mapping[tuple[Cell, str], Sustained]) -> float:
    """Of the rivals; of ours where there are none."""
    own = [found.load for (where, _), found in rates.items() if where == cell]
    return max(own[1:] or own)


def _under_hardships(
    study: Study,
    chosen: Sequence[Cell],
    bench: Bench,
    crew: Crew,
    playing: Mapping[tuple[Cell, str], Player],
    rates: Mapping[tuple[Cell, str], Sustained],
) -> dict[tuple[Cell, str], Sustained]:
    asked = {}
    for cell in chosen if study.everywhere else chosen[:1]:
        ranked = sorted((name for where, name in rates if where == cell), key=lambda name: -rates[cell, name].load)
        ours = Path(study.policies[0]).stem
        others = [name for name in ranked if name != ours]
        for hardship in study.hardships:
            for name in [ours, *(others if study.everywhere else others[:TESTED_HARDEST])]:
                plain = rates[cell, name]
                asked[cell.under(hardship), name] = (playing[cell, name], plain.bound_seconds, plain.load)
    return capacities(crew, bench, "hardships", asked)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.lab", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all rivals, hardships everywhere, loads by 3 seeds: hours")
    parser.add_argument("--ablation", action="store_true", help="ours without one term at a time, instead of rivals")
    parser.add_argument("--cell", action="append", choices=CELLS, help="[default: all]")
    parser.add_argument(
        "--policy", action="append", metavar="NAME|FILE", help=f"ours first [default: {OURS}, {', '.join(RIVALS)}]"
    )
    parser.add_argument("--requests", type=int, default=2_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--share", action="append", type=float, help="of the best rival's load [default: 0.6 0.8 0.95 1.1]"
    )
    parser.add_argument("--within", type=float, default=0.05, help="how well sustainable loads are to be known")
    parser.add_argument("--untuned", action="store_true", help="every policy as it ships")
    parser.add_argument("--hardship", action="append", choices=[*HARDSHIPS, "none"], help="[default: all]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--traces", type=Path, default=ROOT / "traces", metavar="DIR")
    parser.add_argument("--runs", type=Path, default=OUT / "runs.jsonl", metavar="FILE")
    parser.add_argument("--results", type=Path, metavar="DIR", help="[default: loadtest/results, or a folder in it]")
    given = parser.parse_args(arguments)
    study = _study(given)
    try:
        for policy in study.policies:
            load(policy)
    except ConfigError as fault:
        parser.error(fault.message)
    results = given.results or ROOT / "loadtest" / "results" / ("" if study.title == "The policy lab" else study.title)
    chosen = list(cells(given.cell or list(CELLS), given.traces))
    bench = Bench(given.runs, given.requests, given.within, capacity_seeds=3 if given.full else 1)
    began = time.monotonic()
    with crew(given.jobs) as workers:
        found = play(study, chosen, bench, workers, given.runs.parent / "settings")
    about: Record = {
        **machine(),
        "title": study.title,
        "wall_seconds": round(time.monotonic() - began, 1),
        "requests": given.requests,
        "seeds": study.seeds,
        "shares": list(study.shares),
        "within": given.within,
    }
    write(results, about, found)
    Console().print(f"{results / 'summary.md'}")


def _study(given: argparse.Namespace) -> Study:
    policies = given.policy or [OURS, *(shelf_rivals() if given.full else RIVALS)]
    title = "full" if given.full else "The policy lab"
    if given.ablation:
        policies = [OURS, *sorted(str(path) for path in (ROOT / "loadtest" / "ablation").glob("*.yaml"))]
        title = "ablation"
    hardships = tuple(given.hardship or (() if given.ablation else HARDSHIPS))
    return Study(
        title,
        tuple(policies),
        tuple(given.share or SHARES),
        given.seeds,
        tune=not (given.untuned or given.ablation),
        hardships=() if "none" in hardships else hardships,
        everywhere=given.full,
    )


if __name__ == "__main__":
    main()
