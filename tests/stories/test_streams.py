"""The client's bytes are those of a direct call, whatever Homing asks of the engine beside (R 1.2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.stories.houses import Stage, stage

CREATED = re.compile(rb'"created": ?\d+')
WORDS = {"model": "tiny", "messages": [{"role": "user", "content": 'say "usage": and "choices":[] \\ please'}]}


@pytest.fixture
async def one() -> AsyncIterator[Stage]:
    async with stage(1) as alone:
        yield alone
        await alone.nothing_left()


async def streamed(one: Stage, base: str, body: Mapping[str, Any], path: str) -> bytes:
    """All bytes of one stream under a fixed request id, but for the second it was made in."""
    answer = await one.http.post(f"{base}{path}", json=body, headers={"x-request-id": "fixed"})
    assert answer.status_code == 200, answer.text
    return CREATED.sub(b'"created":0', answer.content)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream_options": None},
        {"stream_options": {}},
        {"stream_options": {"include_usage": False}},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"n": 2},
        {"return_token_ids": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_is_byte_for_byte_that_of_a_direct_call(
    one: Stage, path: str, options: Mapping[str, Any]
) -> None:
    asked: dict[str, Any] = WORDS if path.endswith("chat/completions") else {"model": "tiny", "prompt": "once upon"}
    body = {**asked, "stream": True, "max_tokens": 7, **options}
    warm = await streamed(one, one.replica_url(0), body, path)  # so that both find the same cached tokens
    direct = await streamed(one, one.replica_url(0), body, path)
    assert await streamed(one, one.url, body, path) == direct
    assert len(warm) == len(direct) or b"cached_tokens" in direct


async def test_usage_is_learned_from_streams_that_do_not_show_it(one: Stage) -> None:
    await one.ask("a prompt of more than a block or two, so that something can be cached " * 3, stream=True)
    await one.until(lambda: one.house.index.block_count > 0)
    answer = await one.ask("a prompt of more than a block or two, so that something can be cached " * 3, stream=True)
    assert b"prompt_tokens_details" not in answer.content
    receipt = one.house.receipts.latest(1)[0]
    assert receipt.reported_cached_tokens
    assert receipt.verdict is not None
    assert receipt.verdict.exact
    assert await one.metric('homing_splices_total{splice="include_usage"}') == 2


async def test_without_the_probe_nothing_is_spliced_and_nothing_judged() -> None:
    async with stage(1, usage_probe="never") as one:
        await one.ask(stream=True)
        assert await one.metric("homing_splices_total{") == 0
        assert await one.metric('homing_unjudged_total{cause="no_report"}') == 1


async def test_the_field_that_breaks_copy_counting_is_removed(one: Stage) -> None:
    text = "a prompt of more than a block or two, so that something can be cached " * 3
    for _ in range(3):
        answer = await one.ask(text, vllm_xargs={"kv_cache_report_mode": "full"})
        assert answer.status_code == 200
        await one.until(lambda: one.house.index.block_count > 0)
    assert await one.metric('homing_splices_total{splice="report_mode"}') == 3
    receipt = one.house.receipts.latest(1)[0]
    assert receipt.verdict is not None
    assert receipt.verdict.exact
