"""The lab's pictures: first tokens as a distribution, hits and load over time, sustainable loads as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.lab.chart import Axis, Line, bars, lines
from router.lab.over_time import OverTime

QUANTILES = 200  # points of a distribution
SHORTEST_SECONDS = 0.02


def first_tokens(title: str, ttft_seconds: Mapping[str, Sequence[float]]) -> str:
    """By name, the seconds of all requests. Longer than the 99.5th percentile of the slowest is off the picture."""
    drawn = []
    for name, seconds in ttft_seconds.items():
        ranked = sorted(seconds)
        last = len(ranked) - 1
        shares = [number / QUANTILES for number in range(QUANTILES + 1)]
        drawn.append(Line(name, [(ranked[round(share * last)], share) for share in shares], dashed=name == "oracle"))
    ends = [line.points[round(0.995 * QUANTILES)][0] for line in drawn]
    starts = [line.points[round(0.02 * QUANTILES)][0] for line in drawn]
    low = max(SHORTEST_SECONDS, min(starts))
    x = Axis("seconds to the first token", low, max(2 * low, *ends), logarithmic=True)
    return lines(title, x, Axis("share of requests", 0.0, 1.0, percent=True), drawn)


def hits_over_time(title: str, runs: Mapping[str, OverTime]) -> str:
    drawn = [Line(name, list(_points(run, run.hit_ratio))) for name, run in runs.items()]
    return lines(title, _time(runs), Axis("hit ratio", 0.0, 1.0, percent=True), drawn)


def load_over_time(title: str, runs: Mapping[str, OverTime]) -> str:
    """The busiest replica of each."""
    drawn = [Line(name, list(_points(run, run.open_most))) for name, run in runs.items()]
    most = max(max(run.open_most) for run in runs.values())
    return lines(title, _time(runs), Axis("open requests, busiest replica", 0.0, max(1.0, 1.05 * most)), drawn)


def sustainable(title: str, unit: str, loads: Mapping[str, float]) -> str:
    return bars(title, Axis(unit, 0.0, max(loads.values())), list(loads.items()))


def _time(runs: Mapping[str, OverTime]) -> Axis:
    return Axis("seconds", 0.0, max(len(run.open_most) * run.stretch_seconds for run in runs.values()))


def _points(run: OverTime, values: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return [((number + 0.5) * run.stretch_seconds, value) for number, value in enumerate(values)]
