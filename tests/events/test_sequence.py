from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from router.events.sequence import Begin, Cause, Deliver, Drop, Replay, Sequencer


@dataclass
class Process:
    """One publishing process: batch n has time `start + n` and a fingerprint of its own."""

    start: int
    buffer_steps: int = 10_000
    count: int = 0

    def publish(self, batches: int = 1) -> None:
        self.count += batches

    def replay(self, first: int) -> list[int]:
        return list(range(max(first, self.count - self.buffer_steps), self.count))

    def batch(self, n: int) -> tuple[int, float, int]:
        return n, float(self.start + n), hash((self.start, n))


@dataclass
class Listener:
    """What the edge does with the sequencer's steps, without sockets: `heard` is what the index would hold."""

    process: Process
    replays: bool = True
    lost_in_replay: set[int] = field(default_factory=set)
    sequencer: Sequencer = field(default_factory=Sequencer)
    heard: list[tuple[int, int]] = field(default_factory=list)  # (process, number) since the last beginning
    begins: list[Begin] = field(default_factory=list)

    def connect(self) -> None:
        self.settle(self.sequencer.connected())

    def hear(self, n: int) -> None:
        for _ in range(8):
            step = self.sequencer.accept(*self.process.batch(n))
            if not isinstance(step, Replay):
                self.take(step, n)
                return
            self.settle(step)
        raise AssertionError("the sequencer never made up its mind")

    def settle(self, step: Replay | Begin | None) -> None:
        while isinstance(step, Replay):
            if step.begin is not None:
                self.begin(step.begin)
            step = self.replay(step.first)
        if step is not None:
            self.begin(step)

    def replay(self, first: int) -> Replay | Begin | None:
        if not self.replays:
            return self.sequencer.replay_ended(answered=False)
        for n in self.process.replay(first):
            if n in self.lost_in_replay:
                self.lost_in_replay.remove(n)
                continue
            step = self.sequencer.replayed(*self.process.batch(n))
            if isinstance(step, Replay):
                return step
            self.take(step, n)
        return self.sequencer.replay_ended(answered=True)

    def take(self, step: Deliver | Drop, n: int) -> None:
        if isinstance(step, Deliver):
            if step.begin is not None:
                self.begin(step.begin)
            self.heard.append((self.process.start, n))

    def begin(self, begin: Begin) -> None:
        self.heard.clear()
        self.begins.append(begin)

    @property
    def numbers(self) -> list[int]:
        return [n for _, n in self.heard]


def listening(published: int, **settings: int) -> Listener:
    process = Process(start=1_000, **settings)
    process.publish(published)
    listener = Listener(process)
    listener.connect()
    return listener


def test_joining_replays_from_the_start_and_the_story_is_whole() -> None:
    listener = listening(5)
    listener.process.publish()
    listener.hear(5)
    assert listener.numbers == [0, 1, 2, 3, 4, 5]
    assert listener.begins == [Begin(Cause.JOIN, whole=True)]


def test_the_overlap_of_stream_and_replay_is_dropped() -> None:
    listener = listening(5)
    listener.hear(3)
    listener.hear(4)
    assert listener.numbers == [0, 1, 2, 3, 4]
    assert len(listener.begins) == 1


def test_a_process_that_has_published_nothing_is_whole_and_empty() -> None:
    listener = listening(0)
    assert listener.begins == [Begin(Cause.JOIN, whole=True)]
    listener.process.publish()
    listener.hear(0)
    assert listener.numbers == [0]
    assert len(listener.begins) == 1


def test_a_rolled_buffer_at_join_is_applied_without_its_beginning() -> None:
    listener = listening(200, buffer_steps=50)
    assert listener.numbers == list(range(150, 200))
    assert listener.begins == [Begin(Cause.JOIN, whole=False)]


def test_a_gap_is_replayed_and_nothing_is_forgotten() -> None:
    listener = listening(5)
    listener.process.publish(4)
    listener.hear(8)
    assert listener.numbers == list(range(9))
    assert len(listener.begins) == 1


def test_batches_in_the_wrong_order_end_up_in_the_right_one() -> None:
    listener = listening(1)
    listener.process.publish(3)
    for n in (3, 1, 2):
        listener.hear(n)
    assert listener.numbers == [0, 1, 2, 3]
    assert len(listener.begins) == 1


def test_a_gap_beyond_the_buffer_forgets_first_and_applies_what_came() -> None:
    listener = listening(10, buffer_steps=5)
    listener.process.publish(20)
    listener.hear(29)
    assert listener.numbers == [25, 26, 27, 28, 29]
    assert listener.begins[-1] == Begin(Cause.GAP, whole=False)


