"""The simulated engine announces and reports what a real vLLM 0.32.0 did, request by request (R 7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.recordings import FRAMES, FULL, Reader, Rerun, exchanges, groups

RECORDED = [
    pytest.param(FRAMES / "vllm_a_block32.jsonl", 64, 32, False, 126, 118, id="a"),
    pytest.param(FRAMES / "vllm_b_block64.jsonl", 40, 64, True, 27, 25, id="b"),
    pytest.param(FULL / "a_block32_int_sha256_lora", 64, 32, False, 126, 118, id="a-full", marks=pytest.mark.shared),
    pytest.param(FULL / "b_block64_bytes_sha256cbor", 40, 64, True, 96, 88, id="b-full", marks=pytest.mark.shared),
]


@pytest.mark.parametrize(("source", "block_count", "block_size_tokens", "as_bytes", "requests", "batches"), RECORDED)
def test_the_recorded_requests_lead_to_the_recorded_events_and_cached_tokens(
    source: Path, block_count: int, block_size_tokens: int, as_bytes: bool, requests: int, batches: int
) -> None:
    if not source.exists():
        pytest.skip(f"{source} is not part of the repository")
    rerun = Rerun(block_count, block_size_tokens, names_as_bytes=as_bytes)
    numbers: dict[object, int] = {}
    real, simulated = Reader(numbers), Reader(numbers)
    seen_requests = seen_batches = 0
    for group in groups(exchanges(source)):
        if group[0].reset:
            assert rerun.engine.reset_cache()
            continue
        cached, announced = rerun.run(group)
        recorded = [batch for exchange in group for batch in exchange.batches]
        where = f"{group[0].scenario} {group[0].tag}"
        assert [[simulated.read(e) for e in b] for b in announced] == [[real.read(e) for e in b] for b in recorded], (
            where
        )
        if group[0].completion_tokens is not None:  # whose client hung up was told nothing
            assert cached == {exchange.tag: exchange.cached_tokens for exchange in group}, where
        seen_requests, seen_batches = seen_requests + len(group), seen_batches + len(announced)
    assert (seen_requests, seen_batches) == (requests, batches)
