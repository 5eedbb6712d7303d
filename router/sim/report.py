"""What a run came to, and two or more runs side by side.

Hit ratio is the engine's word: cached tokens over prompt tokens, of the requests whose usage told both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rich.table import Table

from router.sim.record import Record


@dataclass(frozen=True, slots=True)
class Summary:
    """One run. Seconds are over the requests that went well, percentiles nearest-rank; None: there were none."""

    name: str
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    hit_ratio: float | None
    first_token_mean_seconds: float | None
    first_token_p50_seconds: float | None
    first_token_p90_seconds: float | None
    first_token_p99_seconds: float | None
    inter_token_p50_seconds: float | None
    late_p99_seconds: float | None  # of the driver's own sending: large means the machine was too busy to measure
    requests_by_replica: Mapping[str, int]


def summarise(name: str, records: Sequence[Record]) -> Summary:
    good = [record for record in records if record.error is None]
    counted = [
        (record.prompt_tokens, record.cached_tokens)
        for record in good
        if record.prompt_tokens is not None and record.cached_tokens is not None
    ]
    prompt_tokens = sum(prompt for prompt, _ in counted)
    cached_tokens = sum(cached for _, cached in counted)
    first = [record.first_token_seconds for record in good if record.first_token_seconds is not None]
    gaps = [record.inter_token_seconds for record in good if record.inter_token_seconds is not None]
    return Summary(
        name=name,
        requests=len(records),
        errors=len(records) - len(good),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        hit_ratio=cached_tokens / prompt_tokens if prompt_tokens else None,
        first_token_mean_seconds=fmean(first) if first else None,
        first_token_p50_seconds=percentile(first, 0.50),
        first_token_p90_seconds=percentile(first, 0.90),
        first_token_p99_seconds=percentile(first, 0.99),
        inter_token_p50_seconds=percentile(gaps, 0.50),
        late_p99_seconds=percentile([record.late_seconds for record in records], 0.99),
        requests_by_replica=dict(sorted(Counter(record.replica for record in good if record.replica).items())),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile: the least value that `share` (0 to 1) of the values do not exceed. None of none."""
    if not values:
        return None
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def faults(records: Sequence[Record], most: int = 3) -> list[str]:
    """The commonest errors of a run, each with its count."""
    return [f"{count} x {error}" for error, count in Counter(r.error for r in records if r.error).most_common(most)]


def as_json(summaries: Sequence[Summary]) -> dict[str, object]:
    """The runs, and every later one against the first. Plain values, ready for a JSON encoder."""
    base = summaries[0]
    return {
        "runs": [asdict(summary) for summary in summaries],
        "against": base.name,
        "ratios": {
            summary.name: {label: _ratio(figure(summary), figure(base)) for label, figure in RATIOS.items()}
            for summary in summaries[1:]
        },
    }


def side_by_side(summaries: Sequence[Summary]) -> Table:
    """One column a run, the first being the baseline; then one column a later run with its ratio to it."""
    base, others = summaries[0], summaries[1:]
    table = Table(title="The same conversations at the same moments")
    table.add_column("")
    for summary in summaries:
        table.add_column(summary.name, justify="right")
    for summary in others:
        table.add_column("ratio" if len(others) == 1 else f"{summary.name} ratio", justify="right", style="bold")
    for label, figure, shown in ROWS:
        ratios = [_ratio_text(_ratio(figure(summary), figure(base))) if label in RATIOS else "" for summary in others]
        table.add_row(label, *(shown(figure(summary)) for summary in summaries), *ratios)
    for replica in sorted({replica for summary in summaries for replica in summary.requests_by_replica}):
        counts = [str(summary.requests_by_replica.get(replica, 0)) for summary in summaries]
        table.add_row(f"to {replica}", *counts, *("" for _ in others))
    return table


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _ratio_text(ratio: float | None) -> str:
    return f"{ratio:.2f} x" if ratio is not None else "-"


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else "-"


def _share(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else "-"


def _milliseconds(value: float | None) -> str:
    return f"{value * 1000:,.0f} ms" if value is not None else "-"


ROWS: tuple[tuple[str, Callable[[Summary], float | None], Callable[[float | None], str]], ...] = (
    ("requests", lambda summary: summary.requests, _count),
    ("errors", lambda summary: summary.errors, _count),
    ("prompt tokens", lambda summary: summary.prompt_tokens, _count),
    ("hit ratio", lambda summary: summary.hit_ratio, _share),
    ("first token, p50", lambda summary: summary.first_token_p50_seconds, _milliseconds),
    ("first token, p90", lambda summary: summary.first_token_p90_seconds, _milliseconds),
    ("first token, p99", lambda summary: summary.first_token_p99_seconds, _milliseconds),
    ("between tokens, p50", lambda summary: summary.inter_token_p50_seconds, _milliseconds),
)

RATIOS = {label: figure for label, figure, _ in ROWS if label.startswith(("hit", "first", "between"))}
