"""What every discovery source is, and the task that follows one. A source that fails is told of and asked again."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from router.discovery.members import Sighting

AGAIN_SECONDS = 5.0


class Source(Protocol):
    """One place that knows replicas. `name` is shown to people and in metrics."""

    @property
    def name(self) -> str: ...

    def sightings(self) -> AsyncGenerator[Sighting, None]:
        """All it sees, now and again after each change, without end.

        What it cannot see for a while it says itself; whoever is told nothing goes on with what was seen last.
        """
        ...

    def lost_since(self) -> float | None:
        """When it lost sight, in seconds of the clock; None while it sees."""
        ...


async def follow(source: Source, seen: Callable[[str, Sighting], None], say: Callable[[str], None]) -> None:
    """Pass on what the source sees. Never ends: a fault of ours is told, and the source begun anew."""
    while True:
        try:
            async with aclosing(source.sightings()) as sightings:
                async for sighting in sightings:
                    seen(source.name, sighting)
        except Exception as bug:  # one source's fault must not end the house
            traceback.print_exc()
            say(f"discovery by {source.name} failed: {bug!r}; again in {AGAIN_SECONDS:.0f} s")
        await asyncio.sleep(AGAIN_SECONDS)
