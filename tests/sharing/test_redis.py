"""The line between routers over a real Redis, both ends in one event loop."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
import redis.asyncio
import uvloop

from loadtest.chaos.wires import Carries, Wire
from loadtest.processes import free_ports
from router.clock import SystemClock
from router.config import SharedSettings
from router.fleet.ledger import LeaseId, Ledger
from router.fleet.rates import Rates
from router.fleet.replica import Facts, Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.index.open_blocks import OpenBlocks
from router.metrics import Tally
from router.sharing import redis as redis_line
from router.sharing.message import Row, Told, pack
from router.sharing.redis import Line
from tests.sharing.server import Server, all_up, redis_server, until


@dataclass
class End:
    """One router, as far as it shares."""

    settings: SharedSettings
    router: str
    roster: Roster = field(default_factory=Roster)
    ledger: Ledger = field(default_factory=Ledger)
    rates: Rates = field(default_factory=Rates)
    counts: Tally = field(default_factory=lambda: Tally("t", "t", "outcome"))
    said: list[str] = field(default_factory=list)
    freed: int = 0
    index: MemoryIndex = field(default_factory=lambda: MemoryIndex(Budget(1 << 20)))
    used: OpenBlocks = field(default_factory=lambda: OpenBlocks(1024))

    def __post_init__(self) -> None:
        self.on_freed = self.count
        for number in range(2):
            seat = self.roster.join(Replica(ReplicaId(f"r{number}"), f"http://r{number}:8000"))
            self.roster.update(seat, Facts((), 512, 100))
            self.ledger.join(seat)
            self.index.join(seat)
        self.line = Line(
            self.settings,
            self.router,
            roster=self.roster,
            ledger=self.ledger,
            rates=self.rates,
            index=self.index,
            open_blocks=self.used,
            freed=(lambda: self.on_freed(),),
            clock=SystemClock(),
            counts=self.counts,
            say=self.said.append,
            rng=Random(),
        )

    def count(self) -> None:
        self.freed += 1

    def open(self, seat: int) -> LeaseId:
        return self.ledger.open(
            Seat(seat),
            uncached_tokens=10,
            prompt_tokens=15,
            output_tokens_estimate=5,
            streamed=True,
            now_seconds=0.0,
            prefill_ends_at_seconds=0.0,
        )

    def counted(self, outcome: str) -> int:
        return int(sum(s.value for s in self.counts.family().samples if s.labels["outcome"] == outcome))


@asynccontextmanager
async def sharing(server: Server, *names: str, fleet: str = "homing") -> AsyncIterator[list[End]]:
    """These routers, all up."""
    ends = [End(SharedSettings(redis_url=server.url, name=fleet), name) for name in names]
    async with all_up(*(end.line for end in ends)):
        yield ends


async def test_an_open_request_is_seen_by_every_other_router_and_gone_when_it_ends() -> None:
    async with redis_server() as server, sharing(server, "one", "two", "three") as (one, two, three):
        lease = one.open(1)
        await until(lambda: all(end.ledger.queued_tokens[1] == 10 for end in (two, three)))
        assert not three.freed
        one.ledger.first_token(lease)
        await until(lambda: three.ledger.context_tokens[1] == 20)
        assert (three.ledger.own_requests(Seat(1)), three.ledger.peer_requests(Seat(1))) == (0, 1)
        assert three.freed, "fewer tokens are queued: somebody may be held back for them"
        one.ledger.close(lease)
        await until(lambda: all(end.ledger.open_requests[1] == 0 for end in (two, three)))
        assert two.freed, "somebody may wait for its room"
        assert one.ledger.peer_requests(Seat(1)) == 0


async def test_what_an_open_request_is_about_to_cache_is_expected_by_every_other_router_until_it_ends() -> None:
    prompt = array("Q", range(1, 9))  # of 512 tokens each

    def seen(end: End) -> tuple[list[float], list[float]]:
        seats = np.array([0, 1])
        return end.index.match(prompt, seats, 512).expected.tolist(), end.used.tokens_of(seats).tolist()

    async with redis_server() as server, sharing(server, "one", "two") as (one, two):
        lease = one.open(1)
        one.index.recent.open(lease, Seat(1), prompt, 0)
        await until(lambda: seen(two) == ([0, 4096], [0, 4096]))
        async with sharing(server, "three") as (three,):
            await until(lambda: seen(three) == ([0, 4096], [0, 4096]))
        one.index.recent.close(lease)
        await until(lambda: seen(two) == ([0, 0], [0, 4096]))
        one.ledger.close(lease)
        await until(lambda: seen(two) == ([0, 0], [0, 0]))


async def test_a_newcomer_learns_at_once_what_was_open_and_learned_before_it_came() -> None:
    async with redis_server() as server, sharing(server, "one") as (one,):
        one.open(0)
        for _ in range(100):
            one.rates.observe(
                "m", Seat(0), streamed=True, uncached_tokens=40_000, ttft_seconds=1.0, predicted_queue_seconds=0.0
            )
        async with sharing(server, "two") as (two,):
            await until(lambda: two.ledger.peer_requests(Seat(0)) == 1)
            await until(lambda: two.rates.model_tokens_per_second("m") == pytest.approx(40_000))
        await until(lambda: "router two has left" in one.said)


async def test_fleets_of_other_names_do_not_hear_each_other() -> None:
    async with (
        redis_server() as server,
        sharing(server, "one", fleet="blue") as (one,),
        sharing(server, "two", fleet="green") as (two,),
    ):
        one.open(0)
        await until(lambda: one.counted("own") >= 3)
        assert (len(one.line.peers), len(two.line.peers), two.ledger.peer_requests(Seat(0))) == (0, 0, 0)


async def test_strange_messages_are_counted_and_change_nothing() -> None:
    async with redis_server() as server, sharing(server, "one") as (one,):
        async with redis.asyncio.Redis.from_url(server.url) as other:
            await other.publish(one.line.channel, b"hello")
            await until(lambda: one.counted("malformed") == 1)
            for number in (0, 2, 2):
                row = Row("r0", 1 + number, 0, 0)
                await other.publish(one.line.channel, pack(Told("two", "b", number, number == 0, (row,))))
            await until(lambda: one.counted("old") == 1)
        assert (one.counted("new"), one.counted("gap")) == (1, 1)
        assert one.ledger.peer_requests(Seat(0)) == 3
        assert one.line.up


async def test_two_routers_of_one_name_are_both_counted_and_told_of() -> None:
    async with redis_server() as server, sharing(server, "one", "one") as (first, second):
        first.open(0)
        await until(lambda: second.ledger.peer_requests(Seat(0)) == 1)
        told = "another router calls itself one, too: give each its own shared.router"
        await until(lambda: all(told in end.said for end in (first, second)))


async def test_without_redis_a_router_says_so_once_and_shares_as_soon_as_it_is_there() -> None:
    async with redis_server() as server:
        await server.kill()
        end = End(SharedSettings(redis_url=server.url), "one")
        task = asyncio.ensure_future(end.line.run())
        try:
            await until(lambda: end.counted("lost") >= 3)
            assert (end.line.up, len(end.said)) == (False, 1)
            assert "is away (" in end.said[0]
            end.open(0)
            await server.start()
            await until(lambda: end.line.up)
            assert "again after" in end.said[1]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_redis_that_wants_a_password_is_told_of_by_its_own_words() -> None:
    async with redis_server() as server:
        async with redis.asyncio.Redis.from_url(server.url) as other:
            await other.config_set("requirepass", "hunter2")
        end = End(SharedSettings(redis_url=server.url), "one")
        task = asyncio.ensure_future(end.line.run())
        try:
            await until(lambda: end.said)
            assert "authenticated" in end.said[0]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_fault_of_ours_is_told_and_the_line_made_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redis_line, "LONGEST_WAIT_SECONDS", 0.01)
    async with redis_server() as server, sharing(server, "one", "two") as (one, two):
        lease = one.open(0)
        await until(lambda: two.ledger.peer_requests(Seat(0)) == 1)

        def freed() -> None:
            two.freed += 1
            raise RuntimeError("a bug")

        two.on_freed = freed
        one.ledger.close(lease)
        await until(lambda: two.freed)
        two.on_freed = two.count
        await until(lambda: any(" is away (a bug)" in line for line in two.said))
        await until(lambda: two.line.up and two.said[-1].startswith("shared: "))
        one.open(1)
        await until(lambda: two.ledger.peer_requests(Seat(1)) == 1)
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_a_write_to_a_connection_that_was_just_closed_is_a_loss_and_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    async def scene() -> None:
        port = free_ports(1)[0]
        async with redis_server() as server:
            wire = Wire(port, server.port)
            await wire.start()
            end = End(SharedSettings(redis_url=f"redis://127.0.0.1:{port}/0"), "one")
            running = asyncio.ensure_future(end.line.run())
            for _ in range(5):
                await until(lambda: end.line.up)
                await wire.change(Carries.NONE)
                await until(lambda: not end.line.up)
                await wire.change(Carries.ALL)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            wire.close()

    uvloop.run(scene())  # whose transports, unlike asyncio's, raise
    assert "Traceback" not in capsys.readouterr().err


def test_without_the_client_package_the_fault_says_what_to_install() -> None:
    assert redis_line.missing_client() == []
    assert redis_line.missing_client("a package nobody has") == [
        "shared.redis_url: the Redis client is missing. pip install 'homing[redis]'"
    ]
