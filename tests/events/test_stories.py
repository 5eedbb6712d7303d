"""Two routers before one publisher, and what one knows taken over by the other: in every way it may go, and fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from router.events.kinds import Batch, Cleared, Removed
from router.events.pace import Pace
from router.events.stories import Stories, Taken
from router.events.zmq import Subscription
from router.fleet.replica import EventAddress, Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.base import Trust
from tests.events.test_ingest import PROMPT, SEAT, SIZE, House, part, stored
from tests.events.test_zmq import Ears, Publisher, block, depth, encoded, hearing, publishing


@dataclass
class Router:
    house: House
    ears: Ears
    stories: Stories

    @property
    def trust(self) -> Trust:
        return self.house.ingest.trust(SEAT)

    async def until(self, so: Callable[[Router], bool]) -> None:
        await self.ears.until(lambda: so(self))

    async def take(self, told: list[bytes]) -> Taken:
        async with asyncio.timeout(20):
            taken = await self.stories.take("r0", told)
        await self.ears.until(lambda: self.ears.up)
        return taken


class Interrupting(Pace):
    """Does something each time that work is about to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] = dict

    async def breathe(self) -> None:
        await super().breathe()
        self.then()


@asynccontextmanager
async def router(publisher: Publisher, address: EventAddress, pace: Pace | None = None) -> AsyncIterator[Router]:
    """One that has joined."""
    roster = Roster()
    roster.join(Replica(ReplicaId("r0"), "http://r0:8000"))
    async with hearing(address, pace=pace) as (house, ears, subscription):

        def heard(seat: Seat) -> Subscription:
            assert seat == SEAT
            return subscription

        await ears.until(lambda: ears.up)
        await publisher.subscribed()
        yield Router(house, ears, Stories(roster, house.ingest, house.index, heard))


@asynccontextmanager
async def old_and_new(pace: Pace | None = None) -> AsyncIterator[tuple[Publisher, Router, Router, list[bytes]]]:
    """One has heard three blocks stored; the other joined when only the last could be replayed. What the first tells
    comes with them."""
    async with publishing(blocks=3) as (publisher, address), router(publisher, address) as old:
        publisher.rolled = 2
        async with router(publisher, address, pace) as new:
            assert (old.trust, depth(old.house)) == (Trust.EXACT, 3)
            assert (new.trust, depth(new.house)) == (Trust.CATCHING_UP, 0)
            assert (old.stories.wanted(), new.stories.wanted()) == ([], ["r0"])
            assert (old.stories.knows("r0"), new.stories.knows("r0")) == (True, False)
            told = await old.stories.tell("r0")
            assert told is not None
            yield publisher, old, new, told


async def test_who_takes_a_story_over_is_exact_at_once_and_goes_on_from_there() -> None:
    async with old_and_new() as (publisher, old, new, told):
        news: list[str] = []
        new.ears.also = news.append
        assert await new.take(told) is Taken.LOADED
        assert (new.trust, depth(new.house)) == (Trust.EXACT, 3)
        await new.until(lambda _: "up" in news)  # so that whoever keeps its trust looks again
        assert new.stories.wanted() == []
        await publisher.publish(block(3))
        await publisher.publish(Removed((1,)), block(4))
        for one in (old, new):
            await one.until(lambda it: it.ears.counts["batch"] >= 3 and depth(it.house) == 1)
            assert one.trust is Trust.EXACT
        assert new.house.index.held_blocks(SEAT) == old.house.index.held_blocks(SEAT) == 4
        again = await new.stories.tell("r0")  # it may tell of it now
        assert again is not None


async def test_batches_that_came_since_it_was_told_are_neither_lost_nor_applied_twice() -> None:
    async with old_and_new() as (publisher, old, new, told):
        await publisher.publish(stored([50], None, part(0, 1)))  # heard before it is taken
        await new.ears.until(lambda: depth(new.house) == 1)
        await publisher.publish(stored([51], None, [7] * SIZE))  # perhaps still unread
        publisher.waits_to_be_subscribed = False  # it is already
        publisher.meanwhile = encoded(Batch(1_005.0, (stored([52], 2, part(3, 4)),)))  # while the replay is answered
        assert await new.take(told) is Taken.LOADED
        for one in (old, new):
            await one.until(lambda it: depth(it.house) == 4)
            assert one.trust is Trust.EXACT
        await publisher.publish(Removed((0,)), Removed((51,)))
        for one in (old, new):
            await one.until(lambda it: it.house.index.held_blocks(SEAT) == 4)
            assert depth(one.house) == 4, "the first block had two names, so there is a copy left"
        await publisher.publish(Removed((50,)))
        for one in (old, new):
            await one.until(lambda it: depth(it.house) == 0)


async def test_a_cache_that_was_emptied_since_is_taken_over_empty() -> None:
    async with old_and_new() as (publisher, _, new, told):
        await publisher.publish(Cleared(), block(0))
        await publisher.publish(block(1))
        publisher.meanwhile = encoded(Batch(1_005.0, (block(2),)))
        publisher.waits_to_be_subscribed = False
        # Heard or not, the newcomer's own story is whole by the clear; if not heard yet, the replay tells of it.
        assert await new.take(told) in (Taken.LOADED, Taken.NOT_NEEDED)
        await new.until(lambda it: it.ears.counts["batch"] >= 3 and depth(it.house) >= 2)
        assert new.trust is Trust.EXACT


