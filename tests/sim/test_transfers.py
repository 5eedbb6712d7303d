"""KV between simulated replicas, as real ones do it: over HTTP, in the words of NIXL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any  # JSON

import httpx
import pytest

from router.errors import ConfigError
from router.sim.server import roles_of
from router.sim.transfers import Patience
from router.sim.wires import Wires, WireTiming
from tests.sim.fleets import fleet_config, serving

PROMPT = [7 + number % 900 for number in range(101)]
ASKED = {"do_remote_decode": True, "do_remote_prefill": False}


class Two:
    """A prefill and a decode replica."""

    def __init__(self, http: httpx.AsyncClient, port: int) -> None:
        self.http = http
        self._port = port

    async def ask(self, number: int, **fields: Any) -> httpx.Response:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "return_token_ids": True, **fields}
        return await self.http.post(f"http://127.0.0.1:{self._port + number}/v1/completions", json=body)

    async def tokens(self, number: int, **fields: Any) -> list[int]:
        answer = await self.ask(number, **fields)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    async def given(self) -> dict[str, Any]:
        """What the prefill replica hands over."""
        answer = await self.ask(0, max_tokens=1, kv_transfer_params=ASKED)
        return dict(answer.json()["kv_transfer_params"])

    async def metric(self, number: int, name: str) -> float:
        text = (await self.http.get(f"http://127.0.0.1:{self._port + number}/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    async def order(self, number: int, **switches: Any) -> None:
        url = f"http://127.0.0.1:{self._port + 1 - number}/sim/failures"
        assert (await self.http.post(url, json={"replica": number, **switches})).status_code == 200


@asynccontextmanager
async def two(lease_seconds: float = 30.0) -> AsyncIterator[Two]:
    config = fleet_config(replicas=2, roles=("prefill", "decode"), patience=Patience(lease_seconds, 0.3))
    async with serving(config), httpx.AsyncClient(timeout=20.0) as http:
        yield Two(http, config.port)


async def test_a_taker_answers_as_the_donor_would_have_and_computes_next_to_nothing() -> None:
    async with two() as pair:
        params = await pair.given()
        assert params["remote_num_tokens"] == len(PROMPT)
        assert [len(group) for group in params["remote_block_ids"]] == [7], "blocks of 16, the last one partial"
        answer = await pair.ask(1, kv_transfer_params=params)
        usage = answer.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0, "the donor's hits"
        assert answer.json()["choices"][0]["token_ids"] == await pair.tokens(0)
        assert await pair.metric(1, "vllm:nixl_bytes_transferred_sum") == len(PROMPT) * WireTiming().token_bytes
        assert await pair.metric(0, "vllm:kv_cache_usage_perc") == 0, "the donor's blocks are free again"


async def test_what_the_taker_has_cached_is_not_fetched_again() -> None:
    async with two() as pair:
        await pair.tokens(1)
        await pair.tokens(1, kv_transfer_params=await pair.given())
        moved = await pair.metric(1, "vllm:nixl_bytes_transferred_sum")
        assert moved == (len(PROMPT) - len(PROMPT) // 16 * 16) * WireTiming().token_bytes


async def test_blocks_of_another_request_are_answered_wrongly_and_nobody_says_so() -> None:
    async with two() as pair:
        params = await pair.given()
        spoilt = {**params, "remote_block_ids": [[3, 4, 5]]}
        assert await pair.tokens(1, kv_transfer_params=spoilt) != await pair.tokens(0)


async def test_a_taker_told_of_nothing_computes_alone() -> None:
    async with two() as pair:
        assert await pair.tokens(1, kv_transfer_params=None) == await pair.tokens(0)


async def test_a_donor_that_is_gone_fails_its_taker_after_a_while() -> None:
    async with two() as pair:
        params = await pair.given()
        await pair.order(0, restart=True)
        answer = await pair.ask(1, kv_transfer_params=params)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "Internal server error"


async def test_blocks_that_nobody_fetches_are_freed_when_their_lease_is_over() -> None:
    async with two(lease_seconds=0.2) as pair:
        await pair.given()
        assert await pair.metric(0, "vllm:kv_cache_usage_perc") > 0
        while not await pair.metric(0, "vllm:nixl_num_kv_expired_reqs_total"):
            pass  # asks again: it is another task's clock that frees them
        assert await pair.metric(0, "vllm:kv_cache_usage_perc") == 0


def test_transfers_share_the_wires_of_both_sides() -> None:
    wires = Wires(WireTiming(fixed_seconds=1.0, bytes_per_second=100.0, token_bytes=10))
    assert wires.begin(0, 1, 10, now=0.0) == 2.0
    assert wires.begin(0, 2, 10, now=0.5) == 4.0, "after the first on the donor's wire"
    assert wires.begin(3, 1, 0, now=0.0) == 3.0, "after the first on the taker's"
    assert wires.begin(4, 5, 0, now=0.0) == 1.0
    assert wires.begin(6, 7, 10, now=0.0, slow=3.0) == 6.0
    assert wires.moved_bytes == 300


def test_pools_are_read_as_so_many_of_each() -> None:
    assert roles_of("1p2d") == ("prefill", "decode", "decode")
    for wrong in ("", "2p", "0p2d", "2d2p", "2p2d "):
        with pytest.raises(ConfigError, match="2p2d"):
            roles_of(wrong)
