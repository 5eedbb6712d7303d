"""Who is judged, what is learned from it, and how trust falls and rises (R 5.1, 5.2)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.accuracy import Accuracy, Unjudged, Verdict
from router.index.base import Trust

A, B = Seat(0), Seat(1)
BLOCK = 16


def accuracy() -> Accuracy:
    made = Accuracy()
    made.join(A)
    made.join(B)
    return made


def judge(
    judging: Accuracy,
    predicted: int | None,
    reported: int | None,
    *,
    stream: Trust = Trust.EXACT,
    block_size: int | None = BLOCK,
    prompts: int = 1,
    choices: int = 1,
    prompt_logprobs: bool = False,
    sibling: bool = False,
    times: int = 1,
) -> Verdict:
    """In blocks."""
    for _ in range(times):
        verdict = judging.judge(
            A,
            predicted_tokens=None if predicted is None else predicted * BLOCK,
            reported_tokens=None if reported is None else reported * BLOCK,
            block_size_tokens=block_size,
            stream=stream,
            prompts=prompts,
            choices=choices,
            prompt_logprobs=prompt_logprobs,
            sibling_in_flight=sibling,
        )
    return verdict


def trust(judging: Accuracy, seat: Seat = A) -> Trust:
    return Trust(judging.trust(np.array([seat])).item())


def test_a_report_that_equals_the_prediction_is_exact() -> None:
    verdict = judge(accuracy(), 10, 10)
    assert verdict == Verdict(None, 160, 160, 0, False)
    assert verdict.judged
    assert verdict.exact


@pytest.mark.parametrize(
    ("predicted", "reported", "missed"), [(10, 9, False), (10, 8, True), (0, 1, False), (0, 2, True)]
)
def test_an_error_of_more_than_a_block_is_a_miss(predicted: int, reported: int, missed: bool) -> None:
    verdict = judge(accuracy(), predicted, reported)
    assert verdict.error_blocks == reported - predicted
    assert verdict.missed == missed
    assert not verdict.exact


def test_part_of_a_block_is_an_error_too() -> None:
    verdict = accuracy().judge(A, predicted_tokens=160, reported_tokens=155, block_size_tokens=16, stream=Trust.EXACT)
    assert verdict.error_blocks == -1


def test_what_cannot_judge_is_counted_by_cause_and_touches_nothing_else() -> None:
    judging = accuracy()
    verdicts = [
        judge(judging, 10, 0, prompts=2),
        judge(judging, 10, 0, choices=3),
        judge(judging, None, 0),
        judge(judging, 10, 0, block_size=None),
        judge(judging, 10, 0, stream=Trust.LOAD_ONLY),
        judge(judging, 10, None),
        judge(judging, 10, 0, sibling=True),
    ]
    assert [verdict.cause for verdict in verdicts] == [
        Unjudged.SEVERAL_PROMPTS,
        Unjudged.SEVERAL_CHOICES,
        Unjudged.NOT_PREDICTED,
        Unjudged.NOT_PREDICTED,
        Unjudged.NOT_PREDICTED,
        Unjudged.NO_REPORT,
        Unjudged.SIBLING_IN_FLIGHT,
    ]
    assert not any(verdict.judged or verdict.exact for verdict in verdicts)
    assert {cause: column[A].item() for cause, column in judging.unjudged.items()} == {
        Unjudged.SEVERAL_PROMPTS: 1,
        Unjudged.SEVERAL_CHOICES: 1,
        Unjudged.NOT_PREDICTED: 3,
        Unjudged.NO_REPORT: 1,
        Unjudged.SIBLING_IN_FLIGHT: 1,
    }
    assert judging.judged[A] == 0
    assert trust(judging) is Trust.EXACT


def test_a_prompt_with_logprobs_is_predicted_to_hit_nothing() -> None:
    assert judge(accuracy(), 10, 0, prompt_logprobs=True).exact


def test_totals_and_signed_errors_are_kept_by_seat() -> None:
    judging = accuracy()
    judge(judging, 10, 10)
    judge(judging, 10, 12)
    judge(judging, 10, 7)
    assert judging.judged.tolist()[:2] == [3, 0]
    assert judging.exact.tolist()[:2] == [1, 0]
    assert judging.error_blocks.tolist()[:2] == [-1, 0]


@pytest.mark.parametrize("habit", [-1, 1])
def test_a_constant_error_of_one_block_is_learned_as_the_engines_habit(habit: int) -> None:
    judging = accuracy()
    assert not judge(judging, 10, 10 + habit, times=19).exact
    assert judging.habit_blocks(A) == 0
    judge(judging, 10, 10 + habit)
    assert judging.habit_blocks(A) == habit
    assert judge(judging, 10, 10 + habit).exact
    assert judging.habit_blocks(B) == 0


def test_a_habit_never_predicts_less_than_nothing_and_a_cold_prompt_has_none() -> None:
    judging = accuracy()
    judge(judging, 10, 9, times=30)
    assert judge(judging, 1, 0).exact
    assert judge(judging, 0, 0).exact


def test_a_habit_is_unlearned_as_it_was_learned() -> None:
    judging = accuracy()
    judge(judging, 10, 9, times=30)
    judge(judging, 10, 10, times=50)
    assert judging.habit_blocks(A) == 0
    assert judge(judging, 10, 10).exact


def test_errors_that_vary_or_are_not_whole_blocks_are_no_habit() -> None:
    judging = accuracy()
    for turn in range(60):
        judge(judging, 10, 9 + turn % 2)
    assert judging.habit_blocks(A) == 0
    other = accuracy()
    for _ in range(60):
        other.judge(A, predicted_tokens=160, reported_tokens=155, block_size_tokens=16, stream=Trust.EXACT)
    assert other.habit_blocks(A) == 0


def test_a_third_miss_within_fifty_lowers_trust_in_that_replica_alone() -> None:
    judging = accuracy()
    judge(judging, 10, 0, times=2)
    judge(judging, 10, 10, times=47)
    assert trust(judging) is Trust.EXACT
    judge(judging, 10, 0)
    assert trust(judging) is Trust.GUESSED
    assert trust(judging, B) is Trust.EXACT


def test_five_per_cent_of_misses_in_all_is_borne() -> None:
    judging = accuracy()
    for _ in range(20):
        judge(judging, 10, 0)
        judge(judging, 10, 10, times=24)
    assert trust(judging) is Trust.EXACT


def test_errors_of_one_block_never_lower_trust() -> None:
    judging = accuracy()
    for turn in range(200):
        judge(judging, 10, 9 + 2 * (turn % 2))
    assert trust(judging) is Trust.EXACT


def test_a_hundred_clean_in_a_row_raise_it_again() -> None:
    judging = accuracy()
    judge(judging, 10, 0, times=3)
    judge(judging, 10, 10, times=99)
    judge(judging, 10, 0)
    judge(judging, 10, 10, times=99)
    assert trust(judging) is Trust.GUESSED
    judge(judging, 10, 10)
    assert trust(judging) is Trust.EXACT


def test_a_replica_that_confirms_nothing_is_routed_by_load_until_it_does_again() -> None:
    judging = accuracy()
    judge(judging, 10, 0, times=30)
    assert trust(judging) is Trust.LOAD_ONLY
    judge(judging, 10, 10, times=30)
    assert trust(judging) is Trust.GUESSED
    judge(judging, 10, 10, times=70)
    assert trust(judging) is Trust.EXACT


def test_guesses_that_are_mostly_right_are_never_thrown_away() -> None:
    judging = accuracy()
    for _ in range(100):
        judge(judging, 10, 2, stream=Trust.GUESSED)
        judge(judging, 10, 10, times=2, stream=Trust.GUESSED)
    assert trust(judging) is Trust.GUESSED
    assert judging.belief(np.array([A])).item() == pytest.approx(0.73, abs=0.05)


def test_while_catching_up_more_than_predicted_is_no_miss_but_less_is() -> None:
    judging = accuracy()
    verdict = judge(judging, 2, 40, stream=Trust.CATCHING_UP, times=50)
    assert not verdict.missed
    assert not verdict.exact
    assert trust(judging) is Trust.EXACT
    assert judge(judging, 40, 2, stream=Trust.CATCHING_UP).missed


def test_while_catching_up_no_habit_is_learned() -> None:
    judging = accuracy()
    judge(judging, 10, 11, stream=Trust.CATCHING_UP, times=50)
    assert judging.habit_blocks(A) == 0


def test_a_restart_forgets_habit_and_lies_but_not_the_totals() -> None:
    judging = accuracy()
    judge(judging, 10, 9, times=30)
    judge(judging, 10, 0, times=3)
    judging.restarted(A)
    assert judging.habit_blocks(A) == 0
    assert trust(judging) is Trust.EXACT
    assert judging.judged[A] == 33


def test_a_returning_seat_keeps_what_is_known_of_it() -> None:
    judging = accuracy()
    judge(judging, 10, 0, times=3)
    judging.join(Seat(100))
    judging.join(A)
    assert trust(judging) is Trust.GUESSED
    assert trust(judging, Seat(100)) is Trust.EXACT


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(Trust)), max_size=150))
def test_every_request_is_counted_once_and_a_clean_hundred_always_redeems(
    reports: list[tuple[int, int, Trust]],
) -> None:
    judging = accuracy()
    for predicted, reported, stream in reports:
        judge(judging, predicted, reported, stream=stream)
    unjudged = sum(column[A].item() for column in judging.unjudged.values())
    assert judging.judged[A] + unjudged == len(reports)
    assert 0 <= judging.belief(np.array([A])).item() <= 1
    judge(judging, 10, 10, times=100)
    assert trust(judging) is Trust.EXACT
