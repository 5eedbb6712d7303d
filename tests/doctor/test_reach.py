from __future__ import annotations

from email.utils import formatdate

import pytest

from router.doctor.ask import Answer, Ending, Silence
from router.doctor.finding import Check, Status
from router.doctor.reach import (
    judge_clock,
    judge_connection,
    judge_engine,
    judge_health,
    judge_models,
    judge_one_process,
    judge_version,
)
from router.fleet.replica import Facts, ServedModel

NOW = 1_800_000_000.25


def answer(status: int = 200, *, ahead_seconds: float | None = None) -> Answer:
    date = None if ahead_seconds is None else formatdate(int(NOW + ahead_seconds), usegmt=True)
    return Answer(status, b"", date, NOW, 0.01)


@pytest.mark.parametrize("ending", list(Ending))
def test_each_way_of_not_being_reached_has_its_own_words_and_remedy(ending: Ending) -> None:
    finding = judge_connection(Silence(ending, "host:1"), {})
    assert (finding.check, finding.status) == (Check.REACHABLE, Status.FAIL)
    assert ending.value in finding.found
    assert finding.mend


def test_a_port_that_opens_and_never_answers_is_no_reachable_replica() -> None:
    assert judge_connection(("10.0.0.1",), {"/metrics": Silence(Ending.HUNG)}).status is Status.FAIL
    assert judge_connection(("10.0.0.1",), {"/a": Silence(Ending.HUNG), "/b": answer(404)}).status is Status.PASS


def test_health_fails_by_status_but_not_for_a_release_without_the_path() -> None:
    assert judge_health("/health", answer()) is None
    assert judge_health("/ready", answer(404)) is None
    sick = judge_health("/health", answer(503))
    assert sick is not None
    assert "503" in sick.found


def test_an_unknown_engine_is_told_what_is_known() -> None:
    assert judge_engine("sglang", ["vllm"]).found == "SGLang"
    assert "vLLM or SGLang" in judge_engine(None, ["vllm", "sglang"]).found


@pytest.mark.parametrize(
    ("engine", "version", "status"),
    [
        ("vllm", "0.32.0", Status.PASS),
        ("vllm", "0.16.2", Status.PASS),
        ("vllm", "0.32.1+cpu", Status.PASS),
        ("vllm", "0.15.9", Status.WARN),
        ("vllm", "0.33.0", Status.WARN),
        ("vllm", "1.0", Status.WARN),
        ("vllm", "dev", Status.WARN),
        ("vllm", None, Status.WARN),
        ("sglang", "0.5.23", Status.PASS),
        ("sglang", "0.5.24", Status.WARN),
        ("sglang", "0.5.4", Status.WARN),
    ],
)
def test_a_version_passes_within_what_was_tried(engine: str, version: str | None, status: Status) -> None:
    assert judge_version(engine, version).status is status


def test_models_are_told_with_length_and_adapters() -> None:
    told = judge_models([ServedModel("m", "m", max_model_len=4096), ServedModel("x", "m", adapter="x")]).found
    assert told == "m, up to 4096 tokens; LoRA: x"
    assert judge_models([]).status is Status.FAIL


def test_one_process_is_told_by_start_version_and_model() -> None:
    first = Facts(process_start_time=1.0, version="0.32.0")
    assert judge_one_process([first, first, Facts()]).status is Status.PASS
    for other in (
        Facts(process_start_time=2.0),
        Facts(version="0.31.0"),
    ):
        assert judge_one_process([first, other]).status is Status.FAIL
    assert judge_one_process([Facts(), Facts()]).status is Status.PASS


@pytest.mark.parametrize(("ahead_seconds", "status"), [(0, Status.PASS), (2, Status.PASS), (9, Status.WARN)])
def test_the_clock_is_read_from_the_date_header(ahead_seconds: float, status: Status) -> None:
    for sign in (1, -1):
        assert judge_clock({"/a": answer(ahead_seconds=sign * ahead_seconds)}, []).status is status


def test_event_batches_tell_the_time_more_finely_and_delay_is_no_skew() -> None:
    told = {"/a": answer(ahead_seconds=60)}
    assert judge_clock(told, [-30.0, -0.01]).status is Status.PASS
    late = judge_clock(told, [-7.5])
    assert late.status is Status.WARN
    assert "7.5 s behind" in late.found
    assert judge_clock({"/a": answer()}, []).status is Status.PASS
