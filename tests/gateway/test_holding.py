"""Waiting at the gateway for a replica's room: woken by news of room, by time, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from router.clock import ManualClock
from router.errors import NoReplica
from router.gateway.holding import Holding
from router.policy.hold import HoldRule


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


class Replicas:
    """Room, as a decision would find it."""

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[str] = []
        self.broken = False

    def goes(self, name: str) -> Callable[[bool], bool]:
        def go(forced: bool) -> bool:
            if self.broken:
                raise NoReplica("None is left.")
            if not forced and not self.room:
                return False
            self.room -= 1
            self.sent.append(name)
            return True

        return go


def held(most_seconds: float = 60.0) -> tuple[Holding, Replicas, ManualClock]:
    clock = ManualClock()
    return Holding(HoldRule(most_seconds=most_seconds), clock), Replicas(), clock


async def test_a_nudge_lets_the_next_one_go_and_counts_who_waits() -> None:
    holding, replicas, _ = held()
    tasks = [asyncio.ensure_future(holding.wait("m", None, replicas.goes(name))) for name in "ab"]
    await settle()
    assert holding.waiting == 2
    replicas.room = 1
    holding.nudge()
    await settle()
    assert (replicas.sent, holding.waiting) == (["a"], 1)
    replicas.room = 1
    holding.nudge()
    await asyncio.gather(*tasks)
    assert (replicas.sent, holding.waiting) == (["a", "b"], 0)


async def test_a_model_that_waits_does_not_stop_another() -> None:
    holding, full, _ = held()
    idle = Replicas()
    waits = asyncio.ensure_future(holding.wait("full", None, full.goes("f")))
    goes = asyncio.ensure_future(holding.wait("idle", None, idle.goes("i")))
    await settle()
    idle.room = 1
    holding.nudge()
    await goes
    assert (full.sent, idle.sent, holding.waiting) == ([], ["i"], 1)
    full.room = 1
    holding.nudge()
    await waits


async def test_who_hangs_up_is_not_sent_and_takes_nobodys_room() -> None:
    holding, replicas, _ = held()
    gone = asyncio.ensure_future(holding.wait("m", None, replicas.goes("gone")))
    stays = asyncio.ensure_future(holding.wait("m", None, replicas.goes("stays")))
    await settle()
    gone.cancel()
    replicas.room = 1
    holding.nudge()  # in the very turn of the loop in which it hung up
    await stays
    assert replicas.sent == ["stays"]
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert holding.waiting == 0


async def test_without_any_nudge_room_is_found_and_the_longest_wait_ends() -> None:
    holding, replicas, clock = held(most_seconds=5.0)
    one = asyncio.ensure_future(holding.wait("m", None, replicas.goes("one")))
    await settle()
    replicas.room = 1
    await one  # the tick found it
    forced = asyncio.ensure_future(holding.wait("m", None, replicas.goes("forced")))
    await settle()
    clock.advance(5.0)
    await forced
    assert replicas.sent == ["one", "forced"]


async def test_when_nobody_is_left_to_wait_for_all_are_told() -> None:
    holding, replicas, _ = held()
    tasks = [asyncio.ensure_future(holding.wait("m", None, replicas.goes(name))) for name in "ab"]
    await settle()
    replicas.broken = True
    holding.nudge()
    for task in tasks:
        with pytest.raises(NoReplica):
            await task
    assert holding.waiting == 0


async def test_a_bug_ends_the_request_it_meets_and_the_others_go_on() -> None:
    holding, replicas, _ = held()

    def broken(forced: bool) -> bool:
        raise ZeroDivisionError

    one = asyncio.ensure_future(holding.wait("m", None, broken))
    other = asyncio.ensure_future(holding.wait("m", None, replicas.goes("other")))
    await settle()
    replicas.room = 1
    with pytest.raises(ZeroDivisionError):
        await one
    await other
    assert replicas.sent == ["other"]


async def test_under_a_shorter_rule_nobody_waits_longer_than_it_says() -> None:
    holding, replicas, clock = held(most_seconds=60.0)
    waiting = asyncio.ensure_future(holding.wait("m", None, replicas.goes("a")))
    await settle()
    holding.heed(HoldRule(most_seconds=5.0))
    await settle()
    assert replicas.sent == []
    clock.advance(5.0)
    holding.nudge()
    await waiting
    assert replicas.sent == ["a"]


async def test_when_the_rule_goes_whoever_waits_is_asked_again_at_once() -> None:
    holding, replicas, _ = held()
    waiting = asyncio.ensure_future(holding.wait("m", None, replicas.goes("a")))
    await settle()
    replicas.room = 1
    holding.heed(None)
    await waiting
    assert (replicas.sent, holding.waiting) == (["a"], 0)
