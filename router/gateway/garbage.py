"""Keeps Python's cyclic garbage collector from stopping the event loop.

A full collection walks every tracked object, and this process keeps many that live long (receipts, tokenizers): a pause
of tens of milliseconds that serves nobody, since nearly everything here is freed by its reference count. So the oldest
generation is not collected by itself; what has lived for a while is set aside where no collection looks (`freeze`), and
once in a long while all is looked at, lest cycles among it stay for ever.
"""

from __future__ import annotations

import asyncio
import gc

YOUNG_OBJECTS = 20_000  # net allocations before the young are looked at: about 5 ms at most
YOUNG_ROUNDS = 20
NEVER = 1_000_000
YOUNG_GENERATIONS = 1  # the youngest two: what came since the last time
SET_ASIDE_SECONDS = 20.0
ROUNDS_TO_FULL = 180  # an hour


async def keep_out_of_the_way() -> None:
    """For as long as it runs; on the way out the collector is as it was."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)
    rounds = 0
    try:
        while True:
            if rounds % ROUNDS_TO_FULL == 0:
                gc.unfreeze()
                gc.collect()
            gc.collect(YOUNG_GENERATIONS)  # else rings among the young would be set aside, too, and stay for an hour
            gc.freeze()
            await asyncio.sleep(SET_ASIDE_SECONDS)
            rounds += 1
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
