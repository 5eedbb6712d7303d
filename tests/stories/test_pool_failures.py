"""The fault matrix of split requests: handshake by phase by failure. Nobody hangs, nothing is left open.

Before commitment every request is answered where an engine of the pool can answer alone, with the very text of one that
nothing happened to. SGLang's cannot: there another pair is tried, and with a single pair the client gets an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stories.houses import Stage
from tests.stories.pools import pools, receipt
from tests.stories.test_pools import LONG, alone, spoken

P, D = 0, 1  # of the first pair
HANDSHAKES = ("nixl", "mooncake", "sglang")
FOREVER = 1e5


@dataclass(frozen=True)
class Fault:
    """`before`: orders given before the request. `during`: given once `when` holds while it runs."""

    phase: str
    before: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    during: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    when: Callable[[Stage], bool] = lambda _: True


def both_open(stage: Stage) -> bool:
    return len(stage.house.ledger) == 2


def computed(stage: Stage) -> bool:
    """The donor has answered and its taker is at work."""
    return len(stage.house.ledger) == 1


SLOW_PREFILL = (P, {"slow": 20_000.0})
SLOW_FETCH = (D, {"slow_transfers": FOREVER})
GONE: Mapping[str, Any] = {"die": True}

FAULTS: Mapping[str, Fault] = {
    "prefill is not there": Fault("before", before=((P, GONE),)),
    "prefill says 500": Fault("prefill", before=((P, {"status": 500}),)),
    "prefill says 503": Fault("prefill", before=((P, {"status": 503}),)),
    "prefill says 429": Fault("prefill", before=((P, {"status": 429}),)),
    # Two: a kept connection that dies is replaced once, unseen (R 2.3).
    "prefill resets": Fault("prefill", before=((P, {"reset_connection": 2}),)),
    "prefill dies computing": Fault("prefill", before=(SLOW_PREFILL,), during=((P, GONE),), when=both_open),
    "prefill dies while it is fetched from": Fault("fetch", before=(SLOW_FETCH,), during=((P, GONE),), when=computed),
    "prefill hangs while it is fetched from": Fault(
        "fetch", before=(SLOW_FETCH,), during=((P, {"hang": True}),), when=computed
    ),
    "the fetch fails": Fault("fetch", before=((D, {"fail_transfers": 1}),)),
    "decode is not there": Fault("decode", before=((D, GONE),)),
    "decode says 503": Fault("decode", before=((D, {"status": 503}),)),
    "decode says 429": Fault("decode", before=((D, {"status": 429}),)),
    "decode resets": Fault("decode", before=((D, {"reset_connection": 2}),)),
    "decode dies fetching": Fault("fetch", before=(SLOW_FETCH,), during=((D, GONE),), when=computed),
}
# A room's donor answers only when it was fetched from: its leg stays open, and shows its death by itself.
OF_ONE_LEG = ("prefill dies while it is fetched from", "prefill hangs while it is fetched from", "decode dies fetching")


async def play(stage: Stage, fault: Fault, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    for number, order in fault.before:
        await stage.order(number, through=2, **order)
    asking = asyncio.ensure_future(ask())
    if fault.during:
        await stage.until(lambda: fault.when(stage) or asking.done())
        for number, order in fault.during:
            await stage.order(number, through=2, **order)
    async with asyncio.timeout(10):
        return await asking


@pytest.mark.parametrize("failure", sorted(FAULTS))
@pytest.mark.parametrize("handshake", ["nixl", "mooncake"])
async def test_a_failure_before_commitment_costs_nobody_the_answer(
    handshake: str, failure: str, tmp_path: Path
) -> None:
    # The third replica only takes orders: Homing does not know it.
    async with pools(("prefill", "decode"), tmp_path, handshake=handshake, bystander=True) as stage:
        wanted = await alone(stage, 2, LONG)
        began = asyncio.get_running_loop().time()
        answer = await play(stage, FAULTS[failure], lambda: stage.ask(LONG, stream=True))
        assert answer.status_code == 200, answer.text
        assert spoken(answer.text) == wanted
        assert asyncio.get_running_loop().time() - began < 6.0, "a real taker tells of it after seven seconds"
        told = await receipt(stage, answer.headers["x-homing-request-id"])
        assert told["outcome"] == "ok"
        assert len(told["attempts"]) == 3, "two legs, and one whole"
        assert [attempt["leg"] for attempt in told["attempts"]] == ["prefill", "decode", None]
        assert "leg: " in told["attempts"][1]["ending"], "the receipt says which leg it was"
        await stage.nothing_left()


@pytest.mark.parametrize("failure", sorted(set(FAULTS) - set(OF_ONE_LEG)))
async def test_where_no_engine_answers_alone_another_pair_does(failure: str, tmp_path: Path) -> None:
    roles = ("prefill", "decode", "prefill", "decode")
    async with pools(roles, tmp_path, handshake="sglang") as stage:
        wanted = await alone(stage, 3, LONG)
        await stage.order(2, through=3, slow=2.0)
        for _ in range(4):  # of two equal pairs, some request meets the first
            answer = await play(stage, FAULTS[failure], lambda: stage.ask(LONG, stream=True))
            assert answer.status_code == 200, answer.text
            assert spoken(answer.text) == wanted
            told = await receipt(stage, answer.headers["x-homing-request-id"])
            if len(told["attempts"]) > 2:
                break
        else:
            pytest.fail("nobody met the failure")
        assert [attempt["leg"] for attempt in told["attempts"]] == ["prefill", "decode"] * 2
        await stage.nothing_left()


@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_a_taker_that_dies_in_the_middle_of_the_answer_ends_the_stream_with_an_error(
    handshake: str, tmp_path: Path
) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake=handshake) as stage:
        await stage.order(D, die_after_chunks=2, die_after_chunks_count=1)
        answer = await stage.ask(LONG, stream=True, max_tokens=9)
        assert answer.status_code == 200
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text
        assert await stage.outcomes() == {"upstream_error": 1}
        await stage.nothing_left()


PHASES: Mapping[str, tuple[tuple[tuple[int, Mapping[str, Any]], ...], Callable[[Stage], bool]]] = {
    "prefill": ((SLOW_PREFILL,), both_open),
    "fetch": ((SLOW_FETCH,), lambda stage: len(stage.house.ledger) > 0),
    "decode": (((D, {"slow": 20_000.0}),), lambda stage: len(stage.house.ledger) > 0),
}


@pytest.mark.parametrize("phase", sorted(PHASES))
@pytest.mark.parametrize("handshake", HANDSHAKES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_hangs_up_in_any_phase_ends_both_legs(
    handshake: str, phase: str, streamed: bool, tmp_path: Path
) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake=handshake, lease_seconds=0.5) as stage:
        orders, reached = PHASES[phase]
        for number, order in orders:
            await stage.order(number, **order)
        asking = asyncio.ensure_future(stage.ask(LONG, stream=streamed, max_tokens=200))
        await stage.until(lambda: reached(stage))
        await asyncio.sleep(0.1)  # some way into the phase
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await stage.nothing_left()
        assert await stage.outcomes() == {"client_gone": 1}
        async with asyncio.timeout(10):
            while await busy(stage):  # noqa: ASYNC110 - another process' state
                await asyncio.sleep(0.05)


async def busy(stage: Stage) -> float:
    """Requests that run, and blocks in use, on both."""
    total = 0.0
    for number in (P, D):
        text = (await stage.http.get(f"{stage.replica_url(number)}/metrics")).text
        for line in text.splitlines():
            if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{", "vllm:kv_cache_usage")):
                total += float(line.rsplit(" ", 1)[1])
    return total


@pytest.mark.parametrize(("gone", "left"), [(P, "d1"), (D, "p0")])
async def test_with_one_pool_gone_the_other_answers_alone(gone: int, left: str, tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path) as stage:
        await stage.order(gone, die=True)
        seat = stage.house.roster.present()[gone]
        await stage.until(lambda: stage.house.keeper.kept[seat].silence is not None)
        for _ in range(3):
            answer = await stage.ask(LONG)
            assert answer.status_code == 200
            assert answer.headers["x-homing-replica"] == left
        await stage.nothing_left()


async def test_with_one_pool_gone_engines_that_cannot_answer_alone_are_named_in_a_503(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path, handshake="sglang") as stage:
        await stage.order(P, die=True)
        seats = stage.house.roster.serving("tiny")
        now = asyncio.get_running_loop().time
        await stage.until(lambda: not bool(stage.house.health.allowed(seats, now())[P]))
        answer = await stage.ask(LONG)
        assert answer.status_code == 503
        assert "alone" in answer.json()["error"]["message"]
        await stage.nothing_left()


async def test_neither_leg_is_sent_when_the_breaker_of_one_is_open(tmp_path: Path) -> None:
    async with pools(("prefill", "decode"), tmp_path) as stage:
        health, now = stage.house.health, asyncio.get_running_loop().time
        seat = stage.house.roster.present()[P]
        for _ in range(5):
            health.failed(seat, now())
        sent = await stage.metric("homing_legs_total{")
        answer = await stage.ask(LONG)
        assert answer.status_code == 200
        assert answer.headers["x-homing-replica"] == "d1"
        assert await stage.metric("homing_legs_total{") == sent
