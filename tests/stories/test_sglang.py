"""Homing before SGLang, from outside: its own endpoint, its events, its streams, and a health that costs nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any  # fields of a body

import httpx
import pytest

from router.index.base import Trust
from tests.sim.fleets import fleet_config
from tests.stories.houses import Stage, homing, stage
from tests.stories.sglang_double import SglangDouble, serving_sglang


@asynccontextmanager
async def before_sglang() -> AsyncIterator[tuple[Stage, SglangDouble]]:
    async with serving_sglang() as double:
        where = fleet_config(replicas=1, port=double.port)
        async with homing(where, settle=False, tokens={"source": "engine"}) as one:
            await one.until(lambda: all(one.house.trust.of(seat) is Trust.EXACT for seat in one.house.roster.present()))
            yield one, double


async def generate(one: Stage, ids: list[int], **fields: Any) -> httpx.Response:
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}, **fields}
    return await one.http.post(f"{one.url}/generate", json=body, headers={"x-homing-explain": "1"})


async def heard(one: Stage, double: SglangDouble) -> None:
    """What the engine announced is in the index."""
    (seat,) = one.house.roster.present()
    await one.until(lambda: one.house.ingest.tally(seat).stored == double.announced_blocks)


def foretold(answer: httpx.Response) -> tuple[int, int]:
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-homing-predicted-cached-tokens"]), answer.json()["meta_info"]["cached_tokens"]


async def test_what_is_cached_is_foretold_salt_by_salt() -> None:
    async with before_sglang() as (one, double):
        ids = list(range(100, 170))
        seen = []
        for salt in (None, None, "tenant", "tenant", None):
            fields = {} if salt is None else {"cache_salt": salt}
            seen.append(foretold(await generate(one, ids, **fields)))
            await heard(one, double)
        assert seen == [(0, 0), (64, 64), (0, 0), (64, 64), (64, 64)]
        assert foretold(await generate(one, [*ids[:40], 9, 9, 9, 9, 9, 9, 9, 9, 9])) == (32, 32)
        assert await one.metric('homing_judged_requests_total{replica="r0",verdict="exact"}') == 6
        await one.nothing_left()


async def test_an_extra_key_is_never_predicted_and_says_so() -> None:
    async with before_sglang() as (one, double):
        ids = list(range(100, 170))
        for cached in (0, 64):
            assert foretold(await generate(one, ids, extra_key="k")) == (0, cached)
            await heard(one, double)
        assert await one.metric('homing_unpredicted_total{cause="extra_key"}') == 2
        assert await one.metric("homing_judged_requests_total{") == 0


async def test_bytes_pass_as_they_are_and_a_stream_tells_its_counts() -> None:
    async with before_sglang() as (one, double):
        ids = list(range(40))
        body = json.dumps({"input_ids": ids, "stream": True, "rid": "r", "unknown": [1]}, indent=1).encode()
        headers = {"content-type": "application/json"}
        for _ in range(2):
            answer = await one.http.post(f"{one.url}/generate", content=body, headers=headers)
            await heard(one, double)
        direct = await one.http.post(f"{one.replica_url(0)}/generate", content=body, headers=headers)
        assert answer.content == direct.content
        assert double.bodies[0] == {"input_ids": ids, "stream": True, "rid": "r", "unknown": [1]}
        assert await one.metric('homing_judged_requests_total{replica="r0",verdict="exact"}') == 2
        assert await one.metric("homing_cached_tokens_reported_total{") == 32


async def test_whoever_hangs_up_in_a_stream_ends_it_there_too() -> None:
    async with before_sglang() as (one, double):
        double.endless = True
        body = {"input_ids": [1, 2, 3], "stream": True}
        async with one.http.stream("POST", f"{one.url}/generate", json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
        async with asyncio.timeout(5):
            await double.hung_up.wait()
        await one.nothing_left()


async def test_nothing_is_asked_idly_that_makes_a_token() -> None:
    async with before_sglang() as (one, double):
        await one.until(lambda: double.asked["/ready"] > 3)
        assert double.asked["/health"] == double.asked["/health_generate"] == double.asked["/generate"] == 0


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"sampling_params": {}}, 400, "input_ids"),
        ({"input_ids": [1], "model": "other"}, 404, "Known models: tiny"),
        ({"input_ids": [1], "lora_path": "ada"}, 404, "tiny:ada"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_words(body: dict[str, Any], status: int, word: str) -> None:
    async with before_sglang() as (one, double):
        answer = await one.http.post(f"{one.url}/generate", json=body)
        assert answer.status_code == status
        assert word in answer.json()["error"]["message"]
        assert (await one.http.get(f"{one.url}/generate")).status_code == 405
        assert not double.bodies


async def test_other_engines_do_not_have_the_endpoint() -> None:
    async with stage(1) as one:
        answer = await one.http.post(f"{one.url}/generate", json={"text": "hello"})
        assert answer.status_code == 404
        named = await one.http.post(f"{one.url}/generate", json={"text": "hello", "model": "tiny"})
        assert named.status_code == 400
        assert "/v1/completions" in named.json()["error"]["message"]
