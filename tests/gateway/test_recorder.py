"""Off until asked, bounded while on, off again when the listener goes."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.clock import ManualClock
from router.gateway.exchange import Exchange
from router.gateway.recorder import (
    LINGER_SECONDS,
    MOST_WAITING,
    MOST_WAITING_IDS,
    QUIET_FLUSHES,
    AlreadyRecording,
    Recorder,
    Recording,
)
from router.gateway.stream import Usage
from router.policy.decision import chosen
from router.policy.load import load
from router.prompt.prompt import Prompt
from router.prompt.request import Endpoint
from tests.policy.makers import candidate, choice, columns

pytestmark = pytest.mark.looptime

POLICY = load("round_robin")
CANDIDATES = columns(candidate(0))
DECIDED = chosen(CANDIDATES, 0, 64, POLICY, "round_robin", choice(POLICY, CANDIDATES).cost_seconds)


def finished(
    arrived_seconds: float = 0.0, *, model: str = "m", blocks: int = 3, sent: bool = True, session: str | None = None
) -> Exchange:
    exchange = Exchange("id", None, Endpoint.CHAT, arrived_seconds, 0.0, explained=False, model=model)
    hashes = {64: array("Q", range(blocks))}
    exchange.prompt = Prompt(None, 200, 200, 0, hashes, prefix_key=0, prompts=1, unpredicted=None)
    exchange.session_key = session
    exchange.decision = DECIDED if sent else None
    return exchange


class Listener:
    """Hears a recording line by line."""

    def __init__(self, seconds: float = 60.0, model: str | None = None, idle: bool = True) -> None:
        self.clock, self.recorder, self.idle = ManualClock(), Recorder(), idle
        self.said: list[str] = []
        self.recorder.say = self.said.append
        self.stream: AsyncIterator[bytes] = self.recorder.stream(
            seconds=seconds, model=model, fleet={"replicas": 3}, clock=self.clock, idle=lambda: self.idle
        )

    async def hear(self) -> dict[str, object]:
        told: dict[str, object] = msgspec.json.decode((await anext(self.stream)).splitlines()[0])
        return told

    async def rest(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) async for chunk in self.stream for line in chunk.splitlines() if line]

    @property
    def recording(self) -> Recording:
        assert self.recorder.recording is not None
        return self.recorder.recording


async def test_it_is_on_from_the_first_line_heard_to_the_last() -> None:
    listener = Listener()
    assert listener.recorder.recording is None
    assert await listener.hear() == {"recording": {"version": 1, "replicas": 3}}
    listener.recording.note(finished(1.0), 20, 60.0)
    assert (await listener.hear())["timestamp"] == 1000
    listener.clock.advance(60.0)
    assert await listener.rest() == [
        {"recording_end": {"requests": 1, "dropped": 0, "left_out": 0, "seconds": 60.0}},
    ]
    assert listener.recorder.recording is None
    assert len(listener.said) == 2


async def test_a_listener_that_goes_away_ends_it() -> None:
    listener = Listener()
    await listener.hear()
    waiting = asyncio.ensure_future(listener.hear())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert listener.recorder.recording is None


async def test_there_is_one_at_a_time() -> None:
    listener = Listener()
    await listener.hear()
    with pytest.raises(AlreadyRecording):
        listener.recorder.stream(seconds=1, model=None, fleet={}, clock=listener.clock, idle=lambda: True)


async def test_of_two_that_asked_in_one_moment_the_second_hears_nothing() -> None:
    listener = Listener()
    second = listener.recorder.stream(seconds=1, model=None, fleet={}, clock=listener.clock, idle=lambda: True)
    await listener.hear()
    assert [line async for line in second] == []
    listener.recording.note(finished(), 20, 60.0)
    assert "timestamp" in await listener.hear()


async def test_it_waits_for_answers_still_being_written_but_not_for_ever() -> None:
    listener = Listener(idle=False)
    await listener.hear()
    listener.clock.advance(60.0)
    listener.recording.note(finished(59.0), 20, 60.0)
    assert (await listener.hear())["timestamp"] == 59000
    listener.clock.advance(LINGER_SECONDS)
    assert "recording_end" in (await listener.rest())[-1]


async def test_a_request_that_ends_with_the_last_one_is_told() -> None:
    listener = Listener()
    await listener.hear()
    listener.clock.advance(60.0)
    ending = asyncio.ensure_future(listener.rest())
    await asyncio.sleep(0)  # it has seen that nothing is served any more
    listener.recording.note(finished(59.0), 20, 60.0)
    assert len(await ending) == 2


async def test_when_homing_stops_the_listener_hears_how_it_went() -> None:
    listener = Listener(idle=False)
    listener.recorder.stop()
    await listener.hear()
    listener.recording.note(finished(0.0), 20, 60.0)
    listener.recorder.stop()
    assert [*map(list, await listener.rest())][1] == ["recording_end"]


async def test_silence_is_broken_by_empty_lines() -> None:
    listener = Listener()
    await listener.hear()
    began_seconds = asyncio.get_running_loop().time()
    assert await anext(listener.stream) == b"\n"
    assert asyncio.get_running_loop().time() - began_seconds == pytest.approx(0.2 * QUIET_FLUSHES)


async def test_only_what_arrived_meanwhile_for_its_model_and_was_sent_is_in_it() -> None:
    listener = Listener(seconds=10.0, model="m")
    await listener.hear()
    note = listener.recording.note
    listener.recording.began_seconds = 5.0
    note(finished(4.9), 20, 60.0)
    note(finished(10.1), 20, 60.0)
    note(finished(6.0, model="other"), 20, 60.0)
    note(finished(6.0, sent=False), 20, 60.0)
    note(finished(6.0), 20, 60.0)
    told = await listener.hear()
    listener.clock.advance(10.0)
    (end,) = await listener.rest()
    assert told["timestamp"] == 1000
    assert end == {"recording_end": {"requests": 1, "dropped": 0, "left_out": 1, "seconds": 5.0}}


@pytest.mark.parametrize(("blocks", "room"), [(0, MOST_WAITING), (100_000, MOST_WAITING_IDS // 100_000)])
def test_what_finds_no_room_in_the_queue_is_dropped_and_counted(blocks: int, room: int) -> None:
    recording = Recording(0.0, 60.0, None)
    exchange = finished(blocks=blocks)
    for _ in range(room + 3):
        recording.note(exchange, 20, 60.0)
    assert recording.dropped == 3
    assert len(recording.take()) == room
    recording.note(exchange, 20, 60.0)
    assert len(recording.take()) == 1


async def test_of_a_split_request_the_replica_that_computed_the_prompt_says_what_was_cached() -> None:
    listener = Listener()
    await listener.hear()
    exchange = finished()
    exchange.usage, exchange.donor = Usage(200, 1, 199), finished()
    exchange.donor.usage = Usage(200, 1, 64)
    listener.recording.note(exchange, 1, 1.0)
    assert (await listener.hear())["cached_length"] == 64
