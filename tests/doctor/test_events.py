"""The event stream, judged with no sockets."""

from __future__ import annotations

from router.doctor.ask import Ending, Silence
from router.doctor.events import judge_events, judge_numbering, judge_ports, judge_publisher, judge_replay, judge_topic
from router.doctor.finding import Status
from router.doctor.hear import Heard, Replayed
from router.doctor.layout import Published
from router.fleet.replica import EventAddress

ADDRESS = EventAddress("tcp://a:5557", "tcp://a:5558", "kv")
EMPTY = Replayed((), ended=True, answers=1)


def heard(*numbers: int, topic: str | None = "kv@pod") -> tuple[Heard, ...]:
    return tuple(Heard(topic, number, b"", None, 0.0) for number in numbers)


def test_a_publisher_of_another_kind_or_on_its_own_machine_is_named() -> None:
    assert '"publisher":"zmq"' in (judge_publisher("vllm", (Published(publisher="null", endpoint="x"),)).mend or "")
    assert "own machine only" in judge_publisher("vllm", (Published(endpoint="ipc:///tmp/kv"),)).found
    untold = judge_publisher("sglang", (Published(endpoint="tcp://10.0.0.1:1", binds=None),))
    assert untold.status is Status.PASS


def test_what_is_configured_by_hand_wins_over_silence_but_not_over_events_that_are_off() -> None:
    assert judge_events("vllm", None, ADDRESS, configured=True).found == "tcp://a:5557, as configured"
    assert judge_events("vllm", (), ADDRESS, configured=True).status is Status.FAIL
    assert "SGLang with --kv-events-config" in (judge_events("sglang", (), None, configured=False).mend or "")


def test_one_shut_port_of_several_ranks_is_named_by_its_rank() -> None:
    shut = ("tcp://a:5558", Silence(Ending.REFUSED))
    finding = judge_ports({0: ("tcp://a:5557", None), 1: shut})
    assert finding.status is Status.FAIL
    assert "tcp://a:5558 of rank 1" in finding.found
    assert "all 2 ranks" in judge_ports({0: ("tcp://a:5557", None), 1: ("tcp://a:5558", None)}).found
    assert judge_ports({}).status is Status.SKIPPED


def test_a_topic_is_a_prefix() -> None:
    assert judge_topic(ADDRESS, heard(1)).status is Status.PASS
    assert judge_topic(ADDRESS, heard(1, topic="events")).status is Status.FAIL
    assert judge_topic(ADDRESS, heard(1, topic=None)).status is Status.SKIPPED


def test_missing_numbers_are_told_and_a_rolled_buffer_is_no_fault() -> None:
    assert judge_numbering(heard(4), None).status is Status.SKIPPED
    lost = judge_numbering(heard(4, 7, 9), None)
    assert lost.status is Status.FAIL
    assert "3 batches are missing (5 to 6, and more)" in lost.found
    rolled = judge_numbering(heard(120, 121), 100)
    assert rolled.status is Status.PASS
    assert "rolled" in rolled.found


def test_a_replay_in_an_unknown_framing_or_of_another_engine_is_named() -> None:
    strange = judge_replay("vllm", ADDRESS, None, Replayed((), ended=False, answers=3), None, None, None)
    assert "framing" in strange.found
    other = judge_replay("vllm", ADDRESS, None, EMPTY, Replayed(heard(1, 2), ended=True, answers=3), 9, None)
    assert "does not have batch 9" in other.found
    shut = judge_replay("vllm", ADDRESS, Silence(Ending.REFUSED), None, None, None, None)
    assert "replay port" in (shut.mend or "")
    assert judge_replay("vllm", ADDRESS, None, EMPTY, Replayed(heard(9), ended=True, answers=2), 9, 10_000).found == (
        "tcp://a:5558 answers, keeps 10000 batches"
    )
