from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.prompt.lru import ENTRY_BYTES, Lru


def test_the_entry_used_longest_ago_goes_first() -> None:
    lru: Lru[str, int] = Lru(2 * (ENTRY_BYTES + 10))
    lru.put("a", 1, 10)
    lru.put("b", 2, 10)
    assert lru.get("a") == 1
    lru.put("c", 3, 10)
    assert (lru.get("a"), lru.get("b"), lru.get("c")) == (1, None, 3)


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    lru: Lru[str, int] = Lru(ENTRY_BYTES)
    lru.put("a", 1, 1)
    assert lru.get("a") is None
    assert len(lru) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=40))
def test_the_budget_is_never_exceeded_and_a_get_returns_the_last_put(puts: list[tuple[int, int]]) -> None:
    lru: Lru[int, int] = Lru(5000)
    last: dict[int, int] = {}
    for number, (key, weight) in enumerate(puts):
        lru.put(key, number, weight)
        last[key] = number
        assert 0 <= lru.used_bytes <= 5000
        assert lru.get(key) == number
        assert all(lru.get(other) in (None, value) for other, value in last.items())
