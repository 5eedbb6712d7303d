"""The collector stays out of the way, and yet no ring among the young is set aside with what lives."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from router.gateway.garbage import SET_ASIDE_SECONDS, keep_out_of_the_way


class Ring:
    """Holds itself, as an error and the frames it passed through do."""

    def __init__(self) -> None:
        self.own = self


@pytest.mark.looptime
async def test_rings_that_were_let_go_are_freed_before_the_rest_is_set_aside() -> None:
    keeping = asyncio.ensure_future(keep_out_of_the_way())
    await asyncio.sleep(1.0)
    gc.disable()  # at a quiet hour nothing else calls the collector
    try:
        ring, aside = weakref.ref(Ring()), gc.get_freeze_count()
        await asyncio.sleep(SET_ASIDE_SECONDS)
        assert ring() is None
        assert gc.get_freeze_count() > aside
    finally:
        gc.enable()
        keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert gc.get_freeze_count() == 0
