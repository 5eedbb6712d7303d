"""The lab's work, one stage after another, over several processes: what is sustained, what is tuned, what is played."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.cells import Cell
from loadtest.notebook import Record, book
from loadtest.tuning import Player, players, trial
from router.lab.capacity import LOW_LOAD, Sustained, bound, sustained
from router.lab.run import Run
from router.lab.workloads import Half

GUESSED_WITHIN = 0.1  # how well the load is known at which settings are tried

Name = TypeVar("Name")
Found = TypeVar("Found")
Call = tuple[Any, ...]  # Any: a function that a process can be sent, and its arguments


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs are kept, how long they are, how well sustainable loads are to be known."""

    notebook: Path
    requests: int
    within: float
    capacity_seeds: int = 1


class Crew:
    """Processes that play, and a bar for each stage."""

    def __init__(self, pool: ProcessPoolExecutor, progress: Progress) -> None:
        self._pool = pool
        self._progress = progress

    def all(self, stage: str, asked: Mapping[Name, Call]) -> dict[Name, Found]:
        """The answers by name, in the order they were asked."""
        futures = {self._pool.submit(call[0], *call[1:]): name for name, call in asked.items()}
        bar = self._progress.add_task(stage, total=len(futures))
        left = set(futures)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()  # what went wrong is told at once, not when all the others are done
            self._progress.advance(bar, len(done))
        return {name: future.result() for future, name in futures.items()}


@contextmanager
def crew(jobs: int) -> Iterator[Crew]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Spawned: a fork would copy the locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_collect_seldom)
    with Progress(*columns, console=Console(stderr=True)) as progress, pool:
        yield Crew(pool, progress)


def _collect_seldom() -> None:
    """What a run makes lives as long as it does: looking for garbage all the while cost a tenth of the time."""
    gc.set_threshold(200_000, 10, 10)


# Stages


def guesses(crew: Crew, bench: Bench, chosen: Sequence[Cell], policy: str) -> dict[Cell, Sustained]:
    """What one policy sustains on the first halves: where to try settings, and where to look on the second halves."""
    return crew.all("a guess at sustainable loads", {cell: (_guess, bench, cell, policy) for cell in chosen})


def tuned(
    crew: Crew, bench: Bench, guessed: Mapping[Cell, Sustained], policies: Sequence[Player], folder: Path
) -> tuple[dict[tuple[Cell, str], Player], dict[tuple[Cell, Player], float]]:
    """The best setting of each policy in each cell, by the name it shows; and the p90 of each that was tried."""
    asked = {
        (cell, player): (p90, bench, [trial(cell, player, found.load, bench.requests // 2)])
        for cell, found in guessed.items()
        for first in policies
        for player in players(first, folder)
    }
    choices: dict[tuple[Cell, str], list[Player]] = {}
    for cell, player in asked:
        choices.setdefault((cell, player.name), []).append(player)
    alone = {(cell, group[0]) for (cell, _), group in choices.items() if len(group) == 1}
    tried: dict[tuple[Cell, Player], float] = crew.all(
        "settings", {place: call for place, call in asked.items() if place not in alone}
    )
    best = {
        (cell, name): min(group, key=lambda player: tried.get((cell, player), 0.0))
        for (cell, name), group in choices.items()
    }
    return best, tried


def bounds(crew: Crew, bench: Bench, playing: Mapping[tuple[Cell, str], Player]) -> dict[Cell, float]:
    """Seconds that a TTFT p90 may be in each cell, for all policies alike."""
    asked = {
        (cell, name): (p90, bench, [cell.run(player.policy, LOW_LOAD * cell.full, bench.requests, 1)])
        for (cell, name), player in playing.items()
    }
    low = crew.all("a fifth of full load", asked)
    return {cell: bound(found for (other, _), found in low.items() if other == cell) for cell, _ in playing}


def capacities(
    crew: Crew,
    bench: Bench,
    stage: str,
    asked: Mapping[tuple[Cell, str], tuple[Player, float, float]],
) -> dict[tuple[Cell, str], Sustained]:
    """Player, bound in seconds and a guess for each cell and policy."""
    calls = {place: (_capacity, bench, place[0], *rest) for place, rest in asked.items()}
    return crew.all(stage, calls)


def records(crew: Crew, bench: Bench, runs: Iterable[Run], oracles: Iterable[Run]) -> dict[Run, Record]:
    """Whole records; the oracle's stand under the run in whose place it played, its policy replaced."""
    asked: dict[Run, Call] = {run: (_whole, bench.notebook, run) for run in runs}
    asked |= {run: (_ideal, bench.notebook, run) for run in oracles}
    return crew.all("runs", asked)


# What a process is asked


def p90(bench: Bench, runs: Sequence[Run]) -> float:
    """Seconds to the first token, the median over the runs."""
    notebook = book(bench.notebook)
    return median(float(notebook.figures(run)["ttft_p90_seconds"]) for run in runs)


def _p90_at(bench: Bench, cell: Cell, policy: str, half: Half) -> Callable[[float], float]:
    def at(amount: float) -> float:
        seeds = range(1, bench.capacity_seeds + 1)
        return p90(bench, [cell.run(policy, amount, bench.requests, seed, half) for seed in seeds])

    return at


def _guess(bench: Bench, cell: Cell, policy: str) -> Sustained:
    p90_at = _p90_at(bench, cell, policy, Half.FIRST)
    return sustained(p90_at, cell.full, bound([p90_at(LOW_LOAD * cell.full)]), max(GUESSED_WITHIN, bench.within))


def _capacity(bench: Bench, cell: Cell, player: Player, bound_seconds: float, near: float) -> Sustained:
    p90_at = _p90_at(bench, cell, player.policy, Half.SECOND)
    return sustained(p90_at, cell.full, bound_seconds, bench.within, near)


def _whole(notebook: Path, run: Run) -> Record:
    return book(notebook).whole(run)


def _ideal(notebook: Path, run: Run) -> Record:
    return book(notebook).ideal(run)
