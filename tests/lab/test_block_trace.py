"""Recorded prompts and their answers, as they are played again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from router.lab.block_trace import BlockTrace, trace_rows
from router.lab.token_ids import FIRST_ANSWER_TOKEN
from router.sim.virtual import Arrival


def line(
    at: int, ids: list[int], tokens: int = 150, answer: int = 9, session: str | None = "s", took: int | None = None
) -> dict[str, Any]:
    asked = {"timestamp": at, "input_length": tokens, "output_length": answer, "hash_ids": ids, "block_size": 64}
    return {**asked, "session_id": session, "duration": took}


def trace(path: Path, *lines: dict[str, Any], speed: float = 1.0) -> BlockTrace:
    file = path / "traffic.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return BlockTrace(trace_rows(file), speed)


def arrivals(path: Path, *lines: dict[str, Any]) -> list[Arrival]:
    return list(trace(path, *lines).begin())


def test_a_session_thinks_as_long_as_it_did_after_an_answer_that_comes_when_it_comes(tmp_path: Path) -> None:
    turns = (line(0, [1], took=2000), line(5000, [1, 2], took=1000), line(9000, [1, 2, 3]))
    for speed, think in ((1.0, 3.0), (2.0, 1.5)):
        played = trace(tmp_path, *turns, speed=speed)
        (first,) = played.begin()
        (second,) = played.after(first, now=10.0)
        assert second.at_seconds == 10.0 + think
        (third,) = played.after(second, now=20.0)
        assert third.at_seconds == 20.0 + think
        assert played.after(third, now=30.0) == []


def test_calls_made_at_once_wait_for_the_same_answer_and_the_next_for_the_last_of_theirs(tmp_path: Path) -> None:
    played = trace(
        tmp_path,
        line(0, [1], took=1000),
        line(2000, [1, 2], took=1000),
        line(2000, [1, 3], took=4000),
        line(7000, [1, 4]),
    )
    (first,) = played.begin()
    short, long = played.after(first, now=1.0)
    assert (short.at_seconds, long.at_seconds) == (2.0, 2.0)
    assert played.after(short, now=3.0) == []
    (last,) = played.after(long, now=9.0)
    assert last.at_seconds == 10.0


def test_an_answer_may_come_before_all_arrivals_were_asked_for(tmp_path: Path) -> None:
    played = trace(tmp_path, line(0, [1], took=1000), line(5000, [2], session=None), line(9000, [1, 2]))
    first = next(played.begin())
    assert len(played.after(first, now=1.0)) == 1


def test_what_came_before_an_answer_or_after_none_comes_at_its_recorded_time(tmp_path: Path) -> None:
    came = arrivals(tmp_path, line(0, [1], took=9000), line(5000, [2]), line(7000, [3], session="other"))
    assert [one.at_seconds for one in came] == [0.0, 5.0, 7.0]


def test_a_part_of_a_recording_begins_with_whatever_comes_first(tmp_path: Path) -> None:
    whole = trace(tmp_path, line(0, [1], took=1000), line(5000, [2], took=1000), line(9000, [3]))
    second, third = whole.rows[1:]
    played = BlockTrace((second, third), speed=1.0)
    assert [one.at_seconds for one in played.begin()] == [0.0]


def test_an_answer_is_what_the_next_prompt_has_in_its_place(tmp_path: Path) -> None:
    first, second, third = arrivals(
        tmp_path,
        line(0, [1, 2], 150, 100),
        line(1000, [1, 2, 3, 4], 300, 50),
        line(2000, [1, 2, 3, 4, 5, 6], 400, 9),
    )
    for turn, following in ((first, second), (second, third)):
        whole = [*turn.prompt, *turn.answer]
        assert whole == following.prompt[: len(whole)].tolist()
    assert (len(first.answer), len(second.answer), len(third.answer)) == (100, 50, 9)
    assert min(third.answer) >= FIRST_ANSWER_TOKEN
    assert {one.session for one in (first, second, third)} == {"s"}


def test_an_answer_that_the_next_prompt_has_no_room_for_was_not_kept(tmp_path: Path) -> None:
    first, _ = arrivals(tmp_path, line(0, [1, 2], 150, 100), line(1000, [1, 2, 3], 240, 9))
    assert min(first.answer) >= FIRST_ANSWER_TOKEN


def test_other_sessions_and_other_beginnings_tell_no_answer(tmp_path: Path) -> None:
    for following in (line(1000, [1, 2, 3, 4], 300, 9, "other"), line(1000, [1, 7, 3, 4], 300, 9)):
        first, *_ = arrivals(tmp_path, line(0, [1, 2], 150, 100), following, line(2000, [9], 70, 9, "other"))
        assert min(first.answer) >= FIRST_ANSWER_TOKEN


def test_a_session_that_goes_back_and_forth_finds_its_own_next_turn(tmp_path: Path) -> None:
    first, _, third = arrivals(
        tmp_path, line(0, [1, 2], 150, 100), line(500, [8, 9], 150, 100), line(1000, [1, 2, 3, 4], 300, 9)
    )
    assert third.prompt[150:250].tolist() == list(first.answer)


def test_requests_without_a_session_are_told_apart_by_their_ids_alone(tmp_path: Path) -> None:
    first, second = arrivals(tmp_path, line(0, [1], 150, 5, None), line(9, [1, 2], 150, 5, None))
    assert first.prompt[:64] == second.prompt[:64]
    assert first.prompt[64] != second.prompt[64]
    assert first.session is None
