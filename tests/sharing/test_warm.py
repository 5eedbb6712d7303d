"""Routers that ask each other what they know of caches, over a real Redis, both ends in one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from random import Random

import redis.asyncio

from router.clock import SystemClock
from router.config import SharedSettings
from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.roster import Roster
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.metrics import Tally
from router.sharing.redis import Line
from router.sharing.warm import KEPT_SECONDS, PARTS_AT_ONCE
from tests.sharing.server import Server, all_up, redis_server, until


class End(Enum):
    TAKEN = "taken"
    USELESS = "useless"


class Known:
    """What one router knows of caches: parts by replica."""

    def __init__(self, wants: Sequence[str] = (), **known: list[bytes]) -> None:
        self.wants = list(wants)
        self.known = known
        self.told: list[str] = []
        self.taken: dict[str, list[bytes]] = {}
        self.useless = 0  # so many snapshots will not do

    def wanted(self) -> list[str]:
        return self.wants

    def knows(self, replica: str) -> bool:
        return replica in self.known

    async def tell(self, replica: str) -> list[bytes] | None:
        self.told.append(replica)
        return self.known.get(replica)

    async def take(self, replica: str, told: Sequence[bytes]) -> End:
        if self.useless:
            self.useless -= 1
            return End.USELESS
        self.taken[replica] = list(told)
        self.wants.remove(replica)
        return End.TAKEN


class Router:
    def __init__(self, server: Server, name: str, stories: Known) -> None:
        self.stories = stories
        self.shared, self.warm = (Tally("t", "t", "outcome") for _ in range(2))
        self.said: list[str] = []
        roster = Roster()
        self.line = Line(
            SharedSettings(redis_url=server.url),
            name,
            roster=roster,
            ledger=Ledger(),
            rates=Rates(),
            index=MemoryIndex(Budget(1 << 20)),
            open_blocks=None,
            freed=(),
            clock=SystemClock(),
            counts=self.shared,
            say=self.said.append,
            rng=Random(),
            stories=stories,
            warm_counts=self.warm,
        )

    def counted(self, outcome: str) -> int:
        return int(sum(s.value for s in self.warm.family().samples if s.labels["outcome"] == outcome))


@asynccontextmanager
async def routers(server: Server, *stories: Known) -> AsyncIterator[list[Router]]:
    """All up."""
    ends = [Router(server, f"router{number}", one) for number, one in enumerate(stories)]
    async with all_up(*(end.line for end in ends)):
        yield ends


async def test_a_newcomer_is_told_by_one_of_those_who_know_and_every_part_arrives_in_order() -> None:
    parts = [number.to_bytes(2, "big") * 100 for number in range(3 * PARTS_AT_ONCE)]
    knows = [Known(r0=parts) for _ in range(3)]
    async with redis_server() as server, routers(server, *knows) as olds:
        async with routers(server, Known(["r0"])) as (new,):
            await until(lambda: new.stories.taken)
            assert new.stories.taken == {"r0": parts}
            assert new.counted("taken") == 1
        assert sum(len(one.told) for one in knows) == 1
        await until(lambda: sum(old.counted("told") for old in olds) == 1)
        async with redis.asyncio.Redis.from_url(server.url) as client:
            keys = await client.keys("homing:1:story:*")
            assert len(keys) == 1
            assert 0 < await client.ttl(keys[0]) <= KEPT_SECONDS, "Redis drops it by itself"


async def test_newcomers_that_start_together_read_the_same_snapshot() -> None:
    knows = Known(r0=[b"a", b"b"])
    async with (
        redis_server() as server,
        routers(server, knows),
        routers(server, Known(["r0"]), Known(["r0"])) as news,
    ):
        await until(lambda: all(new.stories.taken for new in news))
        assert len(knows.told) <= 2, "the second may have asked when the first had been answered"


async def test_who_comes_a_moment_later_reads_what_the_first_was_told_and_no_router_need_tell_it_again() -> None:
    knows = Known(r0=[b"a", b"b"])
    async with redis_server() as server, routers(server, knows), redis.asyncio.Redis.from_url(server.url) as client:
        async with routers(server, Known(["r0"])) as (first,):
            await until(lambda: first.stories.taken)
        await client.persist("homing:1:claim:r0")  # as if no time had gone by
        async with routers(server, Known(["r0"])) as (second,):
            await until(lambda: second.stories.taken)
            assert second.stories.taken == {"r0": [b"a", b"b"]}
        assert knows.told == ["r0"]


async def test_what_nobody_knows_is_asked_for_again_and_is_taken_when_somebody_does() -> None:
    old, new = Known(), Known(["r0"])
    async with redis_server() as server, routers(server, old, new) as (_, newcomer):
        await until(lambda: newcomer.counted("unanswered") == 1)
        assert not old.told
        old.known["r0"] = [b"a"]
        await until(lambda: new.taken)


async def test_a_snapshot_that_was_of_no_use_is_asked_for_again() -> None:
    old, new = Known(r0=[b"a"]), Known(["r0"])
    new.useless = 1
    async with redis_server() as server, routers(server, old, new) as (_, newcomer):
        await until(lambda: new.taken)
        assert (newcomer.counted("useless"), newcomer.counted("taken"), len(old.told)) == (1, 1, 2)


async def test_nobody_takes_what_he_does_not_want_and_noise_on_the_channel_harms_nobody() -> None:
    old, idle = Known(r0=[b"a"]), Known()
    async with redis_server() as server, routers(server, old, idle) as (_, bystander):
        async with redis.asyncio.Redis.from_url(server.url) as client:
            for noise in (b"\xc1", b"", b"\x93\x01\x02\x03"):
                await client.publish("homing:1:warm", noise)
        async with routers(server, Known(["r0"])) as (new,):
            await until(lambda: new.stories.taken)
        assert not idle.taken
        assert bystander.line.up


async def test_a_snapshot_that_redis_does_not_accept_leaves_the_line_up() -> None:
    old, new = Known(r0=[b"a"]), Known(["r0"])
    async with redis_server() as server, redis.asyncio.Redis.from_url(server.url) as client:
        await client.config_set("maxmemory", "1")  # whatever stores is refused; what is published is not kept
        async with routers(server, old, new) as (teller, newcomer):
            await until(lambda: teller.counted("lost") >= 1)
            await client.config_set("maxmemory", "0")
            await until(lambda: new.taken)
            assert teller.line.up
            assert newcomer.line.up
            shared = [int(s.value) for s in teller.shared.family().samples if s.labels["outcome"] == "lost"]
            assert shared == [], "the load is shared all the while"
