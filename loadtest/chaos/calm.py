"""After the storm: everybody is found well again, and predictions are exact again. Edge."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from loadtest.chaos.fleet import MODEL, Fleet, Router
from loadtest.chaos.load import PATH
from router.sim.caller import Caller, CallFailed

TURN_SECONDS = 0.05  # the events of a turn take a moment
AGAIN_SECONDS = 2.0
STORIES = 4
WELL_SECONDS = 90.0
ROUNDS = 6
EXACT_SHARE, JUDGED_SHARE = 0.99, 0.9


@dataclass(frozen=True, slots=True)
class Calm:
    """One round of requests to one router, one after another, as its receipts judge them."""

    router: int
    asked: int
    answered: int
    judged: int
    exact: int

    @property
    def is_right(self) -> bool:
        enough = self.judged >= JUDGED_SHARE * self.asked and self.exact >= EXACT_SHARE * self.judged
        return self.answered == self.asked and enough


async def well_again(fleet: Fleet) -> dict[str, str]:
    """Whom a router still holds for ill, or knows less than exactly, after WELL_SECONDS of light traffic."""
    loop = asyncio.get_running_loop()
    until = loop.time() + WELL_SECONDS
    turn = 0
    while True:
        found = {}
        for number, router in enumerate(fleet.routers):
            replicas = await router.replicas()
            if len(replicas) < len(fleet.replicas):
                found[f"router {number}"] = f"tells of {len(replicas)} replicas"
            for one in replicas:
                state = f"{one['health']}, {one['trust']} {one['trust_causes']}"
                if (one["health"], one["trust"]) != ("closed", "EXACT"):
                    found[f"router {number}, {one['replica']}"] = state
            await asyncio.gather(*(_ask(router, f"well {turn} {i}") for i in range(2 * len(fleet.replicas))))
        turn += 1
        if not found or loop.time() > until:
            return found
        await asyncio.sleep(AGAIN_SECONDS / 10)


async def predictions(fleet: Fleet, asked: int) -> list[Calm]:
    """For each router its last round: the first that was right, or the last there was time for."""
    found = []
    for number, router in enumerate(fleet.routers):
        for one in range(ROUNDS):
            calm = await _round(router, number, asked, one)
            if calm.is_right:
                break
            await asyncio.sleep(AGAIN_SECONDS)
        found.append(calm)
    return found


async def _round(router: Router, number: int, asked: int, one: int) -> Calm:
    answered = 0
    for turn in range(asked):
        told = "and it was told again and again " * (turn // STORIES % 30 + 3)
        answered += await _ask(router, f"calm {number} {one} {turn % STORIES} {told}")
        await asyncio.sleep(TURN_SECONDS)
    page = await router.asked(f"/homing/requests?limit={asked}")
    receipts = [] if page is None else msgspec.json.decode(page)["requests"]
    verdicts = [receipt["verdict"] for receipt in receipts if receipt["verdict"] is not None]
    judged = [verdict for verdict in verdicts if verdict["judged"]]
    return Calm(number, asked, answered, len(judged), sum(verdict["exact"] for verdict in judged))


async def _ask(router: Router, text: str) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    caller = Caller(router.url)
    try:
        return (await caller.post(PATH, msgspec.json.encode(body))).status == 200
    except CallFailed:
        return False
    finally:
        caller.close()
