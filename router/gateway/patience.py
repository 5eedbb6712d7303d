"""A time limit that a stall of our own does not spend.

Where the event loop was held up past a limit (a starved machine), its timers fire first, and what the other side sent
long ago has yet to be looked at: without a second look every wait under way would end as that side's silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# For what has come to be looked at. Some turns of the loop, and nothing beside the limits we set.
SECOND_LOOK_SECONDS = 0.05


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout(seconds)`, but that what has come by then counts. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, lambda: limit.reschedule(loop.time() + SECOND_LOOK_SECONDS))
        try:
            yield
        finally:
            timer.cancel()
