"""What holds for every test."""

from __future__ import annotations

import asyncio

from hypothesis import settings

# A busy machine is no fault of an example's.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_configure() -> None:
    """Otherwise pytest-asyncio makes a default loop that nobody closes, and an innocent test is blamed for it."""
    asyncio.set_event_loop(None)
