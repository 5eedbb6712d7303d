from __future__ import annotations

import io

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from router.sim.record import Record
from router.sim.report import as_json, faults, percentile, side_by_side, summarise


def record(
    first_token_seconds: float | None = 1.0,
    *,
    cached: int | None = 50,
    replica: str | None = "r1",
    error: str | None = None,
) -> Record:
    return Record(
        conversation="c",
        turn=0,
        at_seconds=0.0,
        late_seconds=0.0,
        status=200,
        error=error,
        first_token_seconds=first_token_seconds,
        total_seconds=2.0,
        inter_token_seconds=0.01,
        prompt_tokens=100,
        cached_tokens=cached,
        completion_tokens=8,
        replica=replica,
    )


def test_the_hit_ratio_counts_only_requests_whose_engine_told() -> None:
    summary = summarise("run", [record(cached=80), record(cached=20), record(cached=None)])
    assert (summary.hit_ratio, summary.prompt_tokens) == (0.5, 200)
    assert summarise("run", []).hit_ratio is None


def test_the_mean_is_of_the_requests_that_went_well() -> None:
    summary = summarise("run", [record(1.0), record(4.0), record(9.0, error="status 500")])
    assert (summary.first_token_mean_seconds, summary.first_token_p50_seconds) == (2.5, 1.0)
    assert summarise("run", []).first_token_mean_seconds is None


def test_errors_count_as_requests_but_not_in_the_times() -> None:
    records = [record(1.0), record(9.0, error="status 500"), record(9.0, error="status 500")]
    summary = summarise("run", records)
    assert (summary.requests, summary.errors, summary.first_token_p99_seconds) == (3, 2, 1.0)
    assert faults(records) == ["2 x status 500"]


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_the_least_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_two_runs_stand_side_by_side_with_their_ratios() -> None:
    runs = [
        summarise("round_robin", [record(2.0, cached=20, replica="r1"), record(2.0, cached=20, replica="r2")]),
        summarise("cache_aware", [record(0.5, cached=80, replica="r1"), record(0.5, cached=80, replica="r1")]),
    ]
    paper = io.StringIO()
    console = Console(width=120, file=paper)
    console.print(side_by_side(runs))
    lines = paper.getvalue().splitlines()
    assert any("hit ratio" in line and "20.0%" in line and "80.0%" in line and "4.00 x" in line for line in lines)
    assert any("first token, p90" in line and "2,000 ms" in line and "0.25 x" in line for line in lines)
    assert any("to r2" in line for line in lines)
    told = msgspec.json.decode(msgspec.json.encode(as_json(runs)))
    assert told["ratios"]["cache_aware"]["hit ratio"] == 4.0
    assert told["runs"][1]["requests_by_replica"] == {"r1": 2}
