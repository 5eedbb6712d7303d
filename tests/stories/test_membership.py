"""Replicas that join, drain, leave and return while clients are served. From outside, over sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from router.index.base import Trust
from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import Stage, homing

LONG = "A long story that fills some blocks of the cache, told again and again by one who has time. " * 4
TOKEN = {"authorization": "Bearer let me in"}


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "let me in")


def house(fleet: Any, *numbers: int, **settings: Any) -> Any:
    """A Homing that knows only these replicas of the fleet at first, and the operator's token."""
    replicas = [{"url": f"http://127.0.0.1:{fleet.port + i}", "id": f"r{i}"} for i in numbers]
    auth = {"admin_token_env": "ADMIN_TOKEN"}
    return homing(fleet, **{"replicas": replicas, "auth": auth, "policy": "round_robin", **settings})


async def control(one: Stage, method: str, path: str, **body: Any) -> Any:
    answer = await one.http.request(
        method, f"{one.house.admin_url}/homing/{path}", headers=TOKEN, json=body if body else None
    )
    assert answer.status_code < 300, answer.text
    return answer.json()


async def test_a_replica_is_added_drained_resumed_and_removed_under_a_stream() -> None:
    fleet = fleet_config(replicas=2)
    async with serving(fleet), house(fleet, 0) as one:
        assert await one.served_by(LONG) == {"r0"}
        added = await control(one, "POST", "replicas", url=one.replica_url(1), id="r1")
        assert (added["source"], added["draining"]) == ("operator", False)
        await one.until(lambda: len(one.known()) == 2)
        await one.settled()
        assert await one.served_by(LONG) == {"r0", "r1"}
        await one.order(1, slow=30.0)
        under_way = [asyncio.create_task(one.ask(LONG, max_tokens=100)) for _ in range(2)]
        await one.until(lambda: one.house.seating.open_requests("r1") == 1)
        drained = await control(one, "POST", "replicas/r1/drain")
        assert (drained["draining"], drained["open_requests"]) == (True, 1)
        assert await one.served_by(LONG) == {"r0"}
        assert await one.metric('homing_replica_draining{replica="r1"}') == 1
        assert {(await task).status_code for task in under_way} == {200}
        seat = one.house.roster.present()[1]
        assert one.house.trust.of(seat) is Trust.EXACT  # a drained replica is heard all the while
        await control(one, "POST", "replicas/r1/resume")
        assert await one.served_by(LONG) == {"r0", "r1"}
        assert (await control(one, "DELETE", "replicas/r1"))["servers"][0]["replica"] == "r0"
        assert await one.served_by(LONG) == {"r0"}
        await one.nothing_left()
        await one.until(lambda: not one.house.seating.leaving)
        assert 'replica="r1"' not in (await one.http.get(f"{one.house.admin_url}/metrics")).text


async def test_the_last_replica_that_drains_leaves_clients_with_503_and_not_with_silence() -> None:
    fleet = fleet_config()
    async with serving(fleet), house(fleet, 0) as one:
        await control(one, "POST", "replicas/r0/drain")
        answer = await one.ask("hello")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_replica")
        assert (await one.http.get(f"{one.url}/ready")).status_code == 503


async def test_replicas_follow_a_file_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    fleet = fleet_config(replicas=2)
    path = tmp_path / "replicas.yaml"
    path.write_text("[]")
    async with serving(fleet), house(fleet, 0, discovery={"file": str(path)}) as one:
        entry = f"- {{url: {one.replica_url(1)}, id: r1}}\n"
        path.write_text(entry)
        await one.until(lambda: one.known() == ["r0", "r1"])
        await one.settled()
        assert await one.served_by(LONG) == {"r0", "r1"}
        path.write_text("- {url: nowhere}")
        await one.until(lambda: any("stays as it was" in line for line in one.said))
        assert await one.metric('homing_discovery_up{source="file"}') == 0
        assert one.known() == ["r0", "r1"]
        path.write_text(f"- {{url: {one.replica_url(1)}, id: r1, draining: true}}\n")
        await one.until(lambda: "r1: drains; it is sent nothing new" in one.said)
        assert await one.served_by(LONG) == {"r0"}
        path.write_text("[]")
        await one.until(lambda: one.known() == ["r0"])
        path.write_text(entry)
        await one.until(lambda: one.known() == ["r0", "r1"])
        await one.settled()
        assert await one.served_by(LONG) == {"r0", "r1"}


async def test_who_has_no_token_changes_nothing_and_is_told_why() -> None:
    fleet = fleet_config()
    async with serving(fleet), house(fleet, 0) as one:
        admin = one.house.admin_url
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = await one.http.delete(f"{admin}/homing/replicas/r0", headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        missing = await one.http.post(f"{admin}/homing/replicas/r9/drain", headers=TOKEN)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "no_such_replica")
        wrong = await one.http.post(f"{admin}/homing/replicas", headers=TOKEN, json={"url": "nowhere"})
        assert (wrong.status_code, "write http://HOST:PORT" in wrong.json()["error"]["message"]) == (400, True)
        twice = await one.http.post(
            f"{admin}/homing/replicas", headers=TOKEN, json={"url": one.replica_url(0), "id": "r0"}
        )
        assert (twice.status_code, twice.json()["error"]["code"]) == (409, "replica_exists")
        assert one.known() == ["r0"]
        paths = (await one.http.get(f"{admin}/openapi.json")).json()["paths"]
        assert {"/homing/replicas/{name}/drain", "/homing/servers"} <= set(paths)


async def test_without_a_configured_token_nobody_may_change_the_fleet() -> None:
    fleet = fleet_config()
    async with serving(fleet), house(fleet, 0, auth={}) as one:
        answer = await one.http.delete(f"{one.house.admin_url}/homing/replicas/r0", headers=TOKEN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_admin_token")
        assert one.known() == ["r0"]


async def test_a_replica_that_comes_and_goes_leaves_nothing_behind() -> None:
    fleet = fleet_config(replicas=2)
    async with serving(fleet), house(fleet, 0) as one:
        index, roster = one.house.index, one.house.roster
        await one.served_by(LONG)
        tasks = len(asyncio.all_tasks())
        slots = index.slots.count
        for _ in range(5):
            await control(one, "POST", "replicas", url=one.replica_url(1), id="r1")
            await one.settled()
            assert "r1" in await one.served_by(LONG)
            seat = roster.present()[1]
            assert index.held_blocks(seat) > 0
            await control(one, "DELETE", "replicas/r1")
            await one.until(lambda: not one.house.seating.leaving)
            assert index.held_blocks(seat) == 0
        await one.until(lambda: not index.purge(1000))
        assert index.slots.count <= slots + 2  # a slot is another's only once its purge is complete (R 4.2)
        await one.until(lambda: len(asyncio.all_tasks()) <= tasks)  # its probe, its stream and its proof have ended
        assert one.known() == ["r0"]
        metrics = (await one.http.get(f"{one.house.admin_url}/metrics")).text
        assert 'replica="r1"' not in metrics
        await one.nothing_left()
