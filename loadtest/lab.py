"""`python -m loadtest.lab`, or `make lab`: policies against each other on real traces, in virtual time.

For each cell (a workload on a fleet) and policy: the rate it can sustain (router/lab/capacity.py); then every policy at
the same shares of what the best rival sustains, several seeds each; then the paired difference of ours and each rival
(router/lab/pairs.py) and an oracle (router/lab/oracle.py). Step times vary by 15 % and policies begin with a rate that
is about half the true one, so nobody's price formula is exact.

Every run is kept in `--runs` as soon as it is played, under a digest of the code, the policy and the run: a lab that
was stopped goes on where it was, and changed code begins anew. Results go to `--results`: lab.json and lab.md.

The load of a cell with sessions is sessions at a time: a rate would not bind, since sessions ask no faster than they
are answered. Every session runs to its end, so a run of many sessions has more than `--requests`.

A trace's seeds are stretches of it one after another; where a trace is too short for that they overlap, and seeds
differ by noise and ties alone (the Mooncake synthetic part has 2,254 requests).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.lab_report import write
from loadtest.machine import ROOT, machine
from router.lab.capacity import LOW_LOAD, Sustained, bound, full_load, sustained
from router.lab.chats import ChatShape
from router.lab.oracle import ideal
from router.lab.run import Fleet, Run, play
from router.lab.sessions import Script, Sessions, Turn
from router.lab.workloads import PRESETS, Load, WorkloadAt, workload
from router.sim.report import percentile
from router.sim.timing import TIMINGS

OURS = "cache_aware"
NOISE = 0.15
TRACE_FLEET = Fleet(8, 1_000_000, 512, "llama3_70b_h100", noise_ratio=NOISE)
# A workload's name or a trace's file, and the fleet. The agents' is a small one, as its load is whole sessions: at what
# it sustains there are some fifty of them, and a run has some three thousand requests.
CELLS = {
    "conversation": ("mooncake_conversation_a.jsonl.zst", TRACE_FLEET),
    "synthetic": ("mooncake_synthetic_a.jsonl.zst", TRACE_FLEET),
    "agents": ("agents-long", Fleet(4, 307_328, 128, "qwen3_32b_h100", noise_ratio=NOISE)),
    "b2b-73": ("b2b-73", Fleet(8, 307_328, 64, "qwen3_32b_h100", noise_ratio=NOISE)),
}
SHARES = (0.60, 0.80, 0.95, 1.10)  # of the best rival's sustainable rate
MOST_POLICIES = 8

Record = dict[str, Any]  # Any: a run's figures as they stand in the file, names and numbers


@dataclass(frozen=True, slots=True)
class Cell:
    name: str
    workload: str
    fleet: Fleet
    by_sessions: bool  # the load is sessions at a time, else requests a second

    def load(self, amount: float, requests: int, seed: int) -> Load:
        if self.by_sessions:
            return Load(requests, 0.0, max(1, round(amount)), seed)
        return Load(requests, round(amount, 4), None, seed)


def cells(names: Sequence[str], traces: Path) -> Iterator[Cell]:
    """Those whose trace is there; a missing one is told on stderr."""
    for name in names:
        source, fleet = CELLS[name]
        if source in PRESETS:
            yield Cell(name, source, fleet, by_sessions=isinstance(PRESETS[source].shape, ChatShape))
        elif (traces / source).exists():
            yield Cell(name, str(traces / source), fleet, by_sessions=False)
        else:
            Console(stderr=True).print(f"{name}: no {traces / source}; left out. --traces says where traces are.")


def rivals() -> list[str]:
    """The shelf's rivals by name, and bounded-load consistent hashing, which is on our own shelf."""
    return [*sorted(path.stem for path in (ROOT / "policies" / "rivals").glob("*.yaml")), "consistent_hash"]


