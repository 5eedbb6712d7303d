from __future__ import annotations

from router.fleet.restarts import SAME_RESTART_SECONDS, Restarts


def test_a_restart_of_which_two_tell_is_news_once() -> None:
    restarts = Restarts()
    assert [restarts.news("stream", 0.0), restarts.news("probe", 5.0)] == [True, False]
    assert [restarts.news("probe", 60.0), restarts.news("stream", 61.0)] == [True, False]


def test_two_restarts_in_a_row_are_two_whoever_tells() -> None:
    restarts = Restarts()
    assert [restarts.news("stream", 0.0), restarts.news("stream", 1.0)] == [True, True]
    assert [restarts.news("probe", 2.0), restarts.news("probe", 3.0)] == [False, True]


def test_what_comes_much_later_is_another_restart() -> None:
    restarts = Restarts()
    assert restarts.news("stream", 0.0)
    assert restarts.news("probe", SAME_RESTART_SECONDS)


def test_an_engine_that_was_down_for_minutes_restarted_once() -> None:
    restarts = Restarts()
    assert restarts.news("stream", 0.0)
    restarts.answers_again(130.0)
    assert not restarts.news("probe", 135.0)
    assert restarts.news("probe", 136.0)
