"""An engine's own counters stand in for answers that do not report cached tokens (R 5.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from router.fleet.replica import Seat
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.causes import Cause
from router.index.counters import MOST_READINGS, Counters

HERE = Seat(0)
BLOCK = 16


@dataclass
class Engine:
    """An engine that counts, and requests that tell nothing."""

    accuracy: Accuracy = field(default_factory=Accuracy)
    queries_tokens: int = 1000
    hits_tokens: int = 600

    def __post_init__(self) -> None:
        self.accuracy.join(HERE)
        self.counters = Counters(self.accuracy)
        self.read()

    def ask(self, prompt_tokens: int, predicted_tokens: int, hit_tokens: int, *, lower_bound: bool = False) -> None:
        self.queries_tokens += prompt_tokens
        self.hits_tokens += hit_tokens
        self.counters.finished(
            HERE,
            prompt_tokens=prompt_tokens,
            predicted_tokens=predicted_tokens,
            block_size_tokens=BLOCK,
            lower_bound=lower_bound,
        )

    def read(self) -> bool:
        return self.counters.read(HERE, self.queries_tokens, self.hits_tokens)

    def stretch(self, predicted_tokens: int, hit_tokens: int, *, lower_bound: bool = False) -> None:
        """Five prompts of 1000 tokens, then a reading."""
        for _ in range(5):
            self.ask(1000, predicted_tokens, hit_tokens, lower_bound=lower_bound)
        self.read()


def test_stretches_that_agree_are_weighed_as_clean() -> None:
    engine = Engine()
    for _ in range(10):
        engine.stretch(800, 800)
    assert engine.accuracy.weighed(HERE) == 10
    assert engine.accuracy.truth(HERE) is Trust.EXACT


def test_hits_that_never_come_lower_trust_and_are_called_unreported() -> None:
    engine = Engine()
    for _ in range(3):
        engine.stretch(800, 100)
    assert engine.accuracy.truth(HERE) is Trust.GUESSED
    found = engine.accuracy.suspicion(HERE)
    assert found is not None
    assert found.cause is Cause.UNREPORTED
    assert engine.accuracy.causes(HERE) == {Cause.UNREPORTED: 3}
    assert engine.accuracy.confirmed(HERE) < 0.7


def test_more_hits_than_predicted_are_borne_while_predictions_are_lower_bounds() -> None:
    engine = Engine()
    for _ in range(3):
        engine.stretch(100, 800, lower_bound=True)
    assert engine.accuracy.truth(HERE) is Trust.EXACT
    for _ in range(3):
        engine.stretch(100, 800)
    assert engine.accuracy.truth(HERE) is Trust.GUESSED


def test_others_traffic_judges_nothing() -> None:
    engine = Engine()
    for _ in range(MOST_READINGS + 5):
        engine.queries_tokens += 9_000
        engine.stretch(800, 0)
    assert engine.accuracy.weighed(HERE) == 0


def test_a_request_in_flight_at_a_reading_only_makes_it_more_tolerant() -> None:
    engine = Engine()
    engine.queries_tokens += 400  # looked up already, and not yet finished
    engine.stretch(800, 760)
    assert engine.accuracy.weighed(HERE) == 1
    assert engine.accuracy.truth(HERE) is Trust.EXACT


def test_a_few_tokens_wait_for_more() -> None:
    engine = Engine()
    engine.ask(1000, 800, 0)
    engine.read()
    assert engine.accuracy.weighed(HERE) == 0
    for _ in range(4):
        engine.ask(1000, 800, 0)
    engine.read()
    assert engine.accuracy.weighed(HERE) == 1


def test_a_counter_that_fell_is_another_process_and_judges_nothing() -> None:
    engine = Engine()
    engine.queries_tokens, engine.hits_tokens = 10, 0
    assert engine.read()
    assert engine.counters.fell(HERE, within_readings=1)
    assert not engine.read()
    assert not engine.counters.fell(HERE, within_readings=1)
    assert engine.counters.fell(HERE, within_readings=2)
    assert engine.accuracy.weighed(HERE) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 1), st.booleans()), max_size=60))
def test_true_predictions_are_never_held_against_a_replica(requests: list[tuple[int, float, bool]]) -> None:
    engine = Engine()
    for prompt_tokens, share, reads in requests:
        cached = int(prompt_tokens * share)
        engine.ask(prompt_tokens, cached, cached)
        if reads:
            assert not engine.read()
    assert engine.accuracy.truth(HERE) is Trust.EXACT
    assert not engine.accuracy.causes(HERE)
