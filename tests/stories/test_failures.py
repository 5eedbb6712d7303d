"""R 2.1, row by row, through real sockets; after each story nothing is leased and nobody waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest

from tests.stories.houses import Stage, stage


@pytest.fixture
async def two() -> AsyncIterator[Stage]:
    """Two replicas, tried in turn, so that a request surely meets the bad one."""
    async with stage(2, policy="round_robin") as one:
        yield one
        await one.nothing_left()


async def four_answers(one: Stage, **fields: Any) -> list[httpx.Response]:
    return [await one.ask(f"hello {number}", **fields) for number in range(4)]


@pytest.mark.parametrize(
    "trouble",
    [{"die": True}, {"reset_connection": 2}, {"status": 502}, {"status": 503}, {"status": 429}, {"status": 500}],
    ids=lambda trouble: json.dumps(trouble),
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_before_the_first_byte_is_mended_by_another_replica(
    two: Stage, trouble: Mapping[str, Any], streamed: bool
) -> None:
    await two.order(0, **trouble)
    answers = await four_answers(two, stream=streamed)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.headers["x-homing-replica"] for answer in answers} <= {"r0", "r1"}
    assert await two.outcomes() == {"ok": 4}


async def test_a_429_is_not_held_against_the_replica(two: Stage) -> None:
    await two.order(0, status=429)
    for _ in range(6):
        assert (await two.ask()).status_code == 200
    assert two.house.health.state(two.house.roster.present()[0], asyncio.get_running_loop().time()).value == "closed"


async def test_a_request_that_breaks_every_engine_does_not_open_their_breakers(two: Stage) -> None:
    await two.order(0, status=500)
    await two.order(1, status=500)
    for _ in range(8):
        answer = await two.ask()
        assert answer.status_code == 500
        assert "error" in answer.json()
    await two.order(0, clear=True)
    await two.order(1, clear=True)
    assert (await two.ask()).status_code == 200


async def test_a_death_in_the_middle_of_a_stream_makes_the_client_library_raise(two: Stage) -> None:
    for number in range(2):
        await two.order(number, die_after_chunks=3, die_after_chunks_count=1)
    async with openai.AsyncOpenAI(base_url=f"{two.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "count"}], max_tokens=50, stream=True
        )
        with pytest.raises(openai.APIError, match="in the middle of the answer"):
            async for _ in stream:
                pass
    assert await two.outcomes() == {"upstream_error": 1}


async def test_a_broken_stream_ends_without_done(two: Stage) -> None:
    for number in range(2):
        await two.order(number, die_after_chunks=3, die_after_chunks_count=1)
    answer = await two.ask(stream=True, max_tokens=50)
    assert answer.status_code == 200
    assert b"[DONE]" not in answer.content
    last = answer.content.strip().split(b"\n\n")[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"


async def test_a_stream_that_outlasts_the_stop_ends_with_an_error_and_is_no_success() -> None:
    async with httpx.AsyncClient(timeout=30.0) as http:
        async with stage(1, limits={"drain_seconds": 1.0}) as one:
            await one.order(0, slow=300.0)
            url = f"{one.url}/v1/chat/completions"
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 900,
                "stream": True,
            }
            streaming = asyncio.create_task(http.post(url, json=body))
            await one.until(lambda: len(one.house.ledger) == 1)
            house = one.house
        answer = await streaming
    assert house.receipts.latest(1)[0].outcome == "upstream_error"
    assert answer.status_code == 503 or b'"code":"stopping"' in answer.content
    assert b"[DONE]" not in answer.content
    assert len(house.ledger) == 0


async def test_with_every_replica_down_the_client_is_told_when_to_come_back(two: Stage) -> None:
    await two.order(1, die=True)
    await two.order(0, through=0, die=True, for_seconds=4.0)
    await two.until(lambda: not two.house.health.any_healthy(asyncio.get_running_loop().time()))
    answer = await two.ask()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "no_replica"
    assert (await two.http.get(f"{two.url}/health")).status_code == 200
    ready = await two.http.get(f"{two.url}/ready")
    assert ready.status_code == 503
    assert "a healthy replica" in ready.json()["waiting_for"]
    assert (await two.http.get(f"{two.url}/v1/models")).json()["data"][0]["id"] == "tiny"
    await two.until(lambda: two.house.health.any_healthy(asyncio.get_running_loop().time()))
    assert (await two.ask()).status_code == 200


async def test_a_hung_replica_is_found_by_its_probe_and_avoided(two: Stage) -> None:
    await two.order(0, hang=True)
    seat = two.house.roster.present()[0]
    await two.until(lambda: two.house.keeper.kept[seat].silence is not None)
    await two.until(
        lambda: (
            not bool(two.house.health.allowed(two.house.roster.serving("tiny"), asyncio.get_running_loop().time())[0])
        )
    )
    answers = await four_answers(two)
    assert {answer.headers["x-homing-replica"] for answer in answers} == {"r1"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_hangs_up_stops_the_generation_at_once(two: Stage, streamed: bool) -> None:
    async def hang_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await two.ask("write a long story", max_tokens=900, stream=streamed)

    for number in range(2):
        await two.order(number, slow=50.0)
    await asyncio.gather(*(hang_up() for _ in range(6)))
    await two.until(lambda: len(two.house.ledger) == 0)

    async def running() -> float:
        total = 0.0
        for number in range(2):
            text = (await two.http.get(f"{two.replica_url(number)}/metrics")).text
            lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
            total += sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        return total

    async with asyncio.timeout(5):
        while await running():  # noqa: ASYNC110 - another process' state
            await asyncio.sleep(0.02)
    assert await two.outcomes() == {"client_gone": 6}


async def test_a_client_that_hangs_up_in_the_queue_leaves_no_place_taken() -> None:
    limits = {"max_in_flight": 1, "queue_length": 4, "drain_seconds": 1.0}
    async with stage(1, limits=limits) as one:
        await one.order(0, slow=100.0)
        first = asyncio.create_task(one.ask(max_tokens=3))
        await one.until(lambda: len(one.house.ledger) == 1)
        waiting = [asyncio.create_task(one.ask(max_tokens=3)) for _ in range(3)]
        await one.until(lambda: one.house.admission.waiting == 3)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await one.until(lambda: one.house.admission.waiting == 0)
        await one.order(0, slow=1.0)
        assert (await first).status_code == 200
        assert (await one.ask()).status_code == 200
        await one.nothing_left()
        assert (await one.outcomes())["client_gone"] == 3


async def test_more_than_fits_is_refused_with_the_time_to_come_back() -> None:
    limits = {"max_in_flight": 1, "queue_length": 1, "drain_seconds": 1.0}
    async with stage(1, limits=limits) as one:
        await one.order(0, slow=100.0)
        tasks = [asyncio.create_task(one.ask(max_tokens=3)) for _ in range(5)]
        await one.until(lambda: sum(task.done() for task in tasks) == 3)
        refused = [task.result() for task in tasks if task.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert refused[0].json()["error"]["type"] == "rate_limit_error"
        await one.order(0, slow=1.0)
        assert sorted([(await task).status_code for task in tasks]) == [200, 200, 429, 429, 429]
        await one.nothing_left()
