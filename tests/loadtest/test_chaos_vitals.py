"""When a router's memory is said to be flat."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.chaos.vitals import Breath, memories

MEGABYTE = 2**20


def life(resident: Callable[[float], float], books: Callable[[float], float], seconds: int = 600) -> list[Breath]:
    """Looked at each 2 s; `resident` and `books` in megabytes by second."""
    return [Breath(at, 0, 1, int(resident(at) * MEGABYTE), int(books(at) * MEGABYTE)) for at in range(0, seconds, 2)]


def test_what_grows_only_while_it_warms_up_is_flat() -> None:
    (one,) = memories(life(lambda at: 100 + min(at, 150) / 3, lambda at: 0))
    assert one.is_flat
    assert one.last_bytes == 150 * MEGABYTE


def test_a_leak_is_not_flat() -> None:
    (one,) = memories(life(lambda at: 100 + at / 20, lambda at: 0))
    assert not one.is_flat


def test_books_that_fill_up_to_bounds_of_their_own_are_no_leak() -> None:
    (one,) = memories(life(lambda at: 100 + at / 20, lambda at: at / 20))
    assert one.is_flat
    assert one.resident_bytes > 129 * MEGABYTE


def test_each_life_of_a_router_is_looked_at_alone_and_a_short_one_not_at_all() -> None:
    long, short = life(lambda at: 100, lambda at: 0), life(lambda at: 500, lambda at: 0, seconds=100)
    both = [*long, *(Breath(600 + one.at_seconds, 0, 2, one.resident_bytes, 0) for one in short)]
    (one,) = memories(both)
    assert one.life == 1
