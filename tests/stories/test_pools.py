"""Prompts computed on one replica and answered by another, seen from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stories.houses import Stage
from tests.stories.pools import pools, receipt

LONG = "tell me of the sea and of ships, " * 20


def spoken(stream: str) -> str:
    """The text of a streamed chat."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


async def alone(stage: Stage, number: int, text: str, **fields: Any) -> str:
    """What a replica answers when asked directly."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
    answer = await stage.http.post(f"{stage.replica_url(number)}/v1/chat/completions", json=body)
    return str(answer.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("handshake", ["nixl", "mooncake", "sglang"])
async def test_a_streamed_chat_is_computed_on_one_replica_and_answered_by_another(
    handshake: str, tmp_path: Path
) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake=handshake) as stage:
        answer = await stage.ask(LONG, stream=True, max_tokens=9)
        assert answer.status_code == 200
        assert answer.headers["x-homing-replica"] == "d1"
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '"usage"' not in answer.text, "nobody asked for it"
        assert spoken(answer.text) == await alone(stage, 1, LONG, max_tokens=9)
        told = await receipt(stage, answer.headers["x-homing-request-id"])
        assert told["outcome"] == "ok"
        assert told["decision"]["split"]["prefill_replica"] == "p0"
        assert told["decision"]["split"]["decode_replica"] == "d1"
        legs = [(attempt["leg"], attempt["replica"], attempt["ending"]) for attempt in told["attempts"]]
        assert legs == [("prefill", "p0", "computed"), ("decode", "d1", "ok")]
        await stage.nothing_left()
