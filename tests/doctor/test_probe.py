"""What the probe's events and answers come to, with no sockets: batches made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from router.doctor.finding import Status
from router.doctor.hear import Heard
from router.doctor.probe import judge_hit, judge_salt, judge_tokens, placed_plain, placed_salted
from router.doctor.trial import Answered, Trial, gaps
from router.events.kinds import Batch, Stored
from router.prompt.blocks import pack_tokens

SIZE = 4
PROMPT = tuple(range(100, 114))  # three blocks and two tokens
SALT = "pepper"


def words(ids: Sequence[int]) -> str:
    return str(list(ids))


def stored(
    ids: Sequence[int], *, first: int = 0, parent: int | None = None, salt: str | None = None, size: int = SIZE
) -> Stored:
    count = len(ids) // size
    names = tuple(range(first, first + count))
    return Stored(names, parent, pack_tokens(ids[: count * size]), size, salt=salt)


def heard(*events: Stored, sequence: int = 0) -> Heard:
    return Heard("kv", sequence, b"", Batch(0.0, tuple(events)), 0.0)


def usage(cached: int | None, prompt: int | None = len(PROMPT)) -> Answered:
    return Answered(prompt, cached, 200)


def trial(
    *messages: Heard, first: Answered | None = None, second: Answered | None = None, salted: Answered | None = None
) -> Trial:
    tokens = pack_tokens(PROMPT)
    return Trial(
        "m", 0, tokens, "local", SALT, first or usage(0), second or usage(12), salted or usage(0), tuple(messages)
    )


def test_exactly_our_tokens_and_the_predicted_hit_pass() -> None:
    one = trial(heard(stored(PROMPT)))
    placed = placed_plain(one)
    assert judge_tokens("vllm", one, placed, words).status is Status.PASS
    assert judge_hit(one, placed).status is Status.PASS


def test_blocks_that_come_one_by_one_and_after_other_traffic_are_joined_by_their_parents() -> None:
    others = stored(range(500, 540), first=50)
    steps = [
        stored(PROMPT[0:4], first=1),
        stored(PROMPT[4:8], first=2, parent=1),
        stored(PROMPT[8:12], first=3, parent=2),
    ]
    one = trial(heard(others), *(heard(step) for step in steps))
    assert judge_hit(one, placed_plain(one)).status is Status.PASS


def test_a_beginning_that_was_cached_before_is_not_announced_again() -> None:
    one = trial(heard(stored(PROMPT[4:], parent=77, first=1)), first=usage(4))
    placed = placed_plain(one)
    assert placed is not None
    assert placed.complete
    assert judge_hit(one, placed).status is Status.PASS


def test_a_prompt_of_whole_blocks_hits_one_less() -> None:
    tokens = pack_tokens(PROMPT[:12])
    one = Trial("m", 0, tokens, "local", SALT, usage(0), usage(8), usage(0), (heard(stored(PROMPT[:12])),))
    assert judge_hit(one, placed_plain(one)).found == "8 tokens found, exactly as predicted"


def test_another_reading_is_shown_from_the_first_token_that_differs() -> None:
    theirs = (*PROMPT[:1], 7, 8, *PROMPT[1:])
    one = trial(heard(stored(theirs)), first=usage(0, len(theirs)))
    finding = judge_tokens("vllm", one, placed_plain(one), words)
    assert finding.status is Status.FAIL
    assert "at token 1: ours [101, 102, 103, 104], the engine's [7, 8, 101, 102]" in finding.found


def test_another_count_of_tokens_tells_even_without_events() -> None:
    one = trial(first=usage(0, 99))
    finding = judge_tokens("vllm", one, placed_plain(one), words)
    assert finding.status is Status.FAIL
    assert "we read 14 tokens, the engine 99" in finding.found


@pytest.mark.parametrize(
    ("reported", "status"),
    [(12, Status.PASS), (8, Status.WARN), (0, Status.FAIL), (4, Status.FAIL), (None, Status.SKIPPED)],
)
def test_the_hit_is_held_against_the_prediction(reported: int | None, status: Status) -> None:
    one = trial(heard(stored(PROMPT)), second=usage(reported))
    assert judge_hit(one, placed_plain(one)).status is status


def test_without_events_a_hit_is_still_a_hit() -> None:
    assert judge_hit(trial(second=usage(8)), None).status is Status.PASS
    assert judge_hit(trial(second=usage(0)), None).status is Status.FAIL


def test_a_salt_is_seen_apart_hidden_ignored_or_not_at_all() -> None:
    plain, hidden = stored(PROMPT), stored(PROMPT, first=20)
    shown = stored(PROMPT, first=20, salt=SALT)

    def judged(*messages: Heard, salted: Answered | None = None) -> Status:
        one = trial(*messages, salted=salted)
        return judge_salt("vllm", one, placed_plain(one), placed_salted(one)).status

    assert judged(heard(plain), heard(shown)) is Status.PASS
    assert judged(heard(plain), heard(hidden)) is Status.FAIL
    assert judged(heard(plain)) is Status.WARN
    assert judged(heard(plain), salted=usage(12)) is Status.WARN
    assert judged(heard(plain), salted=Answered(fault="status 400")) is Status.SKIPPED
    assert judged() is Status.SKIPPED


def test_gaps_are_found_whatever_the_order() -> None:
    numbers = [heard(sequence=number) for number in (7, 3, 4, 10)]
    assert gaps(numbers) == ((5, 6), (8, 9))
    assert gaps(numbers[:1]) == ()
