"""The configuration is read again while clients are served. From outside, over sockets, with real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.cli import main
from router.fleet.replica import ReplicaId, Seat
from router.gateway.in_force import ReloadOutcome
from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import Stage, homing
from tests.stories.pools import ALWAYS, pools

LONG = "A long story that fills some blocks of the cache, told again and again by one who has time. " * 4
TOKEN = {"authorization": "Bearer let me in"}
POLICY = """
name: ours
description: for a test
scorers: {queue_wait: {}, prefill: {weight: %s}}
picker: lowest_cost
"""
HOLDS = POLICY % 1 + "hold: {ahead_tokens: 1}\n"
WHOLE = {key: value for key, value in ALWAYS.items() if key != "split"}
NEVER = {"watch_seconds": 0}  # but when asked to


@dataclass
class Kept:
    """A stage and its files."""

    stage: Stage
    file: Path
    policy: Path

    def write(self, **settings: Any) -> None:
        """These sections anew, the others as they are."""
        self.file.write_text(json.dumps({**json.loads(self.file.read_text()), **settings}))

    async def reload(self, outcome: ReloadOutcome) -> dict[str, Any]:
        answer = await self.stage.http.post(f"{self.stage.house.admin_url}/homing/reload", headers=TOKEN)
        told: dict[str, Any] = answer.json()
        assert told["outcome"] == outcome.value, told
        assert await self.stage.metric(f'homing_reloads_total{{outcome="{outcome.value}"}}') >= 1
        return told

    async def in_force(self) -> dict[str, Any]:
        told: dict[str, Any] = (await self.stage.http.get(f"{self.stage.house.admin_url}/homing/config")).json()
        return told


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "let me in")


@asynccontextmanager
async def kept(path: Path, replicas: int = 1, policy: str = POLICY % 1, **settings: Any) -> AsyncIterator[Kept]:
    """A Homing from a file with a policy of its own, which it reads again when asked to."""
    fleet, file = fleet_config(replicas=replicas), path / "policy.yaml"
    file.write_text(policy)
    auth = {"admin_token_env": "ADMIN_TOKEN"}
    told = {"policy": str(file), "auth": auth, "reload": NEVER, **settings}
    async with serving(fleet), homing(fleet, file=path / "homing.yaml", **told) as one:
        yield Kept(one, path / "homing.yaml", file)


async def test_a_broken_policy_is_refused_with_every_fault_named_and_the_old_one_serves(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        before = await it.in_force()
        it.policy.write_text("name: ours\nscorers: {queue_weight: {}, prefill: {weight: -1}}\npicker: cheapest\n")
        it.write(limits={"queue_lenght": 5}, probe={"interval_seconds": 0})
        told = await it.reload(ReloadOutcome.REFUSED)
        faults = "\n".join(told["faults"])
        for file, key in (
            (it.file, "limits.queue_lenght"),
            (it.file, "probe.interval_seconds"),
            (it.policy, "description"),
            (it.policy, "scorers.queue_weight"),
            (it.policy, "scorers.prefill.weight"),
            (it.policy, "picker"),
        ):
            assert f"{file}: {key}: " in faults
        assert len(told["faults"]) == 6
        after = await it.in_force()
        assert (after["hash"], after["since_wall_seconds"]) == (before["hash"], before["since_wall_seconds"])
        assert await it.stage.metric("homing_config_last_reload_successful ") == 0
        assert any("REFUSED" in line and "queue_weight" in line for line in it.stage.said)
        assert (await it.stage.ask()).status_code == 200
        it.policy.write_text(POLICY % 2)
        it.write(limits={"queue_length": 5}, probe={"interval_seconds": 0.1})
        told = await it.reload(ReloadOutcome.APPLIED)
        assert {"policy", "limits.queue_length", "probe.interval_seconds"} <= set(told["changed"])
        assert told["hash"] == (await it.in_force())["hash"] != before["hash"]
        assert await it.stage.metric("homing_config_last_reload_successful ") == 1
        await it.reload(ReloadOutcome.UNCHANGED)


async def test_a_new_policy_decides_the_next_request_and_finds_what_was_learned(tmp_path: Path) -> None:
    async with kept(tmp_path, replicas=2) as it:
        one = it.stage
        assert (await one.ask(LONG)).status_code == 200
        blocks = one.house.index.block_count
        it.write(policy="round_robin")
        assert (await it.reload(ReloadOutcome.APPLIED))["changed"] == ["policy"]
        assert await one.served_by(LONG) == {"r0", "r1"}
        it.write(policy="longest_match", shadow_policy="round_robin")
        assert (await it.reload(ReloadOutcome.APPLIED))["changed"] == ["policy", "shadow_policy"]
        answer = await one.ask(LONG)
        assert int(answer.headers["x-homing-predicted-cached-tokens"]) > 0  # the index is the one it was
        assert one.house.index.block_count >= blocks
        assert await one.metric("homing_shadow_decisions_total{") == 1
        assert await one.metric('homing_decision_seconds_count{policy="longest_match"}') == 1


async def test_a_stream_under_way_ends_whole_and_its_replica_leaves_when_it_has(tmp_path: Path) -> None:
    async with kept(tmp_path, replicas=2, policy=POLICY % 1) as it:
        one = it.stage
        it.write(policy="round_robin")
        await it.reload(ReloadOutcome.APPLIED)
        for number in range(2):
            await one.order(number, slow=30.0)
        under_way = [asyncio.create_task(one.ask(LONG, stream=True, max_tokens=60)) for _ in range(2)]
        await one.until(lambda: len(one.house.ledger) == 2)
        replicas = json.loads(it.file.read_text())["replicas"]
        it.write(replicas=replicas[1:], policy="least_loaded", timeouts={"idle_seconds": 33.0})
        told = await it.reload(ReloadOutcome.APPLIED)
        assert told["changed"] == ["replicas", "policy", "timeouts.idle_seconds"]
        assert one.known() == ["r1"]
        assert len(one.house.ledger) == 2, "leases close as they were opened"
        assert one.house.seating.open_requests(ReplicaId("r0")) == 1
        it.write(replicas=[replicas[1], replicas[0]])
        await it.reload(ReloadOutcome.APPLIED)
        assert sorted(one.known()) == ["r0", "r1"]
        for number in range(2):
            await one.order(number, slow=1.0)
        for answer in await asyncio.gather(*under_way):
            assert answer.status_code == 200
            assert answer.content.endswith(b"data: [DONE]\n\n")
        await one.nothing_left()


async def test_who_waits_here_for_room_goes_on_waiting_and_goes_when_the_new_policy_lets_it(tmp_path: Path) -> None:
    async with kept(tmp_path, policy=HOLDS) as it:
        one = it.stage
        await one.order(0, through=0, hang=True)
        first = asyncio.ensure_future(one.ask("the first", stream=True))
        await one.until(lambda: len(one.house.ledger) == 1)
        waiting = [asyncio.ensure_future(one.ask(f"{n}", stream=True)) for n in range(3)]
        await one.until(lambda: one.house.holding.waiting == 3)
        it.policy.write_text(HOLDS.replace("ahead_tokens: 1", "ahead_tokens: 2"))
        await it.reload(ReloadOutcome.APPLIED)
        assert (one.house.holding.waiting, len(one.house.ledger)) == (3, 1)
        it.policy.write_text(POLICY % 1)
        await it.reload(ReloadOutcome.APPLIED)
        await one.until(lambda: one.house.holding.waiting == 0)
        assert len(one.house.ledger) == 4, "each is with the replica now"
        it.policy.write_text(HOLDS)
        await it.reload(ReloadOutcome.APPLIED)
        late = asyncio.ensure_future(one.ask("late"))
        await one.until(lambda: one.house.holding.waiting == 1)
        await one.order(0, through=0, hang=False)
        for hung in (first, *waiting):
            hung.cancel()
        assert (await late).status_code == 200
        await one.nothing_left()


async def test_a_higher_limit_lets_in_who_waits_at_the_door(tmp_path: Path) -> None:
    async with kept(tmp_path, limits={"max_in_flight": 1, "drain_seconds": 1.0}) as it:
        one = it.stage
        await one.order(0, through=0, hang=True)
        asking = [asyncio.ensure_future(one.ask("hello")) for _ in range(3)]
        await one.until(lambda: one.house.admission.waiting == 2)
        it.write(limits={"max_in_flight": 3, "drain_seconds": 1.0})
        await it.reload(ReloadOutcome.APPLIED)
        await one.until(lambda: len(one.house.ledger) == 3)
        for hung in asking:
            hung.cancel()
        await one.nothing_left()


async def test_a_key_of_a_client_comes_and_goes_on_every_route(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    auth = {"admin_token_env": "ADMIN_TOKEN", "api_keys_file": str(keys)}
    async with kept(tmp_path, auth=auth) as it:
        one = it.stage

        async def admitted(key: str) -> set[int]:
            bearer = {"authorization": f"Bearer {key}"}
            models = await one.http.get(f"{one.url}/v1/models", headers=bearer)
            return {(await one.ask(headers=bearer)).status_code, models.status_code}

        assert (await admitted("old"), await admitted("new")) == ({200}, {401})
        keys.write_text("new\n")
        assert (await it.reload(ReloadOutcome.APPLIED))["changed"] == ["auth.api_keys_file"]
        assert (await admitted("old"), await admitted("new")) == ({401}, {200})
        keys.unlink()
        assert "auth.api_keys_file" in (await it.reload(ReloadOutcome.REFUSED))["faults"][0]
        assert await admitted("new") == {200}


async def test_a_change_that_needs_a_restart_is_named_and_what_stands_beside_it_waits_too(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        it.write(
            listen={"host": "127.0.0.1", "port": 0, "admin_port": 0, "admin_host": "127.0.0.2"},
            tokens={"tokenizer": "auto", "hash_seed": 7},
            limits={"queue_length": 5},
        )
        told = await it.reload(ReloadOutcome.NEEDS_RESTART)
        assert told["needs_restart"] == ["listen.admin_host", "tokens.tokenizer", "tokens.hash_seed"]
        assert "limits.queue_length" in told["changed"]
        assert it.stage.house.in_force.config.limits.queue_length != 5
        assert any("listen.admin_host" in line and "restart" in line for line in it.stage.said)


async def test_the_command_tells_what_became_of_it_and_fails_where_nothing_was_changed(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        admin = it.stage.house.admin_url

        async def homing_reload(*more: str) -> tuple[int, str]:
            words = ["reload", "--admin", admin, "--token-env", "ADMIN_TOKEN", *more]
            told = await asyncio.to_thread(CliRunner().invoke, main, words)
            return told.exit_code, told.output

        it.write(policy="round_robin")
        code, said = await homing_reload()
        assert code == 0
        assert said.startswith("applied; in force: ")
        assert "changed: policy" in said
        it.write(policy="cash_aware")
        code, said = await homing_reload()
        assert code == 1
        assert "Did you mean 'cache_aware'?" in said
        it.write(policy="round_robin", seed=4)
        code, said = await homing_reload()
        assert code == 1
        assert "needs a restart, so nothing was changed: seed" in said
        code, said = await homing_reload("--show")
        assert code == 0
        assert json.loads(said)["last_reload"]["needs_restart"] == ["seed"]
        code, said = await homing_reload("--token-env", "NOWHERE")
        assert code == 1
        assert "admin token" in said


async def test_a_policy_that_splits_comes_and_goes(tmp_path: Path) -> None:
    text = "tell me of the sea and of ships, " * 20
    reload = {"watch_seconds": 0}
    async with pools(("prefill", "both"), tmp_path, warm=False, reload=reload, policy=WHOLE) as one:
        file = tmp_path / "policy.yaml"
        assert "x-homing-prefill-replica" not in (await one.ask(text)).headers
        file.write_text(json.dumps(ALWAYS))
        one.house.in_force.asked.set()
        await one.until(lambda: one.house.in_force.configuration.policy.splitter is not None)
        await one.until(lambda: one.house.pairs.is_open(Seat(0), Seat(1)))  # introduced, now that somebody splits
        answer = await one.ask(f"{text} again", stream=True)
        assert answer.headers["x-homing-prefill-replica"] == "p0"
        file.write_text(json.dumps(WHOLE))
        one.house.in_force.asked.set()
        await one.until(lambda: one.house.in_force.configuration.policy.splitter is None)
        assert "x-homing-prefill-replica" not in (await one.ask(f"{text} once more")).headers
        await one.nothing_left()


async def test_nobody_reloads_without_the_token(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        it.write(policy="round_robin")
        answer = await it.stage.http.post(f"{it.stage.house.admin_url}/homing/reload")
        assert answer.status_code == 401
        assert (await it.in_force())["last_reload"] is None


async def test_a_config_map_that_is_swapped_by_its_link_is_seen(tmp_path: Path) -> None:
    """As the kubelet does it: `homing.yaml` is a link through `..data`, which is replaced as a whole."""
    fleet, mount = fleet_config(), tmp_path / "mount"
    first, second = mount / "..one", mount / "..two"
    for version, weight in ((first, 1), (second, 2)):
        version.mkdir(parents=True)
        (version / "policy.yaml").write_text(POLICY % weight)
    (mount / "..data").symlink_to(first.name)
    (mount / "policy.yaml").symlink_to("..data/policy.yaml")
    settings: dict[str, Any] = {"policy": str(mount / "policy.yaml"), "reload": {"watch_seconds": 0.05}}
    async with serving(fleet), homing(fleet, file=tmp_path / "homing.yaml", **settings) as one:
        before = one.house.in_force.hash
        (mount / "..new").symlink_to(second.name)
        (mount / "..new").rename(mount / "..data")
        await one.until(lambda: one.house.in_force.hash != before)
        assert await one.metric('homing_reloads_total{outcome="applied"}') == 1
        (mount / "..data").unlink()  # a file that is gone for good is told of once
        await one.until(lambda: any("REFUSED" in line for line in one.said))
        (mount / "..data").symlink_to(second.name)
        await one.until(lambda: one.house.in_force.last is not None and one.house.in_force.last.is_good)
        assert (await one.ask()).status_code == 200
