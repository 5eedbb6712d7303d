"""An event loop that is there before pytest-asyncio looks for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def owned_event_loop() -> Iterator[None]:
    """pytest-asyncio asks for the current loop to put it back later, which makes one that nobody closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