def test_a_gap_without_any_replay_forgets_and_goes_on() -> None:
    listener = Listener(Process(start=1, count=4), replays=False)
    listener.connect()
    listener.process.publish(2)
    listener.hear(4)
    listener.process.publish(2)
    listener.hear(7)
    assert listener.numbers == [7]
    assert listener.begins == [Begin(Cause.JOIN, whole=False), Begin(Cause.GAP, whole=False)]


def test_without_replay_a_first_batch_of_number_zero_is_a_whole_story() -> None:
    listener = Listener(Process(start=1), replays=False)
    listener.connect()
    listener.process.publish()
    listener.hear(0)
    assert listener.begins == [Begin(Cause.JOIN, whole=True)]


def test_a_hole_in_a_replay_is_asked_for_again() -> None:
    listener = Listener(Process(start=1, count=100), lost_in_replay={17, 60})
    listener.connect()
    assert listener.numbers == list(range(100))
    assert listener.begins == [Begin(Cause.JOIN, whole=True)]


def test_a_lower_number_is_a_restart() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=1)
    listener.hear(0)
    assert listener.heard == [(2_000, 0)]
    assert listener.begins[-2:] == [Begin(Cause.RESTART, whole=False), Begin(Cause.JOIN, whole=True)]


def test_a_restart_hidden_behind_a_partition_with_a_higher_number_is_found() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=25)  # while we were cut off it counted past our 10
    listener.connect()
    assert listener.heard == [(2_000, n) for n in range(25)]
    assert listener.begins[-1].whole


def test_a_restart_that_has_counted_to_exactly_our_number_is_found() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=10)
    listener.connect()
    listener.process.publish()
    listener.hear(10)
    assert listener.heard == [(2_000, n) for n in range(11)]


def test_a_restart_that_has_not_counted_so_far_is_found() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=3)
    listener.connect()
    assert listener.heard == [(2_000, n) for n in range(3)]


def test_a_hidden_restart_shows_in_a_gap_even_if_the_reconnect_went_unseen() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=25)
    listener.hear(24)
    assert listener.heard == [(2_000, n) for n in range(25)]


def test_a_hidden_restart_whose_buffer_has_rolled_past_our_number_forgets_what_was() -> None:
    listener = listening(10)
    listener.process = Process(start=2_000, count=80, buffer_steps=50)
    listener.connect()
    assert listener.heard == [(2_000, n) for n in range(30, 80)]
    assert not listener.begins[-1].whole


def test_a_reconnect_to_the_same_process_forgets_nothing() -> None:
    listener = listening(10)
    listener.process.publish(5)
    listener.connect()
    assert listener.numbers == list(range(15))
    assert len(listener.begins) == 1


def test_a_reconnect_that_cannot_be_proven_forgets() -> None:
    listener = listening(10)
    listener.replays = False
    listener.connect()
    assert listener.heard == []
    assert listener.begins[-1] == Begin(Cause.UNPROVEN, whole=False)
    listener.process.publish()
    listener.hear(10)
    assert listener.numbers == [10]


def test_a_batch_older_than_the_last_is_a_restart() -> None:
    listener = listening(10)
    listener.process = Process(start=500, count=11)
    listener.hear(10)
    assert listener.heard == [(500, n) for n in range(11)]
    assert Begin(Cause.RESTART, whole=False) in listener.begins


def test_a_refused_connection_is_a_restart_and_a_replica_never_heard_cannot_restart() -> None:
    listener = listening(10)
    assert listener.sequencer.refused() == Begin(Cause.RESTART, whole=False)
    assert listener.sequencer.refused() is None
    listener.connect()
    assert listener.numbers == list(range(10))


def test_a_changed_start_time_is_a_restart_unless_the_stream_has_told_already() -> None:
    listener = listening(10)
    assert listener.sequencer.process_started(100.0) is None
    assert listener.sequencer.process_started(100.9) is None
    step = listener.sequencer.process_started(200.0)
    assert step == Replay(0, Begin(Cause.RESTART, whole=False))
    listener.settle(step)
    assert listener.numbers == list(range(10))
    listener.process = Process(start=3_000, count=1)
    listener.hear(0)
    assert listener.sequencer.process_started(300.0) is None


