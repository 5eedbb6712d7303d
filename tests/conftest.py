"""What holds for every test."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    """Otherwise pytest-asyncio makes a default loop that nobody closes, and an innocent test is blamed for it."""
    asyncio.set_event_loop(None)
