"""Leases: charged in two phases, released exactly once."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.fleet.ledger import LeaseId, Ledger
from router.fleet.replica import Seat


def opened(
    ledger: Ledger,
    seat: int = 0,
    *,
    uncached: int = 100,
    prompt: int = 150,
    output: int = 50,
    streamed: bool = True,
    now: float = 0.0,
    ends_at: float = 1.0,
) -> LeaseId:
    return ledger.open(
        Seat(seat),
        uncached_tokens=uncached,
        prompt_tokens=prompt,
        output_tokens_estimate=output,
        streamed=streamed,
        now_seconds=now,
        prefill_ends_at_seconds=ends_at,
    )


def charges(ledger: Ledger, seat: int = 0) -> tuple[float, float, float]:
    return (
        ledger.open_requests.item(seat),
        ledger.queued_tokens.item(seat),
        ledger.context_tokens.item(seat),
    )


def test_a_request_is_charged_as_prefill_then_as_decode_then_not_at_all() -> None:
    ledger = Ledger()
    lease = opened(ledger)
    assert charges(ledger) == (1, 100, 0)
    ledger.first_token(lease)
    assert charges(ledger) == (1, 0, 200)
    assert ledger.close(lease)
    assert charges(ledger) == (0, 0, 0)
    assert len(ledger) == 0


def test_a_lease_is_released_exactly_once() -> None:
    ledger = Ledger()
    lease = opened(ledger)
    other = opened(ledger)
    assert [ledger.close(lease), ledger.close(lease), ledger.close(lease)] == [True, False, False]
    assert charges(ledger) == (1, 100, 0)
    assert ledger.close(other)


def test_a_first_token_told_twice_or_too_late_changes_nothing() -> None:
    ledger = Ledger()
    lease = opened(ledger)
    ledger.first_token(lease)
    ledger.first_token(lease)
    assert charges(ledger) == (1, 0, 200)
    ledger.close(lease)
    ledger.first_token(lease)
    assert charges(ledger) == (0, 0, 0)


def test_a_request_that_is_not_streamed_decodes_from_its_predicted_end_on() -> None:
    ledger = Ledger()
    lease = opened(ledger, streamed=False, ends_at=2.0)
    ledger.advance(1.9)
    assert charges(ledger) == (1, 100, 0)
    ledger.advance(2.0)
    assert charges(ledger) == (1, 0, 200)
    ledger.close(lease)
    assert charges(ledger) == (0, 0, 0)


def test_a_streamed_request_stays_prefill_however_late_its_first_token() -> None:
    ledger = Ledger()
    opened(ledger, ends_at=1.0)
    ledger.advance(1e6)
    assert charges(ledger) == (1, 100, 0)


def test_the_end_of_a_closed_request_comes_to_nothing() -> None:
    ledger = Ledger()
    ledger.close(opened(ledger, streamed=False, ends_at=2.0))
    ledger.advance(3.0)
    assert charges(ledger) == (0, 0, 0)


def test_seats_do_not_touch_each_other_and_a_high_one_makes_the_columns_grow() -> None:
    ledger = Ledger()
    opened(ledger, 0)
    opened(ledger, 200, uncached=7)
    assert charges(ledger, 0) == (1, 100, 0)
    assert charges(ledger, 200) == (1, 7, 0)
    assert int(ledger.open_requests.sum()) == 2


def test_entries_are_told_oldest_first() -> None:
    ledger = Ledger()
    first = opened(ledger, 1, now=5.0)
    second = opened(ledger, 1, now=6.0)
    opened(ledger, 2, now=1.0)
    assert [entry.lease for entry in ledger.entries(Seat(1))] == [first, second]
    assert ledger.oldest_opened_at_seconds(Seat(1)) == 5.0
    assert ledger.oldest_opened_at_seconds(Seat(3)) is None


def test_it_tells_people_what_is_open() -> None:
    ledger = Ledger()
    assert repr(ledger) == "<Ledger 0 leases; idle>"
    opened(ledger, 3)
    assert repr(ledger) == "<Ledger 1 leases; seat 3: 1 open, 100 queued tokens, 0 context tokens>"


def test_predicted_ends_of_closed_requests_do_not_pile_up() -> None:
    ledger = Ledger()
    for _ in range(10_000):
        ledger.close(opened(ledger, streamed=False, ends_at=1e9))
    assert len(ledger._ends) <= 65


class Interleavings(RuleBasedStateMachine):
    """Any order of openings, first tokens, passing time and every way to end, repeated ends included."""

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger()
        self.now = 0.0
        self.open: list[LeaseId] = []
        self.closed: list[LeaseId] = []

    @rule(
        seat=st.integers(0, 40),
        uncached=st.integers(0, 10**6),
        output=st.integers(0, 10**5),
        streamed=st.booleans(),
        seconds=st.floats(0, 10),
    )
    def open_one(self, seat: int, uncached: int, output: int, streamed: bool, seconds: float) -> None:
        lease = opened(
            self.ledger,
            seat,
            uncached=uncached,
            prompt=uncached + 5,
            output=output,
            streamed=streamed,
            now=self.now,
            ends_at=self.now + seconds,
        )
        assert lease not in self.open
        assert lease not in self.closed
        self.open.append(lease)

    @rule(which=st.integers(0))
    def first_token(self, which: int) -> None:
        leases = self.open + self.closed
        if leases:
            self.ledger.first_token(leases[which % len(leases)])

    @rule(which=st.integers(0))
    def close_open(self, which: int) -> None:
        if self.open:
            lease = self.open.pop(which % len(self.open))
            assert self.ledger.close(lease)
            self.closed.append(lease)

    @rule(which=st.integers(0))
    def close_again(self, which: int) -> None:
        if self.closed:
            assert not self.ledger.close(self.closed[which % len(self.closed)])

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.advance(self.now)

    @invariant()
    def sums_are_those_of_the_open_entries_and_never_negative(self) -> None:
        ledger = self.ledger
        assert len(ledger) == len(self.open) == int(ledger.open_requests.sum())
        for column in (ledger.queued_tokens, ledger.context_tokens, ledger.open_requests):
            assert column.min() >= 0
        entries = [entry for seat in range(len(ledger.open_requests)) for entry in ledger.entries(Seat(seat))]
        assert int(ledger.queued_tokens.sum()) == sum(e.uncached_tokens for e in entries if not e.decoding)
        assert int(ledger.context_tokens.sum()) == sum(e.context_tokens for e in entries if e.decoding)

    def teardown(self) -> None:
        for lease in self.open:
            assert self.ledger.close(lease)
        for column in (self.ledger.queued_tokens, self.ledger.context_tokens, self.ledger.open_requests):
            assert not np.any(column)
        assert len(self.ledger) == 0


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_what_other_routers_have_open_stands_in_all_three_columns_and_is_not_ours() -> None:
    ledger = Ledger()
    lease = opened(ledger)
    ledger.peers(Seat(0), 3, 30, 300)
    assert charges(ledger) == (4, 130, 300)
    assert (ledger.own_requests(Seat(0)), ledger.peer_requests(Seat(0)), ledger.all_peer_requests) == (1, 3, 3)
    assert [column.item(0) for column in ledger.own()] == [1, 100, 0]
    ledger.close(lease)
    ledger.peers(Seat(0), 1, 0, 100)
    assert charges(ledger) == (1, 0, 100)
    ledger.peers(Seat(0), 0, 0, 0)
    assert charges(ledger) == (0, 0, 0)
    assert ledger.all_peer_requests == 0


def test_columns_that_grow_keep_what_others_have_open() -> None:
    ledger = Ledger()
    ledger.join(Seat(0))
    ledger.peers(Seat(0), 3, 30, 300)
    ledger.join(Seat(100))
    ledger.peers(Seat(100), 1, 1, 1)
    assert (charges(ledger), charges(ledger, 100), ledger.all_peer_requests) == ((3, 30, 300), (1, 1, 1), 4)
