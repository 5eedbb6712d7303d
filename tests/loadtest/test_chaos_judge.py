"""The judge of chaos: what R 2 allows passes, and everything else is a fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.chaos.judge import (
    GRACE_SECONDS,
    RETRIES_RESERVED,
    SHUNNED_SECONDS,
    Attempt,
    End,
    Finding,
    Seen,
    Shunned,
    Window,
    judge,
    wrongly,
)
from loadtest.chaos.load import read
from loadtest.chaos.schedule import Ask, Rubbish
from loadtest.chaos.troubles import SORTS
from router.sim.caller import Reply

ASK = Ask(100.0, 0, "hello", 4, streamed=True, hangs_up_after_seconds=None, rubbish=None)
REFUSED_CONNECTION = "no connection to http://r: [Errno 111] Connect call failed"
SILENT = "http://r sent no body byte within 10 s of the request"
IN_THE_MIDDLE = "The replica failed in the middle of the answer: the connection to http://r broke inside the body"
NO_REPLICA = {"end": End.REFUSED, "status": 503, "code": "no_replica", "retry_after": True}


def window(
    name: str, replica: int | None = None, router: int | None = None, begin: float = 99, end: float = 102
) -> Window:
    sort = next(sort for sort in SORTS if sort.name == name)
    return Window(sort, replica, router, begin, end)


def request(*attempts: tuple[str, str], **seen: object) -> Seen:
    """One to router 0 that failed, sent at 100 s and ended at 101 s."""
    tried = tuple(Attempt(*one) for one in attempts)
    plain = Seen(ASK, 100.0, 101.0, End.REFUSED, status=502, message="it failed", request_id="x", attempts=tried)
    return replace(plain, **seen)  # type: ignore[arg-type] # a test names its own fields


def judged(seen: Seen, *windows: Window) -> Finding:
    found = judge(seen, windows, replicas=3)
    assert found is not None
    return found


@pytest.mark.parametrize("end", [End.ANSWERED, End.HUNG_UP, End.TOLD_OFF])
def test_what_did_not_fail_is_not_judged(end: End) -> None:
    assert judge(request(end=end), [], replicas=3) is None


def test_a_request_without_an_end_is_always_a_fault() -> None:
    assert judged(request(end=End.STUCK), window("replica killed", 0)).fault


def test_a_client_may_be_cut_off_only_by_a_router_that_was_killed_or_ended() -> None:
    cut = request(end=End.CUT)
    assert judged(cut, window("router killed", router=0)).fault is None
    assert judged(cut, window("router ended", router=0)).fault is None
    assert judged(cut, window("router killed", router=1)).fault
    assert judged(cut, window("router paused", router=0)).fault
    assert judged(cut, window("router killed", router=0, begin=102, end=103)).fault


def test_two_attempts_may_fail_at_two_replicas_that_were_ill() -> None:
    both = request(("r0", REFUSED_CONNECTION), ("r1", "status 503"))
    assert judged(both, window("replica killed", 0), window("503s", 1)).fault is None


def test_an_attempt_may_fail_only_at_a_replica_that_was_ill_in_that_way_for_that_router() -> None:
    both = request(("r0", REFUSED_CONNECTION), ("r1", "status 503"))
    assert judged(both, window("503s", 1)).fault
    assert judged(both, window("replica killed", 0), window("replica killed", 1)).fault
    assert judged(both, window("wires refuse", 0, 1), window("503s", 1)).fault
    assert judged(both, window("wires refuse", 0, 0), window("503s", 1)).fault is None
    assert judged(both, window("replica slow", 0), window("503s", 1)).fault
    assert judged(request(("r0", "a word nobody knows")), window("replica killed", 0)).fault


def test_a_failure_before_commitment_that_was_not_retried_is_a_fault_while_another_replica_was_well() -> None:
    once = request(("r0", REFUSED_CONNECTION))
    killed = window("replica killed", 0)
    assert judged(once, killed).fault
    everybody = window("no wire carries", begin=100 - GRACE_SECONDS, end=100 - GRACE_SECONDS + 1)
    assert judged(once, killed, everybody).fault is None
    assert judged(replace(once, retries_before=RETRIES_RESERVED), killed).fault is None


def test_no_replica_may_be_said_only_while_none_was_well_and_with_a_time_to_come_back() -> None:
    refused = request(**NO_REPLICA)
    assert judged(refused).fault
    assert judged(refused, window("no wire carries")).fault is None
    assert judged(replace(refused, retry_after=False), window("no wire carries")).fault


def test_silence_before_the_first_byte_is_allowed_from_a_replica_that_was_made_silent() -> None:
    silent = request(("r0", SILENT), status=504)
    assert judged(silent, window("replica hung", 0)).fault is None
    assert judged(silent, window("replica killed", 0)).fault


def test_a_death_after_commitment_is_not_retried() -> None:
    killed = window("replica killed", 0)
    assert judged(request(("r0", IN_THE_MIDDLE), end=End.BROKEN, status=200), killed).fault is None
    assert judged(request(("r0", IN_THE_MIDDLE), status=502), killed).fault is None
    assert judged(request(("r0", IN_THE_MIDDLE), status=500), killed).fault


def test_a_refusal_before_any_replica_was_asked_is_a_fault() -> None:
    assert judged(request(status=429, code="overloaded", retry_after=True), window("429s", 0)).fault


def test_without_a_receipt_only_a_router_that_went_is_excused() -> None:
    unexplained = request(attempts=None)
    assert judged(unexplained, window("replica killed", 0)).fault
    assert judged(unexplained, window("router killed", router=0)).fault is None


def test_a_replica_may_be_held_for_ill_only_while_or_shortly_after_something_was_done_to_it() -> None:
    struck = [window("replica killed", 0), window("wires lose", 1, 0), window("replica slow", 2)]
    soon = [Shunned(110.0, 0, 0), Shunned(110.0, 1, 0), Shunned(110.0, 0, 1)]
    wrong = [Shunned(110.0, 1, 1), Shunned(110.0, 0, 2), Shunned(103.0 + SHUNNED_SECONDS, 0, 0)]
    assert wrongly([*soon, *wrong], struck) == wrong


STREAM = {b"content-type": b"text/event-stream", b"x-homing-request-id": b"x"}
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ERROR = b'data: {"error":{"message":"gone","type":"upstream_error","code":"upstream_died"}}\n\n'


@pytest.mark.parametrize(
    ("status", "body", "end"),
    [
        (200, TOKEN + b"data: [DONE]\n\n", End.ANSWERED),
        (200, TOKEN + ERROR, End.BROKEN),
        (200, TOKEN, End.MUTE),
        (200, TOKEN + ERROR + b"data: [DONE]\n\n", End.MUTE),
        (200, b"", End.MUTE),
        (503, b'{"error":{"message":"none","type":"t","param":null,"code":"no_replica"}}', End.REFUSED),
        (503, b"<html>", End.MUTE),
        (404, b'{"error":{"message":"none","type":"t","param":null,"code":null}}', End.REFUSED),
    ],
)
def test_a_reply_is_read_for_what_it_is(status: int, body: bytes, end: End) -> None:
    assert read(Seen(ASK, 0.0, 0.0, End.STUCK), Reply(status, STREAM, b""), body).end is end


def test_rubbish_is_told_off_by_the_status_it_deserves() -> None:
    seen = Seen(replace(ASK, rubbish=Rubbish.UNKNOWN_MODEL), 0.0, 0.0, End.STUCK)
    error = b'{"error":{"message":"none","type":"t","param":null,"code":null}}'
    assert read(seen, Reply(404, {}, b""), error).end is End.TOLD_OFF
    assert read(seen, Reply(400, {}, b""), error).end is End.REFUSED


def test_an_answer_that_is_no_stream_must_be_whole_and_asked_for() -> None:
    plain = Seen(replace(ASK, streamed=False), 0.0, 0.0, End.STUCK)
    whole = b'{"choices":[{"finish_reason":"length"}]}'
    assert read(plain, Reply(200, {}, b""), whole).end is End.ANSWERED
    assert read(plain, Reply(200, {}, b""), whole[:-3]).end is End.MUTE
    assert read(Seen(ASK, 0.0, 0.0, End.STUCK), Reply(200, {}, b""), whole).end is End.MUTE
