from __future__ import annotations

import json
from pathlib import Path

import pytest

from router.demo import KV_SHARE, LOAD, REPLICAS, DemoOptions, make_plan
from router.errors import ConfigError
from router.sim.footprint import BLOCK_TOKENS
from router.sim.timing import LLAMA3_70B_H100_TP2


def conversation(number: int, turns: int) -> dict[str, object]:
    system = {"role": "system", "content": f"Conversation {number}."}
    turn = [{"role": "user", "content": "question " * 300}, {"role": "assistant", "content": "answer " * 300}]
    return {"messages": [system, *turn * turns]}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "conversations.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_the_replicas_hold_the_asked_share_of_what_the_conversations_fill(tmp_path: Path) -> None:
    plan = make_plan(DemoOptions(written(tmp_path, *(conversation(number, 4) for number in range(60)))))
    kv_tokens = REPLICAS * (plan.blocks - 1) * BLOCK_TOKENS
    assert kv_tokens == pytest.approx(KV_SHARE * plan.footprint.distinct_tokens, rel=0.01)
    busy = plan.footprint.distinct_tokens * LLAMA3_70B_H100_TP2.per_new_token_seconds / plan.speedup
    assert busy == pytest.approx(LOAD * REPLICAS * plan.workload.span_seconds)


def test_a_replica_can_always_run_the_longest_prompt(tmp_path: Path) -> None:
    plan = make_plan(DemoOptions(written(tmp_path, conversation(1, 6))))
    assert (plan.blocks - 1) * BLOCK_TOKENS >= 2 * plan.footprint.longest_tokens - BLOCK_TOKENS


def test_the_same_options_give_the_same_plan(tmp_path: Path) -> None:
    path = written(tmp_path, *(conversation(number, 3) for number in range(5)))
    assert make_plan(DemoOptions(path, seed=4)) == make_plan(DemoOptions(path, seed=4))
    assert make_plan(DemoOptions(path, seed=4)).workload != make_plan(DemoOptions(path, seed=5)).workload


def test_a_file_that_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    broken = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    path = written(
        tmp_path, {"messages": [{"role": "user", "content": "Hi"}, broken, {"role": "user", "content": "?"}]}
    )
    with pytest.raises(ConfigError, match=r"conversations\.jsonl: the chat template refuses"):
        make_plan(DemoOptions(path))
