"""What nobody's request should pay for: expired leases, purges, trust seen anew, pairs warmed up."""

from __future__ import annotations

import asyncio

from router.clock import Clock
from router.gateway.warming import Warming
from router.house import House

HOUSEKEEPING_SECONDS = 0.2


async def keep_house(house: House, clock: Clock, warming: Warming) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        house.index.recent.expire(clock.now())
        house.index.purge(1000)
        house.seating.sweep()
        house.misses.beat(house.roster.present(), clock.now())
        for seat in house.misses.drifted(house.roster.present()):
            house.proving.restarted(seat)  # its tokens are compared with ours anew
        for seat in house.roster.present():
            house.trust.refresh(seat)
        house.news.beat(clock.now())
        if house.in_force.configuration.policy.splitter is not None:
            warming.beat(clock.now())
