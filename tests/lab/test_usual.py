"""What is known of a fleet before any flag is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.lab.fit import LEAST_REQUESTS, alone_seconds
from router.lab.usual import COMMON, usual, usual_rate
from router.lab.workloads import PRESETS
from router.sim.timing import QWEN3_32B_H100_TP2


def recording(path: Path, times_as_fast: float, requests: int = LEAST_REQUESTS, **fleet: object) -> str:
    """Requests of 2,000 tokens each half second, before engines so many times as fast as the Qwen3 fit."""
    milliseconds = 1e3 * alone_seconds(QWEN3_32B_H100_TP2, 2_000, 0) / times_as_fast
    rows: list[object] = [{"recording": {"version": 1, "policy": "dynamo", "replicas": 5, **fleet}}]
    for number in range(requests):
        asked = {"timestamp": 500 * number, "input_length": 2_000, "output_length": 9, "hash_ids": [], "block_size": 64}
        rows.append({**asked, "cached_length": 0, "first_token": milliseconds})
    path = path / "traffic.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_preset_brings_the_fleet_it_was_published_with() -> None:
    known = usual("b2b-73")
    preset = PRESETS["b2b-73"]
    assert (known.fleet.replicas, known.fleet.cache_tokens, known.fleet.timing) == (
        preset.replicas,
        preset.cache_tokens,
        preset.timing,
    )
    assert usual("b2b-73", "llama3_8b_h100").fleet.timing == "llama3_8b_h100"
    assert known.recorded is None


def test_a_recording_brings_its_own_and_engines_as_fast_as_they_were(tmp_path: Path) -> None:
    known = usual(recording(tmp_path, 3.0, cache_tokens=50_000, events=False), "qwen3_32b_h100")
    assert known.recorded is not None
    assert known.recorded.policy == "dynamo"
    assert (known.fleet.replicas, known.fleet.cache_tokens, known.fleet.events) == (5, 50_000, False)
    assert known.fleet.speedup == pytest.approx(3.0, abs=0.01)


def test_what_a_recording_does_not_tell_is_as_common(tmp_path: Path) -> None:
    known = usual(recording(tmp_path, 3.0, requests=2, cache_tokens=None))
    assert known.fleet.cache_tokens == COMMON.cache_tokens
    assert known.fleet.speedup == 1.0


def test_any_other_file_and_no_file_at_all_have_a_common_fleet(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 9, "output_length": 9}\n')
    assert usual(str(trace)).fleet == usual("no-such-file").fleet == COMMON


def test_a_trace_is_asked_at_its_own_rate(tmp_path: Path) -> None:
    assert usual_rate(recording(tmp_path, 1.0, requests=41)) == pytest.approx(2.05)
    assert usual_rate("b2b-73") == 20.0