def test_silence_in_doubt_finds_batches_that_were_lost_at_the_end() -> None:
    listener = listening(10)
    listener.process.publish(3)
    listener.settle(listener.sequencer.doubtful())
    assert listener.numbers == list(range(13))
    assert len(listener.begins) == 1


def test_doubt_that_nobody_answers_changes_nothing() -> None:
    listener = listening(10)
    listener.replays = False
    listener.settle(listener.sequencer.doubtful())
    listener.replays = True
    assert listener.numbers == list(range(10))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(1, 4)),
            st.tuples(st.just("lose"), st.integers(1, 12)),
            st.tuples(st.just("swap"), st.integers(2, 4)),
            st.tuples(st.just("reconnect"), st.just(0)),
            st.tuples(st.just("restart"), st.integers(0, 30)),
        ),
        max_size=25,
    ),
    st.integers(1, 20),
)
def test_what_is_heard_is_always_an_unbroken_end_of_the_living_process(
    happenings: list[tuple[str, int]], buffer_steps: int
) -> None:
    process = Process(start=0, buffer_steps=buffer_steps)
    listener = Listener(process)
    listener.connect()
    for kind, amount in happenings:
        first = listener.process.count
        if kind == "restart":
            listener.process = Process(listener.process.start + 100_000, buffer_steps, amount)
            listener.connect()
        elif kind == "reconnect":
            listener.process.publish(2)
            listener.connect()
        else:
            listener.process.publish(amount)
            if kind == "publish":
                for n in range(first, first + amount):
                    listener.hear(n)
            elif kind == "swap":
                for n in reversed(range(first, first + amount)):
                    listener.hear(n)
    listener.process.publish()
    end = listener.process.count
    listener.hear(end - 1)
    numbers = listener.numbers
    assert {start for start, _ in listener.heard} == {listener.process.start}
    assert numbers == list(range(end - len(numbers), end))
    if listener.begins[-1].whole:
        assert numbers[0] == 0


def test_who_goes_on_from_anothers_mark_drops_what_still_waits_in_the_queue() -> None:
    old = listening(10)
    new = listening(10, buffer_steps=3)
    assert (new.begins[-1].whole, new.numbers) == (False, [7, 8, 9])
    old.process.publish(4)
    for n in range(10, 14):
        old.hear(n)
    new.process = old.process
    mark = old.sequencer.mark()
    assert mark is not None
    mark = replace(mark, first=10, fingerprints=mark.fingerprints[10:])  # 8 and 9 only the newcomer has heard
    assert new.sequencer.meets(mark)
    assert not new.sequencer.contradicts(mark)
    new.settle(new.sequencer.resume(mark))
    for n in range(8, 14):  # unread when the mark was taken over
        new.hear(n)
    new.process.publish()
    new.hear(14)
    assert new.numbers == [7, 8, 9, 14], "all between was told by the other router"
    assert len(new.begins) == 1


def test_a_mark_of_another_process_is_known_by_its_start_time_or_a_batch_of_both() -> None:
    mark = listening(10).sequencer.mark()
    assert mark is not None
    other = listening(10, buffer_steps=3)
    assert not other.sequencer.contradicts(mark)
    assert other.sequencer.process_started(50.0) is None
    assert not other.sequencer.contradicts(replace(mark, process_start_seconds=50.5))
    assert other.sequencer.contradicts(replace(mark, process_start_seconds=90.0))
    assert other.sequencer.contradicts(replace(mark, fingerprints=(*mark.fingerprints[:-1], 5)))


def test_there_is_no_mark_before_the_story_is_proven_and_none_meets_who_has_heard_nothing() -> None:
    listener = listening(10)
    mark = listener.sequencer.mark()
    assert mark is not None
    listener.sequencer.connected()
    assert listener.sequencer.mark() is None
    assert not Sequencer().meets(mark)
    assert not listening(5).sequencer.meets(replace(mark, first=6))


def test_a_mark_that_the_replay_disproves_is_neither_a_restart_nor_a_gap() -> None:
    gone = listening(10).sequencer.mark()
    assert gone is not None
    listener = Listener(Process(start=3_000, count=12, buffer_steps=2))
    listener.connect()
    listener.process.buffer_steps = 10_000
    assert listener.sequencer.process_started(1.0) is None
    listener.settle(listener.sequencer.resume(gone))
    assert listener.numbers == list(range(12))
    assert {begin.cause for begin in listener.begins} == {Cause.JOIN}
    step = listener.sequencer.process_started(100.0)
    assert step == Replay(0, Begin(Cause.RESTART, whole=False)), "a real restart is still noticed"
