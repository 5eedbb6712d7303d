"""Data-parallel ranks behind one address, each a replica with its own cache and its own events. From outside."""

from __future__ import annotations

from typing import Any

from router.index.base import Trust
from tests.sim.fleets import fleet_config
from tests.stories.houses import Stage, homing
from tests.stories.ranked import serving_ranks

STORY = "Once upon a time there were several engines behind one door, and each remembered its own guests. " * 4


def names(one: Stage) -> list[str]:
    return [one.house.roster.replica(seat).id for seat in one.house.roster.present()]


async def replicas(one: Stage) -> dict[str, dict[str, Any]]:
    told = (await one.http.get(f"{one.house.admin_url}/homing/replicas")).json()["replicas"]
    return {entry["replica"]: entry for entry in told}


async def test_each_rank_is_a_replica_pinned_by_its_header_and_predicted_by_its_own_events() -> None:
    async with serving_ranks(3) as front:
        settings = [{"url": front.url, "id": "dp"}]
        async with homing(fleet_config(), settle=False, replicas=settings, policy="round_robin") as one:
            await one.until(lambda: names(one) == ["dp#0", "dp#1", "dp#2"])
            await one.settled()
            for _ in range(3):
                for _ in range(3):
                    answer = await one.ask(STORY, headers={"x-data-parallel-rank": "1"})
                    assert answer.status_code == 200
            assert front.asked == {"0": 3, "1": 3, "2": 3}  # our pin, never the client's
            receipts = one.house.receipts.latest(9)
            verdicts = [receipt.verdict for receipt in receipts if receipt.verdict is not None]
            assert [verdict.exact for verdict in verdicts] == [True] * 9
            assert [verdict.reported_tokens > 0 for verdict in verdicts] == [True] * 6 + [False] * 3
            told = await replicas(one)
            assert [entry["rank"] for entry in told.values()] == [0, 1, 2]
            assert len({entry["events"] for entry in told.values()}) == 3
            assert {entry["held_blocks"] for entry in told.values()} != {0}
            await one.nothing_left()


async def test_seats_follow_the_number_of_ranks_and_what_goes_takes_its_series_with_it() -> None:
    async with serving_ranks(3) as front:
        settings = [{"url": front.url, "id": "dp"}]
        async with homing(fleet_config(), settle=False, replicas=settings, policy="round_robin") as one:
            await one.until(lambda: names(one) == ["dp#0", "dp#1", "dp#2"])
            await one.settled()
            for _ in range(3):
                await one.ask(STORY)
            assert await one.metric('homing_requests_total{model="tiny",outcome="ok",replica="dp#2"}') == 1
            front.shown = 2
            await one.until(lambda: names(one) == ["dp#0", "dp#1"])
            page = (await one.http.get(f"{one.house.admin_url}/metrics")).text
            assert "dp#2" not in page
            assert await one.metric('homing_requests_total{model="tiny",outcome="ok",replica="dp#1"}') == 1
            front.shown = 1
            await one.until(lambda: names(one) == ["dp"])
            front.asked.clear()
            await one.settled()
            assert (await one.ask(STORY)).headers["x-homing-replica"] == "dp"
            assert front.asked == {"": 1}
            front.shown = 3
            await one.until(lambda: names(one) == ["dp#0", "dp#1", "dp#2"])
            await one.settled()
            for _ in range(3):
                assert (await one.ask(STORY)).status_code == 200
            assert {one.house.trust.of(seat) for seat in one.house.roster.present()} == {Trust.EXACT}
            assert sum("data-parallel ranks" in line for line in one.said) == 3
            await one.nothing_left()
