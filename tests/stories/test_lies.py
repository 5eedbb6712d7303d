"""Replicas that lie: each lie is found out within 50 judged requests and named, and honest ones are never accused.

The control can be made longer: HOMING_CONTROL_REQUESTS=2000.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from router.doctor.finding import Status
from router.doctor.homing import judge_homing
from router.index.base import Trust
from router.index.causes import Cause
from router.index.suspicion import Suspicion
from router.sim.engine import EngineLimits
from tests.stories.houses import Stage, stage

SYSTEM = "You are a careful librarian who knows where every book of the house stands, and who answers briefly. " * 3
WORDS = ("river", "stone", "winter", "lamp", "quiet", "paper", "harbour", "engine", "letter", "garden", "morning")
PREAMBLE = "Today is another day than yesterday. "
TALKS = 8
MOST_MESSAGES = 14
WITHIN_JUDGED = 50
CONTROL_REQUESTS = int(os.environ.get("HOMING_CONTROL_REQUESTS", "200"))


@dataclass
class Talks:
    """Growing conversations with one beginning, a turn of each in turn: so the news of a turn is there at the next."""

    one: Stage
    salts: tuple[str | None, ...] = (None,)  # of the tenants, who say the same
    chance: Random = field(default_factory=lambda: Random(3))
    begun: int = 0
    turns: int = 0
    open: list[list[dict[str, str]]] = field(default_factory=list)

    async def go_on(self, turns: int) -> None:
        for _ in range(turns):
            await self.turn()

    async def turn(self) -> None:
        """One more turn of the next conversation, by every tenant."""
        if len(self.open) < TALKS:
            self.open.append(self._fresh())
        at = self.turns % len(self.open)
        self.turns += 1
        messages = self.open[at]
        for salt in self.salts:
            fields: dict[str, Any] = {} if salt is None else {"cache_salt": salt}
            answer = await self.one.ask(messages=messages, **fields)
            assert answer.status_code == 200, answer.text
        said = answer.json()["choices"][0]["message"]["content"]
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": self._words()}]
        if len(messages) > MOST_MESSAGES:
            self.open[at] = self._fresh()

    def _fresh(self) -> list[dict[str, str]]:
        self.begun += 1
        beginning = f"Conversation {self.begun}: {self._words()}"
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": beginning}]

    def _words(self) -> str:
        return " ".join(self.chance.choice(WORDS) for _ in range(20))


def judged(one: Stage) -> int:
    return int(one.house.accuracy.judged[0])


def trust(one: Stage) -> Trust:
    return one.house.trust.of(one.house.roster.present()[0])


def suspicion(one: Stage) -> Suspicion | None:
    return one.house.misses.suspicion(one.house.roster.present()[0])


async def replica(one: Stage) -> Mapping[str, Any]:
    """Its entry in GET /homing/replicas."""
    answer = await one.http.get(f"{one.house.admin_url}/homing/replicas")
    entry: Mapping[str, Any] = next(iter(_entries(answer.json())))
    return entry


def _entries(told: Any) -> list[Mapping[str, Any]]:
    return told if isinstance(told, list) else told["replicas"]


async def found_out(one: Stage, talks: Talks, cause: Cause) -> None:
    """The lie has begun: trust falls within 50 judged requests, and the cause is named everywhere."""
    before = judged(one)
    while trust(one) is Trust.EXACT:
        await talks.turn()
        assert judged(one) - before <= WITHIN_JUDGED, (await replica(one))["missed"]
    await one.until(lambda: (found := suspicion(one)) is not None and found.cause is cause)
    entry = await replica(one)
    assert entry["trust"] != "EXACT"
    assert entry["suspicion"]["cause"] == cause.value
    told = f"{cause.value}: {entry['suspicion']['says'][-20:]}"
    await one.until(lambda: any("trust EXACT ->" in line and f": {cause.value}: " in line for line in one.said))
    assert await one.metric(f'homing_suspicion{{cause="{cause.value}",replica="r0"}}') == 1, told
    finding = judge_homing("vllm", entry["url"], [entry], one.house.admin_url)
    assert finding.status is Status.FAIL, finding
    assert cause.value.replace("_", " ") in finding.found, finding
    assert finding.mend, finding


async def trusted_again(one: Stage, talks: Talks, most_turns: int) -> None:
    for _ in range(most_turns):
        await talks.turn()
        if trust(one) is Trust.EXACT:
            break
    assert trust(one) is Trust.EXACT, await replica(one)
    assert suspicion(one) is None


async def restarted_right(one: Stage, talks: Talks) -> None:
    """The lying engine makes room for an honest one, which is noticed as soon as it speaks."""
    one.said.clear()
    await one.order(0, clear=True, restart_silent=True)
    before = talks.turns
    while not any("forgotten (restart)" in line for line in one.said):
        await talks.turn()
        assert talks.turns - before < 50
    await one.settled()


async def test_honest_replicas_are_never_accused() -> None:
    async with stage(2) as one:
        talks = Talks(one, salts=(None, "tenant-a"))
        await talks.go_on(CONTROL_REQUESTS // 2)
        house = one.house
        assert sum(house.accuracy.judged) >= 0.9 * CONTROL_REQUESTS
        for seat in house.roster.present():
            assert house.trust.of(seat) is Trust.EXACT
            assert house.misses.suspicion(seat) is None
        assert not [line for line in one.said if "trust EXACT ->" in line]
        assert sum(house.accuracy.exact) >= 0.97 * sum(house.accuracy.judged)
        await one.nothing_left()


async def test_a_wrong_block_size_is_found_out() -> None:
    wide = EngineLimits(block_count=257, block_size_tokens=32, max_model_tokens=1024)
    async with stage(1, fleet={"limits": wide}) as one:
        await one.order(0, announce_block_size=16)
        await one.until(lambda: one.house.roster.facts(one.house.roster.present()[0]).block_size_tokens == 16)
        await one.settled()
        talks = Talks(one)
        await found_out(one, talks, Cause.BLOCK_SIZE)
        await restarted_right(one, talks)
        await trusted_again(one, talks, 10)


async def test_another_chat_template_is_found_out_and_the_engine_asked_for_tokens() -> None:
    async with stage(1) as one:
        talks = Talks(one)
        await talks.go_on(24)
        await one.order(0, template_preamble=PREAMBLE)
        await found_out(one, talks, Cause.TEMPLATE_DRIFT)
        await one.until(lambda: one.house.readers.source("tiny") == "engine")
        await trusted_again(one, talks, 130)


@pytest.mark.parametrize(
    ("fleet", "lie"),
    [({}, {"lose_events_ratio": 0.3}), ({"replays": False}, {"drop_events_ratio": 0.3})],
    ids=["unseen", "seen"],
)
async def test_events_dropped_without_replay_are_found_out(fleet: dict[str, Any], lie: dict[str, Any]) -> None:
    async with stage(1, fleet=fleet, settle=False) as one:
        await one.until(lambda: one.house.readers.source("tiny") == "local")
        talks = Talks(one)
        await talks.go_on(24)
        assert trust(one) is Trust.EXACT
        await one.order(0, **lie)
        await found_out(one, talks, Cause.EVENT_LOSS)


async def test_a_publisher_that_falls_silent_is_found_out_and_heard_again_after_a_restart() -> None:
    async with stage(1) as one:
        talks = Talks(one)
        await talks.go_on(24)
        await one.order(0, lose_events_ratio=1.0)
        await found_out(one, talks, Cause.EVENT_LOSS)
        await restarted_right(one, talks)
        await trusted_again(one, talks, 10)


async def test_another_engine_behind_the_same_address_is_found_out_and_trusted_after_a_clean_hundred() -> None:
    async with stage(1) as one:
        talks = Talks(one)
        await talks.go_on(24)
        await one.order(0, other_engine=True)
        before = judged(one)
        await found_out(one, talks, Cause.RESTART)
        await trusted_again(one, talks, 130)
        assert judged(one) - before >= 100


async def test_caches_kept_apart_by_salts_that_events_do_not_tell_are_found_out() -> None:
    async with stage(1) as one:
        await one.order(0, hide_salts=True)
        talks = Talks(one, salts=("tenant-a", "tenant-b", None))
        await found_out(one, talks, Cause.SALT)
        await restarted_right(one, talks)
        await trusted_again(one, talks, 10)


async def test_a_request_that_missed_says_why_in_its_receipt() -> None:
    async with stage(1) as one:
        talks = Talks(one)
        await talks.go_on(16)
        await one.order(0, other_engine=True)
        await talks.turn()
        await asyncio.sleep(0)
        receipt = one.house.receipts.latest(1)[0]
        verdict = receipt.as_json()["verdict"]
        assert isinstance(verdict, dict)
        assert verdict["cause"] == "restart"
        assert not verdict["exact"]


async def test_where_answers_tell_nothing_the_engines_counters_do() -> None:
    async with stage(1, fleet={"reports_cached": False}) as one:
        talks = Talks(one)
        accuracy = one.house.accuracy
        await talks.go_on(16)
        while accuracy.weighed(one.house.roster.present()[0]) < 3:
            await talks.turn()
        assert judged(one) == 0
        assert trust(one) is Trust.EXACT
        await one.order(0, template_preamble=PREAMBLE)
        while trust(one) is Trust.EXACT:
            await talks.turn()
            assert talks.turns < 400
        found = suspicion(one)
        assert found is not None
        assert found.cause is Cause.UNREPORTED