class Notebook:
    """The runs that were played, in a file that several processes append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._code = _digest(sorted((ROOT / "router").rglob("*.py")))
        self._known: dict[str, Record] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                if line.endswith("}"):  # else it was cut off while it was written
                    record = json.loads(line)
                    self._known[record["key"]] = record

    def played(self, run: Run) -> Record:
        """The record of a run, from the file or played now."""
        key = self._key(run)
        if key not in self._known:
            self._known[key] = self._play(run, key)
        return self._known[key]

    def ideal(self, run: Run) -> Record:
        """The record of the oracle in this run's place."""
        run = replace(run, policy="oracle")
        key = self._key(run)
        if key not in self._known:
            one = ideal(_at(run.workload)(run.load), TIMINGS[run.fleet.timing], run.fleet.replicas, 64)
            ttft = list(one.ttft_seconds.values())
            outcome = {"policy": "oracle", "hit_ratio": one.hit_ratio, "ttft_mean_seconds": sum(ttft) / len(ttft)}
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
                outcome[f"ttft_{name}_seconds"] = percentile(ttft, share) or 0.0
            self._known[key] = self._keep({"key": key, "outcome": outcome})
        return self._known[key]

    def _play(self, run: Run, key: str) -> Record:
        one = play(run, _at(run.workload))
        ttft = {
            name: round((story.first_token_seconds or 0.0) - story.arrival_seconds, 4)
            for name, story in one.stories.items()
            if story.finished
        }
        return self._keep({"key": key, "outcome": asdict(one.outcome), "ttft": ttft})

    def _keep(self, record: Record) -> Record:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")  # one write: processes share the file
        return record

    def _key(self, run: Run) -> str:
        texts = sorted((ROOT / "policies").rglob(f"{run.policy}.yaml"))
        name = replace(run, workload=Path(run.workload).name)
        return f"{name!r} {self._code} {_digest(texts)}"


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _book(path: Path) -> Notebook:
    """Read once a process, with what it plays itself; what others play meanwhile is theirs alone to need."""
    return Notebook(path)


@functools.cache
def _at(name: str) -> WorkloadAt:
    """Traces are read once a process."""
    return workload(name)


def p90(notebook: Path, cell: Cell, policy: str, amount: float, requests: int) -> float:
    run = Run(policy, cell.workload, cell.fleet, cell.load(amount, requests, 1))
    return float(_book(notebook).played(run)["outcome"]["ttft_p90_seconds"])


def at_low_load(notebook: Path, cell: Cell, policy: str, requests: int) -> float:
    return p90(notebook, cell, policy, LOW_LOAD * _full(cell, requests), requests)


def capacity(notebook: Path, cell: Cell, policy: str, bound_seconds: float, within: float, requests: int) -> Sustained:
    def p90_at(amount: float) -> float:
        return p90(notebook, cell, policy, amount, requests)

    return sustained(p90_at, _full(cell, requests), bound_seconds, within)


def _full(cell: Cell, requests: int) -> float:
    """The load at which computing every prompt anew keeps all replicas busy."""
    timing = TIMINGS[cell.fleet.timing]
    shapes = _at(cell.workload)(Load(requests, 1.0, None, 1))
    if not isinstance(shapes, Sessions):
        return full_load(((len(one.prompt), len(one.answer)) for one in shapes.begin()), timing, cell.fleet.replicas)
    turns = [turn for script in shapes.scripts for turn in _turns(script)]
    sizes = [(sum(span.tokens for span in turn.prompt), turn.answer.tokens) for turn in turns]
    token_seconds = timing.step_seconds((), 1, 0)
    turn_seconds = sum(turn.think_seconds + turn.answer.tokens * token_seconds for turn in turns) / len(turns)
    return full_load(sizes, timing, cell.fleet.replicas) * turn_seconds  # Little's law, less the waiting


def _turns(script: Script) -> Iterator[Turn]:
    for turn in script.turns:
        yield turn
        for child in turn.spawns:
            yield from _turns(child)


def played(notebook: Path, run: Run) -> Record:
    return _book(notebook).played(run)


