"""What is found out about a miss, from real events in a real index: at once, and once all news has come."""

from __future__ import annotations

from array import array

from router.events.ingest import Ingest
from router.events.kinds import Removed, Stored
from router.events.silence import ENOUGH, Silence
from router.fleet.replica import Seat
from router.gateway.misses import MOST_PULSES, MOST_UNSETTLED, SETTLE_SECONDS, Missed, Misses
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.budget import Budget
from router.index.causes import Cause
from router.index.counters import Counters
from router.index.memory import MemoryIndex
from router.index.suspicion import Miss
from router.prompt.blocks import BlockHasher, BlockHashes, pack_tokens, root_hash

HERE = Seat(0)
SIZE = 4
PROMPT = list(range(100, 100 + 6 * SIZE))  # six blocks


class House:
    """One replica whose stream is whole, and the rooms that judge it. Time goes on by `wait`."""

    def __init__(self) -> None:
        self.index = MemoryIndex(Budget(1 << 30))
        self.ingest = Ingest(self.index, hash_seed=0)
        self.accuracy = Accuracy()
        self.counters = Counters(self.accuracy)
        self.silence = Silence()
        self.misses = Misses(self.index, self.ingest, self.accuracy, self.counters, self.silence)
        self.now = 0.0
        self.accuracy.join(HERE)
        self.ingest.join(HERE, "tiny")
        self.ingest.stream(HERE, up=True)
        self.ingest.begin(HERE, whole=True)
        self.wait(0.1)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.misses.beat([HERE], self.now)

    def hashes(self, tokens: list[int], salt: str | None = None) -> BlockHashes:
        return BlockHasher(0).hashes(pack_tokens(tokens), root_hash(0, "tiny", None, salt), SIZE)

    def store(self, first: int, end: int, names: int = 1, parent: int | None = None) -> None:
        """Blocks of the prompt, named from `names` on."""
        tokens = pack_tokens(PROMPT[first * SIZE : end * SIZE])
        self.ingest.apply(HERE, Stored(tuple(range(names, names + end - first)), parent, tokens, SIZE))

    def miss(self, predicted: int, reported: int, salt: str | None = None, sent_seconds: float | None = None) -> Miss:
        """The whole prompt was asked, and its answer told otherwise than predicted, in blocks."""
        verdict = self.accuracy.judge(
            HERE,
            predicted_tokens=predicted * SIZE,
            reported_tokens=reported * SIZE,
            block_size_tokens=SIZE,
            stream=Trust.EXACT,
        )
        assert verdict.miss is not None
        self.misses.saw(
            Missed(
                verdict.miss,
                HERE,
                self.now if sent_seconds is None else sent_seconds,
                reported * SIZE,
                SIZE,
                self.hashes(PROMPT, salt),
                pack_tokens(PROMPT),
                in_namespace=salt is not None,
                is_proof=False,
            ),
            self.now,
        )
        return verdict.miss

    def settled(self, miss: Miss) -> Cause:
        self.wait(SETTLE_SECONDS + 0.01)
        return miss.cause


def test_a_removal_that_comes_after_the_answer_corrects_the_cause() -> None:
    house = House()
    house.store(0, 6)
    house.wait(0.2)
    miss = house.miss(5, 2)
    assert miss.cause is Cause.EVENT_LOSS
    for name in (6, 5, 4, 3):
        house.ingest.apply(HERE, Removed((name,)))
    house.store(2, 6, names=3, parent=2)
    assert house.settled(miss) is Cause.EVICTION_RACE
    assert house.accuracy.causes(HERE) == {Cause.EVICTION_RACE: 1}


def test_a_removal_from_before_the_request_explains_nothing() -> None:
    house = House()
    house.store(0, 6)
    house.ingest.apply(HERE, Removed((6,)))
    house.store(5, 6, names=6, parent=5)
    house.wait(0.2)
    assert house.settled(house.miss(5, 5 - 3)) is Cause.EVENT_LOSS


def test_blocks_whose_event_came_late_were_in_flight() -> None:
    house = House()
    miss = house.miss(0, 5)
    house.store(0, 6)
    assert house.settled(miss) is Cause.EVENT_IN_FLIGHT


