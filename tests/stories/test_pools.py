"""Prompts computed on one replica and answered by another, seen from outside."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.stories.houses import Stage
from tests.stories.pools import ALWAYS, pools, receipt

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
        assert answer.headers["x-homing-prefill-replica"] == "p0"
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


@pytest.mark.parametrize("handshake", ["nixl", "mooncake"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_cached_tokens_a_client_reads_are_those_the_donor_had(
    handshake: str, streamed: bool, tmp_path: Path
) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake=handshake) as stage:
        asked: dict[str, Any] = {
            "stream": streamed,
            **({"stream_options": {"include_usage": True}} if streamed else {}),
        }
        seen = []
        for _ in range(2):
            answer = await stage.ask(LONG, **asked)
            told = await receipt(stage, answer.headers["x-homing-request-id"])
            text = answer.text
            seen.append(int(text.split('"cached_tokens":')[1].split(",")[0].split("}")[0]))
            assert told["reported_cached_tokens"] == seen[-1]
            await stage.settled()
        prompt = int(answer.text.split('"prompt_tokens":')[1].split(",")[0])
        assert seen == [0, (prompt - 1) // 16 * 16]
        assert told["verdict"]["judged"], "the donor's answer tells"
        assert told["verdict"]["exact"]
        assert told["decision"]["predicted_cached_tokens"] == seen[1]
        corrected = await stage.metric('homing_splices_total{splice="cached_tokens"}')
        assert corrected == (2 if handshake == "mooncake" else 0)


async def test_both_legs_are_counted_and_timed_and_the_pair_is_shown(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path) as stage:
        for number in range(3):
            await stage.ask(LONG + str(number), stream=True)
        assert await stage.metric('homing_legs_total{leg="prefill",outcome="ok"') == 3
        assert await stage.metric('homing_legs_total{leg="decode",outcome="ok"') == 3
        assert await stage.metric('homing_leg_seconds_count{leg="prefill"}') == 3
        assert await stage.metric('homing_leg_seconds_count{leg="handover"}') == 3
        assert await stage.metric("homing_splits_total{") == 3
        shown = (await stage.http.get(f"{stage.house.admin_url}/homing/replicas")).json()["replicas"]
        assert [(entry["role"], entry["handshake"]) for entry in shown] == [("prefill", "nixl"), ("decode", "nixl")]
        assert shown[1]["takes_over_from"]["p0"]["fixed_seconds"] > 0
        await stage.until(lambda: _moved(stage) > 0)
        assert await stage.metric('homing_engine_transfer_bytes{replica="d1"}') > 0


def _moved(stage: Stage) -> int:
    load = stage.house.keeper.kept[stage.house.roster.present()[1]].load
    return 0 if load is None else load.transfer_bytes or 0


async def test_a_split_request_waits_here_for_its_donor_s_room_and_then_goes_to_both(tmp_path: Path) -> None:
    holds = {**ALWAYS, "name": "holds", "hold": {"ahead_tokens": 1, "patience": 100}}
    async with pools(("prefill", "decode"), tmp_path, policy=holds, bystander=True) as stage:
        holding = stage.house.holding
        assert holding is not None
        wanted = await alone(stage, 2, LONG + "third")
        await stage.order(0, through=2, slow=20_000.0)
        first = asyncio.ensure_future(stage.ask(LONG, stream=True))
        await stage.until(lambda: len(stage.house.ledger) == 2)
        gone = asyncio.ensure_future(stage.ask(LONG + "second", stream=True))
        await stage.until(lambda: holding.waiting == 1)
        third = asyncio.ensure_future(stage.ask(LONG + "third", stream=True))
        await stage.until(lambda: holding.waiting == 2)
        assert len(stage.house.ledger) == 2, "neither leg of who waits is charged"
        gone.cancel()
        await stage.until(lambda: holding.waiting == 1)
        await stage.order(0, through=2, restart=True, slow=1.0)  # which costs the first its donor, and not its answer
        answer = await third
        assert (await first).status_code == 200
        assert answer.status_code == 200
        assert spoken(answer.text) == wanted
        told = await receipt(stage, answer.headers["x-homing-request-id"])
        assert told["held_seconds"] > 0.0
        assert holding.waiting == 0
        await stage.nothing_left()


async def test_several_answers_to_one_prompt_are_never_split(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path) as stage:
        answer = await stage.ask(LONG, n=2)
        assert len(answer.json()["choices"]) == 2
        body = {"model": "tiny", "prompt": ["one " * 50, "two " * 50], "max_tokens": 2}
        both = await stage.http.post(f"{stage.url}/v1/completions", json=body)
        assert len(both.json()["choices"]) == 2
        assert await stage.metric("homing_splits_total{") == 0


async def test_a_pair_that_could_not_be_warmed_carries_no_request(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake="nixl") as stage:
        pair = stage.house.roster.present()
        await stage.order(1, fail_transfers=1_000, restart=True)
        await stage.until(lambda: not stage.house.pairs.is_open(*pair))
        await stage.until(lambda: any("are no pair yet" in line for line in stage.said))
        answer = await stage.ask(LONG)
        assert answer.status_code == 200
        assert answer.headers["x-homing-replica"] == "d1"
        assert await stage.metric("homing_splits_total{") == 0


async def test_a_pair_is_warmed_anew_when_a_side_of_it_restarts(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path) as stage:
        pairs, (donor, taker) = stage.house.pairs, stage.house.roster.present()
        await stage.order(0, restart=True)
        await stage.until(lambda: not pairs.is_open(donor, taker))
        await stage.until(lambda: pairs.is_open(donor, taker))
        answer = await stage.ask(LONG, stream=True)
        assert spoken(answer.text) == await alone(stage, 1, LONG)
        assert await stage.metric("homing_splits_total{") == 1