def oracle(notebook: Path, run: Run) -> Record:
    return _book(notebook).ideal(run)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.lab", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cell", action="append", choices=CELLS, help="[default: all]")
    parser.add_argument(
        "--policy", action="append", help=f"[default: {OURS} and the rivals of the shelf, {MOST_POLICIES} in all]"
    )
    parser.add_argument("--requests", type=int, default=2_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--share", action="append", type=float, help="of the best rival's rate [default: 0.6 0.8 0.95 1.1]"
    )
    parser.add_argument("--within", type=float, default=0.05, help="how well sustainable loads are to be known")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--traces", type=Path, default=ROOT / "traces", metavar="DIR")
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "lab" / "runs.jsonl", metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "loadtest" / "results", metavar="DIR")
    given = parser.parse_args(arguments)
    policies = given.policy or [OURS, *rivals()][:MOST_POLICIES]
    chosen = list(cells(given.cell or list(CELLS), given.traces))
    shares = tuple(given.share or SHARES)
    began = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Spawned: a fork would copy the locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=Console(stderr=True)) as progress, ProcessPoolExecutor(given.jobs, context) as pool:
        places = [(cell, policy) for cell in chosen for policy in policies]
        lows = {pool.submit(at_low_load, given.runs, *place, given.requests): place for place in places}
        low = {lows[one]: one.result() for one in _done(lows, progress, "a fifth of full load")}
        bounds = {cell: bound(low[cell, policy] for policy in policies) for cell in chosen}
        asked = {
            pool.submit(capacity, given.runs, cell, policy, bounds[cell], given.within, given.requests): (cell, policy)
            for cell, policy in places
        }
        sustains = {asked[one]: one.result() for one in _done(asked, progress, "sustainable loads")}
        runs = list(_grid(chosen, policies, sustains, shares, given.requests, given.seeds))
        tasks = {pool.submit(played, given.runs, run): run for _, _, run in runs}
        for _, _, run in runs:
            if run.policy == policies[0]:
                tasks[pool.submit(oracle, given.runs, run)] = replace(run, policy="oracle")
        records = {tasks[one]: one.result() for one in _done(tasks, progress, "runs")}
    found = {(cell.name, share, run.policy, run.load.seed): records[run] for cell, share, run in runs}
    found |= {
        (cell.name, share, "oracle", run.load.seed): records[replace(run, policy="oracle")]
        for cell, share, run in runs
        if run.policy == policies[0]
    }
    about: Record = {
        **machine(),
        "wall_seconds": round(time.monotonic() - began, 1),
        "requests": given.requests,
        "seeds": given.seeds,
        "shares": list(shares),
        "within": given.within,
    }
    rates = {(cell.name, policy): sustains[cell, policy] for cell, policy in places}
    units = {cell.name: "sessions at a time" if cell.by_sessions else "requests/s" for cell in chosen}
    write(given.results, about, units, policies, rates, found)
    Console().print(f"{given.results / 'lab.md'}")


def _grid(
    chosen: Sequence[Cell],
    policies: Sequence[str],
    sustains: dict[tuple[Cell, str], Sustained],
    shares: Sequence[float],
    requests: int,
    seeds: int,
) -> Iterator[tuple[Cell, float, Run]]:
    for cell in chosen:
        best = max(sustains[cell, policy].load for policy in policies[1:] or policies)
        for share in shares:
            for policy in policies:
                for seed in range(1, seeds + 1):
                    yield cell, share, Run(policy, cell.workload, cell.fleet, cell.load(best * share, requests, seed))


def _done(asked: Iterable[Future[Any]], progress: Progress, name: str) -> Iterator[Future[Any]]:  # Any: of two kinds
    left = set(asked)
    bar = progress.add_task(name, total=len(left))
    while left:
        done, left = wait(left, return_when=FIRST_COMPLETED)
        for one in done:
            progress.advance(bar)
            yield one


if __name__ == "__main__":
    main()