def test_a_stream_that_says_nothing_has_lost_it() -> None:
    house = House()
    house.store(0, 2)
    house.wait(0.2)
    assert house.settled(house.miss(2, 5)) is Cause.EVENT_LOSS


def test_a_stream_that_speaks_of_other_tokens_shows_drift() -> None:
    house = House()
    house.wait(0.2)
    miss = house.miss(0, 5)
    house.ingest.apply(HERE, Stored((1,), None, pack_tokens([1, 2, 3, 4]), SIZE))
    assert house.settled(miss) is Cause.TEMPLATE_DRIFT


def test_salted_blocks_that_events_call_plain_are_found() -> None:
    house = House()
    house.store(0, 6)
    assert house.settled(house.miss(0, 5, salt="tenant")) is Cause.SALT


def test_after_a_key_that_no_event_tells_plain_requests_are_explained_by_it() -> None:
    house = House()
    house.store(0, 6)
    house.misses.unseen_key(HERE)
    assert house.settled(house.miss(5, 0)) is Cause.SALT


def test_a_counter_that_fell_names_another_process() -> None:
    house = House()
    house.store(0, 6)
    house.counters.read(HERE, 500, 100)
    house.counters.read(HERE, 20, 0)
    assert house.settled(house.miss(5, 2)) is Cause.RESTART


def test_a_story_that_began_anew_meanwhile_is_a_restart() -> None:
    house = House()
    house.store(0, 6)
    house.wait(0.2)
    miss = house.miss(5, 0)
    house.ingest.begin(HERE, whole=True)
    house.store(0, 6)
    assert house.settled(miss) is Cause.RESTART


def test_who_is_not_heard_any_more_keeps_its_first_cause() -> None:
    house = House()
    house.store(0, 2)
    house.wait(0.2)
    miss = house.miss(2, 5)
    house.ingest.leave(HERE)
    assert house.settled(miss) is Cause.EVENT_LOSS


def test_unsettled_misses_are_bounded_and_all_are_counted() -> None:
    house = House()
    for _ in range(MOST_UNSETTLED + 10):
        house.miss(5, 0)
    assert sum(house.accuracy.causes(HERE).values()) == 10
    house.wait(SETTLE_SECONDS + 0.01)
    assert sum(house.accuracy.causes(HERE).values()) == MOST_UNSETTLED + 10


def test_pulses_reach_back_far_in_little_room() -> None:
    house = House()
    house.store(0, 6)
    house.wait(0.2)
    sent_seconds = house.now
    for round_ in range(20 * MOST_PULSES):  # 8 minutes at 0.2 s
        house.ingest.apply(HERE, Stored((100,), None, pack_tokens([9, 9, 9, round_]), SIZE))
        house.ingest.apply(HERE, Removed((100,)))
        house.wait(0.2)
    house.ingest.begin(HERE, whole=True)
    house.store(0, 6)
    assert house.settled(house.miss(5, 0, sent_seconds=sent_seconds)) is Cause.RESTART


def test_a_silent_publisher_is_held_against_its_replica() -> None:
    house = House()
    for _ in range(ENOUGH):
        house.silence.finished(HERE, 0)
    house.silence.look(HERE)
    assert house.silence.look(HERE)
    found = house.misses.suspicion(HERE)
    assert found is not None
    assert found.cause is Cause.EVENT_LOSS


def test_drift_is_told_once_each_time_it_is_suspected() -> None:
    house = House()
    house.wait(0.2)
    for _ in range(3):
        house.miss(0, 5)
        house.ingest.apply(HERE, Stored((1,), None, pack_tokens([1, 2, 3, 4]), SIZE))
    house.wait(SETTLE_SECONDS + 0.01)
    assert house.misses.drifted([HERE]) == [HERE]
    assert house.misses.drifted([HERE]) == []
    house.accuracy.restarted(HERE)
    assert house.misses.drifted([HERE]) == []


def test_a_prompt_shorter_than_a_block_can_be_asked_about() -> None:
    house = House()
    miss = Miss(1, 0, 2, missed=True, told=True)
    missed = Missed(miss, HERE, 0.0, 2 * SIZE, SIZE, array("Q"), None, in_namespace=True, is_proof=True)
    house.misses.saw(missed, house.now)
    assert house.accuracy.causes(HERE) == {miss.cause: 1}
