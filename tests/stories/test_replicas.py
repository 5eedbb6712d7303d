"""Replicas that are not what they were, or not what they say: from outside, through real sockets."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from router.fleet.replica import ReplicaId
from router.index.base import Trust
from router.sim.server import FleetConfig
from router.sim.text import SHIPPED_TOKENIZER
from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import Stage, homing, stage

STORY = "Once upon a time there was a replica that was not what it said it was, and nobody had noticed. " * 6


@pytest.fixture
def other_template(tmp_path: Path) -> Path:
    """The same tokenizer under a chat template that begins each turn in another way."""
    folder = Path(shutil.copytree(SHIPPED_TOKENIZER, tmp_path / "model"))
    template = folder / "chat_template.jinja"
    template.write_text("{{ 'Some other opening. ' }}" + template.read_text())
    return folder


@asynccontextmanager
async def before(*fleets: FleetConfig, **settings: Any) -> AsyncIterator[Stage]:
    """A Homing before replicas r0, r1... of several fleets that run already, nothing waited for."""
    urls = [f"http://127.0.0.1:{fleet.port + i}" for fleet in fleets for i in range(fleet.replicas)]
    replicas = [{"url": url, "id": f"r{i}"} for i, url in enumerate(urls)]
    async with homing(fleets[0], settle=False, **{"replicas": replicas, **settings}) as one:
        yield one


async def entry(one: Stage, name: str) -> dict[str, Any]:
    told = (await one.http.get(f"{one.house.admin_url}/homing/replicas")).json()["replicas"]
    found: dict[str, Any] = next(entry for entry in told if entry["replica"] == name)
    return found


def said(one: Stage, *words: str) -> int:
    return sum(all(word in line for word in words) for line in one.said)


def trust(one: Stage, number: int) -> Trust:
    return one.house.trust.of(one.house.roster.present()[number])


async def test_a_replica_that_reads_prompts_in_another_way_is_trusted_with_nothing_and_named(
    other_template: Path,
) -> None:
    right, wrong = fleet_config(), fleet_config(tokenizer=other_template)
    async with serving(right), serving(wrong), before(right, wrong, policy="round_robin") as one:
        await one.until(lambda: trust(one, 0) is Trust.EXACT)
        await one.until(lambda: bool(one.house.proving.divergences))
        for _ in range(6):
            assert (await one.ask(STORY)).status_code == 200
        assert trust(one, 1) is Trust.LOAD_ONLY
        told = await entry(one, "r1")
        assert told["trust_causes"] == ["template_drift"]
        assert any(remark.startswith("template_drift: probe ") for remark in told["remarks"])
        assert said(one, "r1: template_drift") == 1
        assert (await entry(one, "r0"))["trust_causes"] == []
        assert one.house.readers.source("tiny") == "local"
        await one.nothing_left()


async def test_the_local_tokenizer_tells_which_of_two_templates_is_wrong_whoever_comes_first(
    other_template: Path,
) -> None:
    right, wrong = fleet_config(), fleet_config(tokenizer=other_template)
    async with serving(wrong), before(wrong, right) as one:
        await one.until(lambda: said(one, "tokens from the engine", "differs") == 1)
        await one.until(lambda: trust(one, 0) is Trust.EXACT)  # alone it is the measure
        async with serving(right):
            await one.until(lambda: trust(one, 1) is Trust.EXACT)
            await one.until(lambda: trust(one, 0) is Trust.LOAD_ONLY)
            assert one.house.readers.source("tiny") == "local"
            assert (await entry(one, "r0"))["trust_causes"] == ["template_drift"]


async def test_another_engine_behind_the_same_address_is_proven_anew_and_its_restart_told_once(
    other_template: Path,
) -> None:
    first = fleet_config()
    second = fleet_config(port=first.port, tokenizer=other_template)
    async with AsyncExitStack() as process, AsyncExitStack() as house:
        await process.enter_async_context(serving(first))
        one = await house.enter_async_context(before(first))
        await one.settled()
        for _ in range(3):
            await one.ask(STORY)
        await process.aclose()
        async with serving(second):
            await one.until(lambda: one.house.readers.source("tiny") == "engine")
            await one.until(lambda: trust(one, 0) is Trust.EXACT)
            for _ in range(3):
                assert (await one.ask(STORY)).status_code == 200
            receipts = one.house.receipts.latest(3)
            assert [receipt.verdict.exact for receipt in receipts if receipt.verdict is not None] == [True] * 3
            assert receipts[0].reported_cached_tokens
        assert said(one, "its cache is forgotten") == 1
        assert await one.metric('homing_kv_events_total{outcome="forgotten_restart"') == 1


@pytest.mark.parametrize("how", [{"restart": True}, {"restart_silent": True}], ids=["loud", "silent"])
async def test_a_restart_is_told_once_however_many_notice_it(how: dict[str, bool]) -> None:
    async with stage(1) as one:
        await one.ask(STORY)
        await asyncio.sleep(2.1)  # so that the next process has another start time, to the second
        await one.order(0, through=0, **how)
        await one.until(lambda: said(one, "its cache is forgotten") == 1)
        await one.until(lambda: trust(one, 0) is Trust.EXACT)
        for _ in range(4):
            await one.ask(STORY)
            await asyncio.sleep(0.5)  # several probes look at it
        assert said(one, "its cache is forgotten") == 1
        assert await one.metric('homing_kv_events_total{outcome="forgotten_restart"') == 1


async def test_a_silent_publisher_is_found_out_guessed_for_and_believed_again_when_it_speaks() -> None:
    async with stage(1) as one:
        seat = one.house.roster.present()[0]
        await one.order(0, drop_events_ratio=1.0, no_replay=True)
        for number in range(12):
            assert (await one.ask(f"{number} {STORY}")).status_code == 200
        await one.until(lambda: trust(one, 0) is Trust.GUESSED)
        told = await entry(one, "r0")
        assert any("silent publisher" in remark for remark in told["remarks"])
        assert await one.metric('homing_kv_events_total{outcome="silent_publisher",replica="r0"}') == 1
        for _ in range(2):
            answer = await one.ask(f"guessed {STORY}")
        assert int(answer.headers["x-homing-predicted-cached-tokens"]) > 0
        await one.order(0, clear=True)
        await one.order(0, drop_events_ratio=0.0)
        await one.ask(f"heard {STORY}")
        await one.until(lambda: trust(one, 0) is Trust.EXACT)
        assert (await entry(one, "r0"))["remarks"] == []
        for number in range(3):
            await one.ask(f"{number} {STORY}")
        receipts = one.house.receipts.latest(3)
        assert [receipt.verdict.exact for receipt in receipts if receipt.verdict is not None] == [True] * 3
        assert await one.metric("homing_index_refused_blocks") == 0
        assert one.house.roster.is_present(seat)
        await one.nothing_left()


async def test_what_others_send_to_a_replica_past_us_is_seen_and_avoided() -> None:
    async with stage(2, policy="least_loaded") as one:
        await one.order(0, slow=2000.0)
        body = {"model": "tiny", "messages": [{"role": "user", "content": STORY}], "max_tokens": 400}
        async with asyncio.TaskGroup() as strangers:
            theirs = [
                strangers.create_task(one.http.post(f"{one.replica_url(0)}/v1/chat/completions", json=body))
                for _ in range(5)
            ]
            seat = one.house.roster.present()[0]
            await one.until(lambda: one.house.ledger.foreign_requests(seat) == 5)
            answers = [await one.ask(f"{number}") for number in range(4)]
            assert {answer.headers["x-homing-replica"] for answer in answers} == {"r1"}
            told = await entry(one, "r0")
            assert told["engine_running_requests"] + told["engine_waiting_requests"] == 5
            assert (told["foreign_requests"], told["open_requests"]) == (5, 0)
            assert 0 <= told["engine_load_age_seconds"] < 5
            assert await one.metric('homing_foreign_requests{replica="r0"}') == 5
            assert await one.metric("homing_leases_open{") == 0
            for task in theirs:
                task.cancel()
        await one.order(0, clear=True)
        await one.order(0, slow=1.0)
        await one.until(lambda: one.house.ledger.foreign_requests(seat) == 0)
        await one.nothing_left()


async def test_a_replica_that_leaves_is_sent_nothing_and_what_is_under_way_there_ends_well() -> None:
    async with stage(2, policy="round_robin") as one:
        house = one.house
        await one.order(0, slow=20.0)
        await one.order(1, slow=20.0)
        under_way = [asyncio.create_task(one.ask(STORY, max_tokens=100)) for _ in range(2)]
        await one.until(lambda: len(house.ledger) == 2)
        house.keeper.leave(ReplicaId("r1"))
        answers = [await one.ask("after", max_tokens=2) for _ in range(3)]
        assert {answer.headers["x-homing-replica"] for answer in answers} == {"r0"}
        assert {(await task).status_code for task in under_way} == {200}
        await one.nothing_left()
        await one.until(lambda: not house.seating.leaving)
        assert 'replica="r1"' not in (await one.http.get(f"{house.admin_url}/metrics")).text
        assert len((await one.http.get(f"{house.admin_url}/homing/replicas")).json()["replicas"]) == 1
