from __future__ import annotations

from router.events.silence import ENOUGH, Silence
from router.fleet.replica import Seat

SEAT, OTHER = Seat(0), Seat(1)


def finish(silence: Silence, count: int) -> None:
    for _ in range(count):
        silence.finished(SEAT, silence.batches(SEAT))


def test_requests_that_must_have_stored_blocks_and_no_batch_at_two_looks_are_a_silent_publisher() -> None:
    silence = Silence()
    finish(silence, ENOUGH)
    assert [silence.look(SEAT), silence.look(SEAT)] == [False, True]
    assert not silence.look(OTHER)
    assert (silence.is_silent(SEAT), silence.is_silent(OTHER)) == (True, False)
    silence.heard(SEAT)
    assert not silence.is_silent(SEAT)


def test_one_batch_between_two_looks_is_enough_to_be_heard() -> None:
    silence = Silence()
    finish(silence, ENOUGH)
    assert not silence.look(SEAT)
    silence.heard(SEAT)
    finish(silence, ENOUGH)
    assert not silence.look(SEAT)
    assert silence.look(SEAT)


def test_a_few_requests_prove_nothing() -> None:
    silence = Silence()
    finish(silence, ENOUGH - 1)
    assert not any(silence.look(SEAT) for _ in range(5))


def test_answers_that_end_after_the_batch_that_told_of_their_blocks_prove_nothing() -> None:
    silence = Silence()
    before = silence.batches(SEAT)
    silence.heard(SEAT)
    for _ in range(10 * ENOUGH):
        silence.finished(SEAT, before)
    assert not any(silence.look(SEAT) for _ in range(5))
