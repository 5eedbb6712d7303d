"""What a virtual run came to: figures of one run, and runs side by side as a table or as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rich.table import Table

from router.sim.report import percentile
from router.sim.virtual import Story


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on one workload. Seconds are virtual; figures are over the requests that were answered."""

    policy: str
    rate_per_second: float  # asked for; 0 where so many sessions at a time were
    sessions: int | None
    seed: int
    requests: int
    answered: int
    hit_ratio: float  # cached tokens over prompt tokens, in the engines' own count
    ttft_mean_seconds: float
    ttft_p50_seconds: float
    ttft_p90_seconds: float
    ttft_p99_seconds: float
    inter_token_p99_seconds: float  # over requests, of each one's mean
    answer_tokens_per_second: float  # from the first arrival to the last token
    imbalance: float  # prompt tokens computed on the busiest replica over the mean
    exact_ratio: float | None  # of the requests judged, those predicted exactly; None where none was judged
    cpu_seconds: float  # what playing it took


def outcome(
    stories: Sequence[Story],
    *,
    policy: str,
    rate_per_second: float,
    sessions: int | None = None,
    seed: int,
    replicas: int,
    judged: int,
    exact: int,
    cpu_seconds: float,
) -> Outcome:
    """Raises ValueError where no request was answered."""
    good = [story for story in stories if story.finished and story.first_token_seconds is not None]
    if not good:
        raise ValueError("no request was answered")
    first = [(story.first_token_seconds or 0.0) - story.arrival_seconds for story in good]
    gaps = [
        (story.last_token_seconds - (story.first_token_seconds or 0.0)) / (story.answer_tokens - 1)
        for story in good
        if story.answer_tokens > 1
    ]
    computed: Counter[int] = Counter()
    for story in good:
        computed[story.replica] += story.prompt_tokens - story.cached_tokens
    span_seconds = max(story.last_token_seconds for story in good) - min(story.arrival_seconds for story in good)
    return Outcome(
        policy=policy,
        rate_per_second=rate_per_second,
        sessions=sessions,
        seed=seed,
        requests=len(stories),
        answered=len(good),
        hit_ratio=sum(story.cached_tokens for story in good) / sum(story.prompt_tokens for story in good),
        ttft_mean_seconds=fmean(first),
        ttft_p50_seconds=percentile(first, 0.50) or 0.0,
        ttft_p90_seconds=percentile(first, 0.90) or 0.0,
        ttft_p99_seconds=percentile(first, 0.99) or 0.0,
        inter_token_p99_seconds=percentile(gaps, 0.99) or 0.0,
        answer_tokens_per_second=sum(story.answer_tokens for story in good) / max(span_seconds, 1e-9),
        imbalance=max(computed.values()) / (sum(computed.values()) / replicas),
        exact_ratio=exact / judged if judged else None,
        cpu_seconds=cpu_seconds,
    )


def side_by_side(outcomes: Sequence[Outcome], title: str) -> Table:
    """One row a policy and rate: the mean over its seeds."""
    table = Table(title=title)
    table.add_column("load", justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for heading in ("hit ratio", "TTFT mean", "p50", "p90", "p99", "inter-token p99", "tokens/s", "imbalance"):
        table.add_column(heading, justify="right")
    last_load: str | None = None
    for (load, policy), runs in _grouped(outcomes).items():
        if last_load is not None and load != last_load:
            table.add_section()
        last_load = load
        table.add_row(
            load,
            policy,
            f"{fmean(run.hit_ratio for run in runs):.1%}",
            *(
                f"{fmean(getattr(run, figure) for run in runs):.2f} s"
                for figure in ("ttft_mean_seconds", "ttft_p50_seconds", "ttft_p90_seconds", "ttft_p99_seconds")
            ),
            f"{1000 * fmean(run.inter_token_p99_seconds for run in runs):.0f} ms",
            f"{fmean(run.answer_tokens_per_second for run in runs):,.0f}",
            f"{fmean(run.imbalance for run in runs):.2f}",
        )
    return table


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    return [asdict(one) for one in outcomes]


def _grouped(outcomes: Sequence[Outcome]) -> Mapping[tuple[str, str], list[Outcome]]:
    """By load, then in the order the policies were given."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda run: (run.sessions or 0, run.rate_per_second)):
        load = f"{one.rate_per_second:g}/s" if one.sessions is None else f"{one.sessions} sessions"
        groups.setdefault((load, one.policy), []).append(one)
    return groups
