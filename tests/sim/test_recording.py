"""A recording is read as its requests were: what began alike does, what is unknown is like nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.errors import ConfigError
from router.sim.recording import Numbers, sums_of
from router.sim.traces import TokenRuns, load_conversations, recorded_fleet, recorded_truth

FLEET = {"recording": {"version": 1, "policy": "mine", "replicas": 5, "block_size_tokens": 16, "cache_tokens": 4096}}
ONE, TWO, THREE = 2**64 - 1, 2**63, 77


def line(*ids: int, at: int = 0, tokens: int = 200, size: int = 64, **more: Any) -> dict[str, Any]:
    asked = {"timestamp": at, "input_length": tokens, "output_length": 9, "hash_ids": list(ids), "block_size": size}
    return {**asked, **more}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traffic.jsonl"


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return file


def prompts(file: Path) -> list[TokenRuns]:
    found = [ask.prompt for conversation in load_conversations(file) for ask in conversation.asks]
    assert all(isinstance(prompt, TokenRuns) for prompt in found)
    return [prompt for prompt in found if isinstance(prompt, TokenRuns)]


def ids(prompt: TokenRuns) -> list[int]:
    asked: list[int] = json.loads(b"{" + b"".join(prompt.members()) + b"}")["prompt"]
    return asked


def test_the_first_line_tells_of_the_fleet_and_is_no_request(file: Path) -> None:
    write(file, FLEET, line(ONE))
    fleet = recorded_fleet(file)
    assert fleet is not None
    assert (fleet.policy, fleet.replicas, fleet.cache_tokens, fleet.block_size_tokens) == ("mine", 5, 4096, 16)
    assert len(prompts(file)) == 1


def test_a_trace_tells_of_no_fleet(file: Path) -> None:
    assert recorded_fleet(write(file, line(ONE))) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        recorded_fleet(file.with_name("no.jsonl"))


def test_prompts_are_equal_for_as_long_as_their_ids_are(file: Path) -> None:
    write(file, FLEET, line(ONE, TWO), line(ONE, THREE), line(TWO, ONE, tokens=128))
    first, second, third = (ids(prompt) for prompt in prompts(file))
    assert [len(first), len(second), len(third)] == [200, 200, 128]
    assert first[:64] == second[:64] == third[64:]
    assert first[64:128] != second[64:128]
    assert first[64:128] == third[:64]


def test_what_follows_the_last_full_block_is_like_nothing_else(file: Path) -> None:
    write(file, FLEET, line(ONE), line(ONE), line(tokens=300), line(tokens=300))
    same, other, unknown, strange = (ids(prompt) for prompt in prompts(file))
    assert same[64:] != other[64:]
    assert len(unknown) == len(strange) == 300
    assert unknown[:64] != strange[:64]


def test_turns_of_a_session_belong_together_in_order_of_time_however_they_ended(file: Path) -> None:
    write(file, FLEET, line(TWO, at=900, session_id="s"), line(ONE, at=100, session_id="s"), line(THREE, at=300))
    one, other = load_conversations(file)
    assert [ask.at_seconds for ask in one.asks] == [0.0, pytest.approx(0.8)]
    assert len(other.asks) == 1


def test_ids_of_different_block_sizes_are_never_taken_for_one() -> None:
    numbers = Numbers()
    assert numbers.runs([ONE], 64, 64) == (0,)
    assert numbers.runs([ONE], 128, 128) == (1,)
    assert numbers.runs([ONE, TWO], 64, 200) == (0, 2, 3, 4)


def test_how_it_went_is_read_from_the_last_line() -> None:
    sums = sums_of(b'{"recording_end":{"requests":3,"dropped":1,"left_out":2,"seconds":9.5}}\n')
    assert (sums.requests, sums.dropped, sums.left_out, sums.seconds) == (3, 1, 2, 9.5)


def test_what_really_happened_is_a_mean_over_those_who_told(file: Path) -> None:
    write(file, FLEET, line(ONE, cached_length=50, first_token=300), line(ONE, cached_length=150), line(TWO))
    truth = recorded_truth(file)
    assert (truth.hit_ratio, truth.ttft_mean_seconds) == (0.5, 0.3)
    truth = recorded_truth(write(file, FLEET, line(ONE)))
    assert (truth.hit_ratio, truth.ttft_mean_seconds) == (None, None)
