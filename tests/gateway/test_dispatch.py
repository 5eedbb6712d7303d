from __future__ import annotations

import pytest

from router.errors import UpstreamError
from router.fleet.replica import Seat
from router.gateway.dispatch import RETRY_RESERVE, RetryBudget, Verdict, leg_verdict, verdict
from router.gateway.failures import (
    ConnectFailed,
    DiedBeforeBody,
    DiedBeforeResponse,
    Phase,
    ProtocolFault,
    TimedOut,
)
from router.gateway.handoff import Ended


@pytest.mark.parametrize(
    "fault",
    [
        ConnectFailed("refused"),
        DiedBeforeResponse("reset"),
        DiedBeforeBody("reset"),
        ProtocolFault("garbage"),
        TimedOut("no connection", phase=Phase.CONNECT),
    ],
)
def test_what_fails_before_commitment_is_tried_elsewhere_and_counted(fault: UpstreamError) -> None:
    assert verdict(fault) is Verdict.FAILED


@pytest.mark.parametrize(
    "fault", [TimedOut("slow", phase=Phase.FIRST_BODY_BYTE), ProtocolFault("garbage", body_started=True)]
)
def test_what_cannot_be_mended_elsewhere_is_not_tried_elsewhere(fault: UpstreamError) -> None:
    assert verdict(fault) is Verdict.FATAL


@pytest.mark.parametrize(
    "fault", [TimedOut("slow", phase=Phase.NEXT_CHUNK), ProtocolFault("garbage", body_started=True)]
)
def test_no_end_of_a_prefill_leg_is_fatal_for_its_body_was_for_nobody(fault: UpstreamError) -> None:
    assert leg_verdict(Ended(fault, Seat(0), in_prefill=True)) is Verdict.FAILED
    assert leg_verdict(Ended(fault, Seat(1), in_prefill=False)) is Verdict.FATAL


def test_a_tenth_of_requests_may_be_retried_in_the_long_run() -> None:
    budget = RetryBudget()
    while budget.allows():
        budget.spend()
    retried = 0
    for _ in range(1000):
        budget.earn()
        if budget.allows():
            budget.spend()
            retried += 1
    assert 99 <= retried <= 100


def test_the_reserve_does_not_grow_beyond_its_bound() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    assert budget.left == RETRY_RESERVE
