"""Real agent conversations, real sockets, a real tokenizer: predictions against reports (needs the shared traces)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from router.sim.drive import drive
from router.sim.engine import EngineLimits
from router.sim.traces import load_conversations
from router.sim.workload import Arrivals, schedule
from tests.stories.houses import stage

SHARED = Path(__file__).resolve().parents[3] / "shared"
QWEN3 = SHARED / "tokenizers" / "qwen3"


@pytest.mark.shared
@pytest.mark.skipif(not QWEN3.is_dir(), reason="the shared tokenizers and traces are not here")
@pytest.mark.parametrize("trace", ["agent_miniswe_a", "tau_airline_gpt4o_a"])
async def test_recorded_conversations_are_predicted_exactly(trace: str) -> None:
    conversations = load_conversations(SHARED / "traces" / f"{trace}.jsonl.zst", max_tokens=8)[:5]
    workload = schedule(conversations, Arrivals(starts_per_second=4.0, think_seconds=0.4), seed=3)
    limits = EngineLimits(block_count=4096, block_size_tokens=16, max_model_tokens=32_768)
    async with stage(
        4, fleet={"tokenizer": QWEN3, "limits": limits}, tokens={"tokenizer": str(QWEN3)}, settle=True
    ) as one:
        records = await drive(workload, one.url, model="tiny")
        assert [record.error for record in records if record.error] == []
        await one.nothing_left()
        judged, exact = int(one.house.accuracy.judged.sum()), int(one.house.accuracy.exact.sum())
        print(f"{trace}: {len(records)} requests, {judged} judged, {exact} exact", file=sys.stderr)
        assert judged >= 0.9 * len(records)
        assert exact >= 0.99 * judged