async def test_a_story_that_the_replay_no_longer_reaches_is_discarded_whole() -> None:
    async with old_and_new() as (publisher, _, new, told):
        for n in range(3, 6):
            await publisher.publish(block(n))
        publisher.rolled = 5
        await new.ears.until(lambda: new.ears.counts["batch"] == 4)
        assert await new.take(told) is Taken.ROLLED
        assert (new.trust, depth(new.house)) == (Trust.CATCHING_UP, 0)
        assert new.house.ingest.lost(SEAT) is None, "it was never ours, so nothing was lost"
        assert set(new.ears.causes) == {"join"}
        await publisher.publish(stored([60], None, part(0, 1)))
        await new.ears.until(lambda: depth(new.house) == 1)
        assert new.stories.wanted() == ["r0"], "a fresh one may do"


async def test_without_a_replay_nothing_is_proven_and_nothing_believed() -> None:
    async with publishing(blocks=3) as (publisher, address), router(publisher, address) as old:
        deaf = EventAddress(address.endpoint, None, address.topic)
        async with router(publisher, deaf) as new:
            await publisher.publish(block(3))
            await new.ears.until(lambda: new.ears.counts["batch"] == 1)
            told = await old.stories.tell("r0")
            assert told is not None
            assert await new.take(told) is Taken.ROLLED
            assert (new.trust, depth(new.house)) == (Trust.CATCHING_UP, 0)
            await publisher.publish(stored([60], None, part(0, 1)))
            await new.ears.until(lambda: depth(new.house) == 1)


async def test_a_story_of_another_process_is_known_by_a_batch_that_both_have_heard() -> None:
    async with old_and_new() as (_, _, _, told), publishing(2_000.0, blocks=3) as (publisher, address):
        publisher.rolled = 2
        async with router(publisher, address) as new:
            story = new.house.ingest.story(SEAT)
            assert await new.take(told) is Taken.OTHER_PROCESS
            assert new.house.ingest.story(SEAT) == story


async def test_a_story_of_a_process_that_is_gone_is_disproved_by_the_replay() -> None:
    async with old_and_new() as (_, _, _, told), publishing(2_000.0, blocks=6) as (publisher, address):
        publisher.rolled = 4
        async with router(publisher, address) as new:
            publisher.rolled = 0  # so that it returns the batch in question
            publisher.batches[:3] = [encoded(Batch(2_000.0 + n, (stored([n], None, [n] * SIZE),))) for n in range(3)]
            assert await new.take(told) is Taken.ROLLED
            assert depth(new.house) == 0, "nothing that was told is left"
            assert new.house.held(new.house.hashes([1] * SIZE)) == 1, "the replay told what is there instead"
            assert set(new.ears.causes) == {"join"}, "no process has ended that we knew of"


@pytest.mark.parametrize("cut", ["head", "part", "all"])
async def test_a_broken_story_changes_nothing(cut: str) -> None:
    async with old_and_new() as (_, _, new, told):
        story = new.house.ingest.story(SEAT)
        broken = {"head": told[:-1], "part": told[1:], "all": []}[cut]
        assert await new.take(broken) is Taken.MALFORMED
        assert new.house.ingest.story(SEAT) == story


async def test_a_story_of_a_fleet_with_another_seed_changes_nothing() -> None:
    async with old_and_new() as (_, _, new, told):
        head = msgspec.msgpack.decode(told[-1])
        head[1] ^= 1
        story = new.house.ingest.story(SEAT)
        assert await new.take([*told[:-1], msgspec.msgpack.encode(head)]) is Taken.OTHER_HASHES
        assert new.house.ingest.story(SEAT) == story


async def test_a_story_there_is_no_memory_for_is_left_alone() -> None:
    async with old_and_new() as (_, _, new, told):
        budget = new.house.index.budget
        budget.limit_bytes = budget.used_bytes + 500
        story = new.house.ingest.story(SEAT)
        assert await new.take(told) is Taken.NO_ROOM
        assert new.house.ingest.story(SEAT) == story
        budget.limit_bytes = budget.used_bytes
        assert new.stories.wanted() == []


async def test_who_knows_the_whole_takes_nothing_and_who_does_not_tells_nothing() -> None:
    async with old_and_new() as (_, old, new, told):
        assert await old.take(told) is Taken.NOT_NEEDED
        assert await new.stories.tell("r0") is None
        assert await old.stories.tell("r9") is None
        assert await old.stories.take("r9", told) is Taken.NOT_NEEDED
        assert not old.stories.knows("r9")


async def test_a_cache_emptied_while_its_story_is_told_or_taken_over_is_empty() -> None:
    pace = Interrupting()
    async with old_and_new(pace) as (publisher, _, new, told):
        reads = iter(range(9))
        pace.then = lambda: new.house.ingest.cleared(SEAT) if next(reads) == 1 else None
        assert await new.take(told) is Taken.NOT_NEEDED
        assert (new.trust, depth(new.house)) == (Trust.EXACT, 0)
        await publisher.publish(stored(range(60, 66), None, PROMPT))
        await new.ears.until(lambda: depth(new.house) == 6)
        pace.then = lambda: new.house.ingest.cleared(SEAT)
        assert await new.stories.tell("r0") is None
