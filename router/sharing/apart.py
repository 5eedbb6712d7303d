"""Work that may fail and be begun again, without losing the news that all is to end (an edge)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def apart(work: Coroutine[None, None, None]) -> None:
    """Await `work` in a task of its own, which ends with us.

    A task group whose child fails just as its parent is cancelled tells of the failure alone (CPython 3.11): whoever
    goes on after a failure would never hear that it is to end. Here the cancellation meets nothing but a wait.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # however it ends: nobody asks any more
    task.result()
