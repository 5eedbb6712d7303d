"""What misses have in common becomes one suspicion, and only while trust is lowered."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.accuracy import Accuracy, Verdict
from router.index.base import Trust
from router.index.causes import Cause
from router.index.suspicion import Miss, Suspicion, suspected

HERE = Seat(0)
BLOCK = 16


def miss(cause: Cause, predicted_blocks: int = 12, reported_blocks: int = 0) -> Miss:
    return Miss(1, predicted_blocks, reported_blocks, missed=True, told=True, cause=cause)


def judging() -> Accuracy:
    accuracy = Accuracy()
    accuracy.join(HERE)
    return accuracy


def judge(
    accuracy: Accuracy, predicted: int, reported: int, cause: Cause = Cause.UNKNOWN, stream: Trust = Trust.EXACT
) -> Verdict:
    verdict = accuracy.judge(
        HERE,
        predicted_tokens=predicted * BLOCK,
        reported_tokens=reported * BLOCK,
        block_size_tokens=BLOCK,
        stream=stream,
    )
    if verdict.miss is not None:
        verdict.miss.cause = cause
        accuracy.settle(HERE, verdict.miss)
    return verdict


def test_the_cause_of_most_misses_is_suspected_and_told_with_their_spans() -> None:
    misses = [miss(Cause.RESTART, 20, 3), *[miss(Cause.TEMPLATE_DRIFT, blocks, 0) for blocks in (12, 14, 13)]]
    found = suspected(misses, 50)
    assert (found.cause, found.misses, found.judged) == (Cause.TEMPLATE_DRIFT, 3, 50)
    assert found.says.startswith("3 of the last 50 judged predicted 12 to 14 blocks and hit 0; ")


def test_two_misses_accuse_nobody_and_the_third_does() -> None:
    accuracy = judging()
    for _ in range(2):
        judge(accuracy, 12, 0, Cause.RESTART)
    assert accuracy.suspicion(HERE) is None
    judge(accuracy, 12, 0, Cause.RESTART)
    found = accuracy.suspicion(HERE)
    assert found == Suspicion(Cause.RESTART, 3, 3, found.says if found else "")


def test_a_cause_that_is_corrected_changes_the_suspicion() -> None:
    accuracy = judging()
    verdicts = [judge(accuracy, 12, 0, Cause.RESTART) for _ in range(3)]
    for verdict in verdicts[1:]:
        assert verdict.miss is not None
        verdict.miss.cause = Cause.SALT
    accuracy.suspect(HERE)
    found = accuracy.suspicion(HERE)
    assert found is not None
    assert found.cause is Cause.SALT


def test_guesses_that_err_accuse_nobody() -> None:
    accuracy = judging()
    for _ in range(10):
        judge(accuracy, 12, 0, Cause.EVICTION_RACE, stream=Trust.GUESSED)
    assert accuracy.suspicion(HERE) is None


def test_a_suspicion_outlives_the_window_and_ends_with_a_clean_hundred() -> None:
    accuracy = judging()
    for _ in range(3):
        judge(accuracy, 12, 0, Cause.EVENT_LOSS)
    for _ in range(99):
        judge(accuracy, 12, 12)
    assert accuracy.suspicion(HERE) is not None
    judge(accuracy, 12, 12)
    assert accuracy.suspicion(HERE) is None


def test_a_restart_ends_it_too_but_the_causes_stay_counted() -> None:
    accuracy = judging()
    for _ in range(3):
        judge(accuracy, 12, 0, Cause.EVENT_LOSS)
    accuracy.restarted(HERE)
    assert accuracy.suspicion(HERE) is None
    assert accuracy.causes(HERE) == {Cause.EVENT_LOSS: 3}


reports = st.lists(
    st.tuples(st.integers(0, 30), st.integers(-6, 6), st.sampled_from(Cause), st.sampled_from(Trust)), max_size=200
)


@settings(deadline=None)
@given(reports)
def test_someone_is_suspected_only_while_truth_trust_is_lowered(
    requests: list[tuple[int, int, Cause, Trust]],
) -> None:
    accuracy = judging()
    for predicted, error, cause, stream in requests:
        judge(accuracy, predicted, max(0, predicted + error), cause, stream)
        if accuracy.suspicion(HERE) is not None:
            assert accuracy.truth(HERE) is not Trust.EXACT


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from((-1, 0, 1))), max_size=300))
def test_exact_traffic_and_errors_of_a_block_never_lower_trust(requests: list[tuple[int, int]]) -> None:
    accuracy = judging()
    for predicted, error in requests:
        # A habit once learned counts as prediction, so only the same side of it stays within a block.
        judge(accuracy, predicted, max(0, predicted + min(error, 0)))
        assert accuracy.truth(HERE) is Trust.EXACT
        assert accuracy.suspicion(HERE) is None


@settings(deadline=None)
@given(reports)
def test_trust_does_not_flap_a_hundred_clean_lie_between_fall_and_rise(
    requests: list[tuple[int, int, Cause, Trust]],
) -> None:
    accuracy = judging()
    clean_in_a_row, before = 0, Trust.EXACT
    for predicted, error, cause, stream in requests:
        verdict = judge(accuracy, predicted, max(0, predicted + error), cause, stream)
        if verdict.judged:
            clean_in_a_row = 0 if verdict.missed else clean_in_a_row + 1
        now = accuracy.truth(HERE)
        if before is not Trust.EXACT and now is Trust.EXACT:
            assert clean_in_a_row >= 100
        before = now


@settings(deadline=None)
@given(reports)
def test_errors_by_bucket_and_causes_add_up_to_what_was_judged(requests: list[tuple[int, int, Cause, Trust]]) -> None:
    accuracy = judging()
    for predicted, error, cause, stream in requests:
        judge(accuracy, predicted, max(0, predicted + error), cause, stream)
    judged, exact = int(accuracy.judged[HERE]), int(accuracy.exact[HERE])
    assert sum(accuracy.errors(HERE)) == judged
    assert sum(accuracy.causes(HERE).values()) == judged - exact
