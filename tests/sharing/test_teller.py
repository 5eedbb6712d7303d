from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.ledger import LeaseId, Ledger
from router.fleet.rates import Rates
from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.index.recent import OpenLeases
from router.index.slots import Slots
from router.sharing.lending import Lending
from router.sharing.message import Row
from router.sharing.peers import Heard, Peers
from router.sharing.teller import WHOLE_SECONDS, Teller


class Scene:
    def __init__(self) -> None:
        self.ledger, self.rates = Ledger(), Rates()
        lending = Lending(OpenLeases(Slots()), self.ledger, Roster())
        self.teller = Teller("one", "b", self.ledger, self.rates, lending, lambda seat: f"r{seat}")

    def open(self, seat: int, *, streamed: bool = True, ends_at: float = 0.0) -> LeaseId:
        return self.ledger.open(
            Seat(seat),
            uncached_tokens=10,
            prompt_tokens=15,
            output_tokens_estimate=5,
            streamed=streamed,
            now_seconds=0.0,
            prefill_ends_at_seconds=ends_at,
        )

    def rows(self, now: float) -> tuple[Row, ...] | None:
        told = self.teller.tell(now)
        return None if told is None else told.rows


def test_the_first_message_is_whole_then_only_what_changed_is_told_and_nothing_when_nothing_did() -> None:
    scene = Scene()
    first = scene.teller.tell(0.0)
    assert first is not None
    assert (first.number, first.whole, first.rows) == (0, True, ())
    assert scene.teller.tell(0.1) is None
    scene.open(0)
    lease = scene.open(3)
    second = scene.teller.tell(0.2)
    assert second is not None
    assert (second.number, second.whole) == (1, False)
    assert second.rows == (Row("r0", 1, 10, 0), Row("r3", 1, 10, 0))
    scene.ledger.first_token(lease)
    assert scene.rows(0.3) == (Row("r3", 1, 0, 20),)
    scene.ledger.close(lease)
    assert scene.rows(0.4) == (Row("r3", 0, 0, 0),)
    assert scene.rows(0.5) is None


def test_once_a_second_everything_is_told_changed_or_not() -> None:
    scene = Scene()
    scene.open(0)
    scene.teller.tell(0.0)
    assert scene.teller.tell(WHOLE_SECONDS - 0.01) is None
    told = scene.teller.tell(WHOLE_SECONDS)
    assert told is not None
    assert (told.whole, told.rows) == (True, (Row("r0", 1, 10, 0),))


def test_whoever_may_have_missed_something_is_told_everything_at_once() -> None:
    scene = Scene()
    scene.open(0)
    scene.teller.tell(0.0)
    scene.teller.anew()
    told = scene.teller.tell(0.1)
    assert told is not None
    assert (told.whole, len(told.rows)) == (True, 1)


def test_a_prefill_that_ended_as_predicted_is_told_without_a_request_to_notice_it() -> None:
    scene = Scene()
    scene.open(0, streamed=False, ends_at=0.5)
    scene.teller.tell(0.0)
    assert scene.rows(0.4) is None
    assert scene.rows(0.5) == (Row("r0", 1, 0, 20),)


def test_what_others_have_open_and_what_is_foreign_is_not_told_as_ours() -> None:
    scene = Scene()
    scene.open(0)
    scene.ledger.peers(Seat(0), 7, 70, 700)
    scene.ledger.foreign(Seat(0), 3)
    scene.ledger.join(Seat(40))  # the columns grow
    scene.ledger.peers(Seat(40), 1, 1, 1)
    assert scene.rows(0.0) == (Row("r0", 1, 10, 0),)
    scene.ledger.peers(Seat(0), 0, 0, 0)
    assert scene.rows(0.1) is None


def test_rates_are_told_with_whole_messages_as_seen_here_and_not_as_heard() -> None:
    scene = Scene()
    scene.rates.expect("m", 500_000.0)
    first = scene.teller.tell(0.0)
    assert first is not None
    assert first.rates == ()
    for _ in range(5):
        scene.rates.observe(
            "m", Seat(0), streamed=True, uncached_tokens=4000, ttft_seconds=1.0, predicted_queue_seconds=0.0
        )
    second = scene.teller.tell(WHOLE_SECONDS)
    assert second is not None
    ((model, rate, count),) = [(one.model, one.tokens_per_second, one.observations) for one in second.rates]
    assert (model, round(rate), count) == ("m", 4000, 5)
    scene.open(0)
    third = scene.teller.tell(WHOLE_SECONDS + 0.1)
    assert third is not None
    assert third.rates == ()


def test_the_last_word_takes_everything_back() -> None:
    scene = Scene()
    scene.open(0)
    first = scene.teller.tell(0.0)
    assert first is not None
    peers = Peers("two", "b")
    peers.fold(first, 0.0)
    assert peers.fold(scene.teller.farewell(), 0.1) is Heard.LEFT
    assert not peers.load("r0")


steps = st.lists(st.tuples(st.sampled_from(["open", "first", "close", "tell", "lose"]), st.integers(0, 3)), max_size=60)


@given(steps)
def test_who_hears_everything_knows_our_ledger_and_who_missed_some_does_after_the_next_whole_message(
    steps: list[tuple[str, int]],
) -> None:
    scene, peers, now = Scene(), Peers("two", "b"), 0.0
    leases: list[LeaseId] = []
    for what, which in steps:
        now += 0.02
        if what == "open":
            leases.append(scene.open(which))
        elif what == "first" and leases:
            scene.ledger.first_token(leases[which % len(leases)])
        elif what == "close" and leases:
            scene.ledger.close(leases.pop(which % len(leases)))
        else:
            told = scene.teller.tell(now)
            if told is not None and what == "tell":
                peers.fold(told, now)
    told = scene.teller.tell(now + WHOLE_SECONDS)
    assert told is not None
    peers.fold(told, now + WHOLE_SECONDS)
    requests, queued, context = scene.ledger.own()
    for seat in range(4):
        load = peers.load(f"r{seat}")
        assert (load.requests, load.queued_tokens, load.context_tokens) == (
            requests[seat],
            queued[seat],
            context[seat],
        )
