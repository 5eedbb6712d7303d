"""What `loadtest.agreement` found, as a page and as plain values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from loadtest.ranking import Accord, Pair, World, order, pairs
from loadtest.scenario import Scenario
from router.lab.pairs import Difference
from router.sim.report import percentile


@dataclass(frozen=True, slots=True)
class Heard:
    """What one policy came to in one run. Mappings are by request, in order of arrival, and hold those answered."""

    ttft_seconds: Mapping[str, float]
    computed_tokens: Mapping[str, float]  # prompt tokens not found in a cache
    prompt_tokens: int
    errors: int
    exact_ratio: float  # of the requests whose prediction Homing could judge, those whose hits it foretold to the token
    late_p99_seconds: float  # of the driver's own sending: large means the machine was too busy to measure

    @property
    def hit_ratio(self) -> float:
        return 1.0 - sum(self.computed_tokens.values()) / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a request by which policies are ranked; less is better."""

    name: str
    unit: str
    of: Callable[[Heard], Mapping[str, float]]
    decimals: int


FIGURES = (
    Figure("time to first token", "s", lambda heard: heard.ttft_seconds, 3),
    Figure("tokens computed", "tokens a request", lambda heard: heard.computed_tokens, 0),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The same scenario in both worlds: runs by policy, which differ by chance alone (how ties fall)."""

    scenario: Scenario
    virtual: Mapping[str, Sequence[Heard]]
    http: Mapping[str, Sequence[Heard]]

    def worlds(self, figure: Figure) -> tuple[World, World]:
        return (
            {policy: [figure.of(heard) for heard in runs] for policy, runs in self.virtual.items()},
            {policy: [figure.of(heard) for heard in runs] for policy, runs in self.http.items()},
        )

    def pairs(self, figure: Figure) -> list[Pair]:
        return list(pairs(*self.worlds(figure)))

    @property
    def opposite(self) -> list[Pair]:
        return [pair for figure in FIGURES for pair in self.pairs(figure) if pair.accord is Accord.OPPOSITE]


def write(found: Agreement, about: Mapping[str, str | int], folder: Path) -> str:
    """agreement.json and agreement.md in `folder`; the page's text."""
    folder.mkdir(parents=True, exist_ok=True)
    page = "\n".join(_page(found, about)) + "\n"
    (folder / "agreement.md").write_text(page)
    (folder / "agreement.json").write_text(json.dumps(_values(found, about), indent=1) + "\n")
    return page


def _page(found: Agreement, about: Mapping[str, str | int]) -> Iterator[str]:
    scenario = found.scenario
    yield "# Do the virtual fleet and a run over HTTP rank policies alike?"
    yield ""
    yield from (f"- {name}: {value}" for name, value in about.items())
    yield (
        f"- scenario: {scenario.requests} requests of {scenario.prompt_tokens:,} tokens at "
        f"{scenario.rate_per_second:g}/s, {scenario.groups} groups of {scenario.prompts_per_group} prompts that share "
        f"their first {scenario.system_blocks / (scenario.system_blocks + scenario.question_blocks):.0%}, "
        f"{scenario.answer_tokens} tokens out; {scenario.replicas} replicas, {scenario.cache_tokens:,} tokens of KV "
        f"cache each, {scenario.timing}; seed {scenario.seed}"
    )
    yield ""
    yield (
        "Each cell: the mean of the runs, and their least and most where they differ: what the fall of ties alone "
        "makes of it. Late is how late the driver sent, its own fault."
    )
    yield ""
    yield f"| policy | {' | '.join(f'{name}, virtual | HTTP' for name, _ in COLUMNS)} | errors | late p99 |"
    yield f"| --- |{' ---: |' * (2 * len(COLUMNS) + 2)}"
    for policy, runs in found.virtual.items():
        yield _row(policy, runs, found.http[policy])
    for figure in FIGURES:
        yield from _pairs_table(found, figure)


def _ttft(share: float) -> Callable[[Heard], float]:
    return lambda heard: percentile(list(heard.ttft_seconds.values()), share) or 0.0


COLUMNS: tuple[tuple[str, Callable[[Heard], float]], ...] = (
    ("hit ratio", lambda heard: heard.hit_ratio),
    ("foretold exactly", lambda heard: heard.exact_ratio),
    ("TTFT mean", lambda heard: fmean(heard.ttft_seconds.values())),
    ("TTFT p50", _ttft(0.5)),
    ("TTFT p90", _ttft(0.9)),
)


def _row(policy: str, virtual: Sequence[Heard], http: Sequence[Heard]) -> str:
    cells = [policy]
    for name, of in COLUMNS:
        shown = "{:.3f} s" if name.startswith("TTFT") else "{:.1%}"
        cells += [_spread([of(heard) for heard in runs], shown) for runs in (virtual, http)]
    late_seconds = max(heard.late_p99_seconds for heard in http)
    cells += [str(sum(heard.errors for heard in http)), f"{1000 * late_seconds:.0f} ms"]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], shown: str) -> str:
    mean, least, most = (shown.format(value) for value in (fmean(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"


def _pairs_table(found: Agreement, figure: Figure) -> Iterator[str]:
    compared = found.pairs(figure)
    counts = Counter(pair.accord for pair in compared)
    virtual, http = found.worlds(figure)
    yield ""
    yield f"## By {figure.name} ({figure.unit})"
    yield ""
    yield f"Best mean first, virtual: {', '.join(order(virtual))}. HTTP: {', '.join(order(http))}."
    yield ""
    yield (
        f"Of {len(compared)} pairs {counts[Accord.SAME]} have the same verdict, {counts[Accord.UNDECIDED]} a verdict "
        f"in one world and a tie in the other, {counts[Accord.OPPOSITE]} opposite verdicts. A tie is a 95 % interval "
        "of the paired difference that holds 0."
    )
    yield ""
    yield "| first less second | virtual | HTTP | accord |"
    yield "| --- | --- | --- | --- |"
    for pair in compared:
        yield (
            f"| {pair.first} - {pair.second} | {_interval(pair.virtual, figure)} | {_interval(pair.http, figure)} "
            f"| {pair.accord} |"
        )


def _interval(one: Difference, figure: Figure) -> str:
    digits = figure.decimals
    return f"{one.mean:+,.{digits}f} ({one.low:+,.{digits}f} to {one.high:+,.{digits}f}): {one.verdict}"


def _values(found: Agreement, about: Mapping[str, str | int]) -> dict[str, object]:
    return {
        "about": dict(about),
        "scenario": asdict(found.scenario),
        "runs": {
            world: {policy: [_run(heard) for heard in heards] for policy, heards in runs.items()}
            for world, runs in (("virtual", found.virtual), ("http", found.http))
        },
        "pairs": {figure.name: [_pair(pair) for pair in found.pairs(figure)] for figure in FIGURES},
        "order": {
            figure.name: dict(zip(("virtual", "http"), _orders(found, figure), strict=True)) for figure in FIGURES
        },
    }


def _run(heard: Heard) -> Mapping[str, float]:
    figures = {name: of(heard) for name, of in COLUMNS}
    return figures | {"errors": heard.errors, "late p99": heard.late_p99_seconds}


def _orders(found: Agreement, figure: Figure) -> Sequence[list[str]]:
    return [order(world) for world in found.worlds(figure)]


def _pair(pair: Pair) -> dict[str, object]:
    return asdict(pair) | {
        "virtual_verdict": pair.virtual.verdict.value,
        "http_verdict": pair.http.verdict.value,
        "accord": pair.accord.value,
    }
