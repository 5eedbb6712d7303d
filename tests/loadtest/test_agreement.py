"""Both worlds on a small scenario: sockets, JSON and ZMQ on one side, a heap on the other."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest.agreement import agreement
from loadtest.agreement_report import write
from loadtest.scenario import Scenario

# Fast engines that are seldom busy: what is found in a cache then hangs on the routing alone.
SMALL = Scenario(
    groups=6,
    prompts_per_group=2,
    system_blocks=4,
    question_blocks=1,
    answer_tokens=2,
    requests=60,
    rate_per_second=20.0,
    replicas=2,
    timing="llama3_8b_h100",
)


async def test_round_robin_computes_more_than_cache_aware_in_both_worlds(tmp_path: Path) -> None:
    found = await agreement(SMALL, ("round_robin", "cache_aware"))
    for world in (found.virtual, found.http):
        runs = [heard for heards in world.values() for heard in heards]
        assert all(heard.errors == 0 and len(heard.ttft_seconds) == SMALL.requests for heard in runs)
        assert all(heard.exact_ratio > 0.9 for heard in runs), "the index is right in both"
        assert world["round_robin"][0].hit_ratio < world["cache_aware"][0].hit_ratio
    page = write(found, {"machine": "a test"}, tmp_path)
    assert "| round_robin |" in page == (tmp_path / "agreement.md").read_text()
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert told["pairs"]["tokens computed"][0]["accord"] == "same"
    assert told["order"]["tokens computed"]["http"] == ["cache_aware", "round_robin"]
