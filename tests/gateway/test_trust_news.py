"""A change of trust is one line, and a fall says why."""

from __future__ import annotations

from router.fleet.replica import Seat
from router.gateway.trust_news import TELL_AFTER_SECONDS, TrustNews
from router.index.base import Trust
from router.index.causes import Cause
from router.index.suspicion import Suspicion

HERE = Seat(0)


def test_a_fall_is_told_when_its_cause_is_sure_and_a_rise_at_once() -> None:
    said: list[str] = []
    found: list[Suspicion] = []
    news = TrustNews(lambda seat: f"r{seat}", lambda _seat: found[-1] if found else None, said.append)
    news.changed(HERE, Trust.EXACT, Trust.GUESSED, 10.0)
    news.beat(10.0)
    assert said == []
    found.append(Suspicion(Cause.RESTART, 3, 50, "3 of the last 50"))
    news.beat(10.0 + TELL_AFTER_SECONDS)
    assert said == ["r0: trust EXACT -> GUESSED: restart: 3 of the last 50"]
    news.changed(HERE, Trust.GUESSED, Trust.EXACT, 20.0)
    assert said[1:] == ["r0: trust GUESSED -> EXACT"]


def test_what_happened_first_is_told_first() -> None:
    said: list[str] = []
    news = TrustNews(lambda seat: f"r{seat}", lambda _seat: None, said.append)
    news.changed(HERE, Trust.EXACT, Trust.CATCHING_UP, 0.0)
    news.changed(HERE, Trust.CATCHING_UP, Trust.EXACT, 0.1)
    assert said == ["r0: trust EXACT -> CATCHING_UP", "r0: trust CATCHING_UP -> EXACT"]


def test_a_story_that_begins_is_no_news() -> None:
    said: list[str] = []
    news = TrustNews(lambda seat: f"r{seat}", lambda _seat: None, said.append)
    news.changed(HERE, Trust.GUESSED, Trust.LOAD_ONLY, 0.0)
    news.beat(float("inf"))
    assert said == []
