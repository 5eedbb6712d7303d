"""Session keys and the table of where sessions live (R 6.1)."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.fleet.sessions import Sessions, session_key


def key(
    headers: Mapping[str, str] | None = None,
    *,
    cache_key: str | None = None,
    user: str | None = None,
    opening: bytes | None = None,
    model: str = "m",
) -> str | None:
    return session_key((headers or {}).get, model=model, prompt_cache_key=cache_key, user=user, opening=opening)


def test_the_sources_count_in_the_order_of_the_rule() -> None:
    everything = {"x-dynamo-session-id": "d", "x-session-id": "s", "x-session-affinity": "a"}
    assert key(everything, cache_key="k", user="u", opening=b"o") == key({"x-session-affinity": "a"})
    assert key({"x-dynamo-session-id": "d"}, cache_key="k", user="u") == key({"x-dynamo-session-id": "d"})
    assert key(cache_key="k", user="u", opening=b"o") == key(cache_key="k")
    assert key(user="u", opening=b"o") == key(user="u")
    assert key(opening=b"o") is not None
    assert key() is None


def test_empty_values_do_not_count() -> None:
    assert key({"x-session-id": ""}, cache_key="", user="u") == key(user="u")


def test_equal_values_from_different_places_or_for_different_models_are_different_sessions() -> None:
    keys = {key({"x-session-id": "v"}), key(cache_key="v"), key(user="v"), key(user="v", model="other")}
    assert len(keys) == 4


def test_a_long_value_is_kept_as_its_digest() -> None:
    long, longer = key(user="u" * 10_000), key(user="u" * 10_001)
    assert long is not None
    assert len(long) < 100
    assert long != longer


def test_configured_headers_replace_the_default_ones() -> None:
    headers = {"x-session-id": "s", "x-team": "t"}
    made = session_key(headers.get, model="m", prompt_cache_key=None, user=None, opening=None, header_names=("x-team",))
    assert made == "m|x-team|t"


def test_a_bound_session_is_found_until_it_was_idle_for_too_long() -> None:
    sessions = Sessions(idle_seconds=3600)
    sessions.bind("s", Seat(2), 0.0)
    assert sessions.get("s", 3600.0) == Seat(2)
    assert sessions.get("s", 3600.1) is None
    assert sessions.get("t", 0.0) is None


def test_asking_does_not_keep_a_session_alive_but_serving_it_does() -> None:
    sessions = Sessions(idle_seconds=10)
    sessions.bind("s", Seat(2), 0.0)
    sessions.get("s", 9.0)
    assert sessions.get("s", 11.0) is None
    sessions.bind("s", Seat(2), 11.0)
    assert sessions.get("s", 20.0) == Seat(2)


def test_a_session_moves_with_its_last_request() -> None:
    sessions = Sessions()
    sessions.bind("s", Seat(2), 0.0)
    sessions.bind("s", Seat(3), 1.0)
    assert sessions.get("s", 1.0) == Seat(3)
    assert len(sessions) == 1


def test_forgetting_a_seat_frees_its_sessions_alone_and_it_can_be_bound_again() -> None:
    sessions = Sessions()
    sessions.bind("s", Seat(2), 0.0)
    sessions.bind("t", Seat(3), 0.0)
    sessions.forget(Seat(2))
    assert sessions.get("s", 0.0) is None
    assert sessions.get("t", 0.0) == Seat(3)
    sessions.bind("s", Seat(2), 1.0)
    assert sessions.get("s", 1.0) == Seat(2)


def test_a_full_table_drops_the_session_served_longest_ago() -> None:
    sessions = Sessions(capacity=2)
    sessions.bind("a", Seat(0), 0.0)
    sessions.bind("b", Seat(1), 1.0)
    sessions.bind("a", Seat(0), 2.0)
    sessions.bind("c", Seat(2), 3.0)
    assert [sessions.get(name, 3.0) for name in "abc"] == [Seat(0), None, Seat(2)]


def test_idle_sessions_leave_as_new_ones_come() -> None:
    sessions = Sessions(idle_seconds=10)
    for number in range(100):
        sessions.bind(f"old {number}", Seat(0), 0.0)
    for number in range(40):
        sessions.bind(f"new {number}", Seat(0), 20.0)
    assert len(sessions) == 40


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans()), max_size=100))
def test_the_table_answers_as_an_unbounded_one_would_while_it_fits(steps: list[tuple[int, int, bool]]) -> None:
    sessions, plain = Sessions(capacity=31), dict[str, Seat]()
    for now, (name, seat, forget) in enumerate(steps):
        if forget:
            sessions.forget(Seat(seat))
            plain = {held: at for held, at in plain.items() if at != seat}
        else:
            sessions.bind(str(name), Seat(seat), now)
            plain[str(name)] = Seat(seat)
        assert {held: sessions.get(held, now) for held in plain} == plain
        assert len(sessions) <= 31
