"""The door: bounds, order, no lost wake-ups, and places given back exactly once (R 6.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.clock import ManualClock
from router.errors import Overloaded
from router.gateway.admission import Admission, AdmissionLimits, DrainRate, Place, retry_after_seconds


def anywhere(lane: str) -> int | None:
    return None


def door(in_flight: int = 1, queue: int = 10, wait: float = 30.0, clock: ManualClock | None = None) -> Admission:
    return Admission(AdmissionLimits(in_flight, queue, wait), clock or ManualClock(), anywhere)


async def settle() -> None:
    """Let every task that can run do so: a wake-up passes through at most a few turns of the loop."""
    for _ in range(6):
        await asyncio.sleep(0)


class Capped:
    """Replicas of each lane as the ledger would tell them."""

    def __init__(self, slots: dict[str, int | None]) -> None:
        self.slots = slots
        self.open = dict.fromkeys(slots, 0)

    def __call__(self, lane: str) -> int | None:
        slots = self.slots[lane]
        return None if slots is None else max(slots - self.open[lane], 0)


async def test_requests_go_straight_in_while_there_are_places() -> None:
    admission = door(in_flight=2)
    places = [await admission.enter("m"), await admission.enter("m")]
    assert admission.in_flight == 2
    for place in places:
        place.leave()
    assert admission.in_flight == 0


async def test_leaving_twice_is_leaving_once() -> None:
    admission = door(in_flight=2)
    first, second = await admission.enter("m"), await admission.enter("m")
    first.leave()
    first.leave()
    first.started()
    assert admission.in_flight == 1
    second.leave()
    assert admission.in_flight == 0


async def test_a_place_is_left_however_its_block_ends() -> None:
    admission = door()
    with pytest.raises(RuntimeError), await admission.enter("m"):
        raise RuntimeError
    assert admission.in_flight == 0


async def test_the_waiting_are_let_in_in_the_order_they_came() -> None:
    admission = door()
    order: list[int] = []

    async def visit(number: int) -> None:
        with await admission.enter("m"):
            order.append(number)

    place = await admission.enter("m")
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(visit(number))
        await settle()
        assert admission.waiting == 5
        assert order == []
        place.leave()
    assert order == [0, 1, 2, 3, 4]
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_a_newcomer_does_not_overtake_one_that_was_just_woken() -> None:
    admission = door()
    place = await admission.enter("m")
    waiting = asyncio.ensure_future(admission.enter("m"))
    await settle()
    place.leave()  # the woken task has not run yet
    newcomer = asyncio.ensure_future(admission.enter("m"))
    await settle()
    assert waiting.done()
    assert not newcomer.done()
    (await waiting).leave()
    (await newcomer).leave()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    admission = door(queue=0)
    place = await admission.enter("m")
    with pytest.raises(Overloaded, match="1 requests in flight, 0 waiting") as refused:
        await admission.enter("m")
    assert refused.value.status == 429
    assert refused.value.retry_after_seconds >= 1
    place.leave()


async def test_retry_after_follows_the_drain_rate() -> None:
    clock = ManualClock()
    admission = door(in_flight=1, queue=0, clock=clock)
    for _ in range(300):
        (await admission.enter("m")).leave()
        clock.advance(0.1)
    place = await admission.enter("m")
    with pytest.raises(Overloaded) as refused:
        await admission.enter("m")
    assert refused.value.retry_after_seconds == 1
    clock.advance(120)
    with pytest.raises(Overloaded) as refused:
        await admission.enter("m")
    assert refused.value.retry_after_seconds > 5
    place.leave()


async def test_waiting_too_long_ends_in_a_refusal_and_leaves_the_line() -> None:
    admission = door(wait=0.01)
    place = await admission.enter("m")
    with pytest.raises(Overloaded, match=r"No place came free in 0\.01 s"):
        await admission.enter("m")
    assert admission.waiting == 0
    place.leave()
    (await admission.enter("m")).leave()


async def test_room_that_nobody_told_of_goes_to_the_first_in_line_when_the_next_joins() -> None:
    room = Capped({"m": 0})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    first = asyncio.ensure_future(admission.enter("m"))
    await settle()
    room.slots["m"] = 1
    second = asyncio.ensure_future(admission.enter("m"))
    await settle()
    assert (first.done(), second.done()) == (True, False)
    (await first).leave()
    (await second).leave()


async def test_a_client_that_hangs_up_in_line_leaves_no_trace() -> None:
    admission = door()
    place = await admission.enter("m")
    gone, stays = asyncio.ensure_future(admission.enter("m")), asyncio.ensure_future(admission.enter("m"))
    await settle()
    gone.cancel()
    await settle()
    assert gone.cancelled()
    assert admission.waiting == 1
    place.leave()
    (await stays).leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_a_place_given_in_the_moment_of_hanging_up_goes_to_the_next() -> None:
    admission = door()
    place = await admission.enter("m")
    gone, next_one = asyncio.ensure_future(admission.enter("m")), asyncio.ensure_future(admission.enter("m"))
    await settle()
    place.leave()  # gives the place to the first in line...
    gone.cancel()  # ...which hangs up before it runs again
    await settle()
    assert gone.cancelled()
    (await next_one).leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_hanging_up_first_and_a_place_coming_free_in_the_same_moment_wakes_the_next() -> None:
    admission = door()
    place = await admission.enter("m")
    gone, next_one = asyncio.ensure_future(admission.enter("m")), asyncio.ensure_future(admission.enter("m"))
    await settle()
    gone.cancel()
    place.leave()
    await settle()
    assert next_one.done()
    (await next_one).leave()
    assert (admission.in_flight, admission.waiting) == (0, 0)


async def test_with_all_its_replicas_at_their_cap_a_request_waits_for_one() -> None:
    room = Capped({"m": 1})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    first = await admission.enter("m")
    room.open["m"] += 1
    first.started()
    second = asyncio.ensure_future(admission.enter("m"))
    await settle()
    assert not second.done()
    room.open["m"] -= 1
    first.leave()
    (await second).leave()


async def test_between_entering_and_being_on_the_ledger_a_request_keeps_its_slot() -> None:
    room = Capped({"m": 1})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    first = await admission.enter("m")  # not started: the ledger knows nothing of it yet
    second = asyncio.ensure_future(admission.enter("m"))
    await settle()
    assert not second.done()
    first.leave()
    (await second).leave()


async def test_who_waited_for_anothers_start_is_let_in_by_it() -> None:
    room = Capped({"m": 5, "n": 1})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    first = await admission.enter("m")  # might yet land on a replica that serves both
    second = asyncio.ensure_future(admission.enter("n"))
    await settle()
    assert not second.done()
    room.open["m"] += 1
    first.started()
    await settle()
    assert second.done()
    (await second).leave()
    first.leave()


async def test_a_model_whose_replicas_are_busy_does_not_stop_another() -> None:
    room = Capped({"busy": 0, "free": 5})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    stuck = asyncio.ensure_future(admission.enter("busy"))
    await settle()
    (await admission.enter("free")).leave()
    assert not stuck.done()
    room.slots["busy"] = 1
    admission.nudge()
    (await stuck).leave()


async def test_with_nobody_to_serve_it_a_request_does_not_wait() -> None:
    room = Capped({"down": None})
    admission = Admission(AdmissionLimits(10, 10, 30.0), ManualClock(), room)
    (await admission.enter("down")).leave()


def test_retry_after_is_in_whole_seconds_from_one_to_a_minute() -> None:
    assert retry_after_seconds(0, 100.0) == 1
    assert retry_after_seconds(9, 4.0) == 3
    assert retry_after_seconds(9, 0.0) == 60
    assert retry_after_seconds(10_000, 1.0) == 60


def test_the_drain_rate_is_right_from_the_start_and_fades() -> None:
    rate = DrainRate(now_seconds=100.0)
    assert rate.per_second(100.0) == 0
    for step in range(1, 51):
        rate.completed(100.0 + step / 10)
    assert rate.per_second(105.0) == pytest.approx(10, rel=0.1)
    assert rate.per_second(600.0) < 0.01


actions = st.one_of(
    st.tuples(st.just("enter"), st.sampled_from("ab")),
    st.tuples(st.sampled_from(["finish", "cancel"]), st.integers(0, 50)),
    st.tuples(st.just("slots"), st.integers(0, 4)),
    st.just(("turn", 0)),
    st.just(("settle", 0)),
)


class World:
    """Visitors that enter, start, stay until told, and leave; with everything the door promises checked as they go."""

    def __init__(self, max_in_flight: int) -> None:
        self.room = Capped({"a": 2, "b": 2})
        self.max_in_flight = max_in_flight
        self.admission = Admission(AdmissionLimits(max_in_flight, 1000, 1000.0), ManualClock(), self.room)
        self.visits: list[asyncio.Task[None]] = []
        self.finished: list[asyncio.Event] = []
        self.lanes: list[str] = []
        self.inside = 0

    def arrive(self, lane: str) -> None:
        finished = asyncio.Event()
        self.finished.append(finished)
        self.lanes.append(lane)
        self.visits.append(asyncio.ensure_future(self._visit(len(self.visits), lane, finished)))

    async def _visit(self, number: int, lane: str, finished: asyncio.Event) -> None:
        place: Place = await self.admission.enter(lane)
        self.inside += 1
        self.nobody_earlier_waits(number, lane)
        self.room.open[lane] += 1
        place.started()
        try:
            await finished.wait()
        finally:
            self.room.open[lane] -= 1
            self.inside -= 1
            place.leave()

    def check(self) -> None:
        assert self.admission.in_flight <= self.max_in_flight

    def nobody_earlier_waits(self, number: int, lane: str) -> None:
        """Two let in by the same stroke may resume in any order; but whoever still waits must have come later."""
        later = [other for other in range(number + 1, len(self.visits)) if self.lanes[other] == lane]
        unfinished = [other for other in later if not self.visits[other].done()]
        assert len(self.admission._lanes.get(lane, ())) <= len(unfinished), "somebody overtook"

    def check_settled(self) -> None:
        assert self.admission.in_flight == self.inside
        waiting = [lane for lane in "ab" if lane in self.admission._lanes]
        if self.inside < self.max_in_flight:
            assert [lane for lane in waiting if self.room(lane) != 0] == [], "a wake-up was lost"


async def live(world: World, steps: list[tuple[str, int | str]]) -> None:
    for action, which in steps:
        if action == "enter":
            world.arrive(str(which))
        elif action == "slots":
            world.room.slots["a"] = int(which)
            world.admission.nudge()
        elif action == "turn":
            await asyncio.sleep(0)
        elif action == "settle":
            await settle()
            world.check_settled()
        elif world.visits:
            number = int(which) % len(world.visits)
            if action == "finish":
                world.finished[number].set()
            else:
                world.visits[number].cancel()
        world.check()
    world.room.slots["a"] = 2
    world.admission.nudge()
    for finished in world.finished:
        finished.set()
    await finished_all(world.visits)
    assert (world.admission.in_flight, world.admission.waiting, world.inside) == (0, 0, 0)


async def finished_all(visits: list[asyncio.Task[None]]) -> None:
    results: Awaitable[list[BaseException | None]] = asyncio.gather(*visits, return_exceptions=True)
    for result in await asyncio.wait_for(results, timeout=5):
        assert result is None or isinstance(result, asyncio.CancelledError)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), st.lists(actions, max_size=60))
async def test_in_any_interleaving_nobody_overtakes_no_wake_up_is_lost_and_every_place_comes_back(
    max_in_flight: int, steps: list[tuple[str, int | str]]
) -> None:
    await live(World(max_in_flight), steps)


async def test_what_other_routers_have_open_takes_room_as_ours_does() -> None:
    elsewhere, room = 8, Capped({"m": 0})
    admission = Admission(AdmissionLimits(10, 10, 30.0, 8), ManualClock(), room, lambda: elsewhere)
    waiting = asyncio.create_task(admission.enter("m"))
    await asyncio.sleep(0)
    assert admission.waiting == 1
    elsewhere = 7
    admission.nudge()
    (await waiting).leave()
