"""`homing simulate` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.lab.simulate import command

FLEET = {"version": 1, "policy": "round_robin", "replicas": 3, "block_size_tokens": 16, "cache_tokens": 40_000}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty conversations of five turns, one turn each 100 ms, under round robin over three replicas."""
    rows = [
        {
            "timestamp": 100 * (turn * 20 + one),
            "input_length": 1_000 + 640 * turn,
            "output_length": 20,
            "hash_ids": [2**63, *(2**62 + 100 * one + block for block in range((1_000 + 640 * turn) // 64 - 1))],
            "block_size": 64,
            "session_id": f"{one:016x}",
            "cached_length": 100,
            "first_token": 250,
        }
        for turn in range(5)
        for one in range(20)
    ]
    path = tmp_path / "traffic.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ({"recording": FLEET}, *rows)))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())  # however wide the terminal


def figures(*arguments: object) -> dict[str, Any]:  # Any: names and numbers
    told: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return told


def test_the_recording_tells_policy_fleet_and_rate_and_the_answer_is_a_sentence(recording: Path) -> None:
    told = run("cache_aware", "--workload", recording)
    assert "3 replicas of 40,000 KV tokens" in told
    assert "At 10.1 requests a second first tokens come" in told
    assert "sooner with cache_aware than with round_robin" in told


def test_the_simulation_is_held_against_what_really_happened_where_it_is_the_same(recording: Path) -> None:
    assert "What round_robin really did: 4.4% of prompt tokens" in run("cache_aware", "--workload", recording)
    assert "llama3_70b_h100 x 0." in run("cache_aware", "--workload", recording)
    for other in (("--against", "least_loaded"), ("--rate", 5), ("--replicas", 2)):
        assert "really did" not in run("cache_aware", "--workload", recording, "--seeds", 1, *other)


def test_both_policies_answer_the_same_requests_under_every_seed(recording: Path) -> None:
    told = figures("cache_aware", "--workload", recording, "--seeds", 2)
    assert [(one["policy"], one["seed"]) for one in told["outcomes"]] == [
        *(("round_robin", 1), ("round_robin", 2), ("cache_aware", 1), ("cache_aware", 2)),
    ]
    (verdict,) = told["verdicts"]
    assert verdict["verdict"] == "better"
    assert verdict["ttft_difference_seconds"]["requests"] == 100
    assert verdict["ttft_difference_seconds"]["high"] < 0


def test_a_policy_held_against_itself_is_no_better(recording: Path) -> None:
    told = figures("least_loaded", "--workload", recording, "--against", "least_loaded", "--seeds", 1)
    assert told["verdicts"][0]["verdict"] == "inconclusive"


def test_the_users_own_file_tells_policy_and_replicas(recording: Path, tmp_path: Path) -> None:
    own = tmp_path / "homing.yaml"
    own.write_text("replicas: [{url: 'http://a:8000'}, {url: 'http://b:8000'}]\npolicy: least_loaded")
    told = run("cache_aware", "--workload", recording, "--config", own, "--seeds", 1)
    assert "2 replicas" in told
    assert "least_loaded" in told


def test_more_traffic_than_there_is_can_be_asked(recording: Path) -> None:
    told = figures("cache_aware", "--workload", recording, "--rate", 10, "--rate", 20, "--seeds", 1)
    assert [one["rate_per_second"] for one in told["verdicts"]] == [10.0, 20.0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nonsense", "--workload", "b2b-73"), "nonsense"),
        (("cache_aware", "--workload", "no-such-file"), "no-such-file"),
        (("cache_aware",), "--workload"),
        (("cache_aware", "--workload", "b2b-73", "--config", "missing.yaml"), "missing.yaml"),
    ],
)
def test_what_cannot_be_simulated_is_told(arguments: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0
    assert told in result.output
    assert "Traceback" not in result.output
