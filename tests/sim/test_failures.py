"""Failure switches do to a live replica what they say, and events can be had again by replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio

from router.sim.engine import EngineLimits
from router.sim.failures import Failures, Order
from router.sim.publish import END_OF_REPLAY, EventSettings
from router.sim.server import EVENTS_PORT_OFFSET, REPLAY_PORT_OFFSET, FleetConfig
from router.sim.wire import Encoding
from tests.sim.fleets import fleet_config, serving


class Fleet:
    """Two replicas and a client of both."""

    def __init__(self, config: FleetConfig, http: httpx.AsyncClient) -> None:
        self.config = config
        self.http = http

    def url(self, path: str, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self.config.port + replica}{path}"

    async def order(self, through: int = 0, **switches: object) -> None:
        reply = await self.http.post(self.url("/sim/failures", through), json=switches)
        assert reply.status_code == 200

    async def ask(self, tokens: range = range(40), **fields: object) -> httpx.Response:
        body = {"model": "tiny", "prompt": list(tokens), "max_tokens": 5} | fields
        return await self.http.post(self.url("/v1/completions"), json=body, timeout=5)

    async def up(self) -> None:
        """Wait until the first replica listens again."""
        while True:
            try:
                await self.http.get(self.url("/health"))
            except httpx.TransportError:
                await asyncio.sleep(0)
            else:
                return

    async def start_time(self) -> str:
        text = (await self.http.get(self.url("/metrics"))).text
        return next(line for line in text.splitlines() if line.startswith("process_start_time_seconds "))


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    config = fleet_config(replicas=2, limits=EngineLimits(block_count=65, block_size_tokens=16))
    async with serving(config), httpx.AsyncClient() as http:
        yield Fleet(config, http)


async def replayed(config: FleetConfig, first: int = 0) -> list[list[bytes]]:
    """All answers to a replay request, the end marker included."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{config.port + REPLAY_PORT_OFFSET}")
    try:
        await socket.send_multipart([b"", first.to_bytes(8, "big")])
        frames = [await socket.recv_multipart()]
        while frames[-1][-2] != END_OF_REPLAY:
            frames.append(await socket.recv_multipart())
        return frames
    finally:
        socket.close(linger=0)
        context.term()


async def test_a_status_is_answered_as_often_as_ordered(fleet: Fleet) -> None:
    await fleet.order(status=503, status_count=2)
    assert [(await fleet.ask()).status_code for _ in range(3)] == [503, 503, 200]


async def test_a_connection_is_reset_before_or_inside_an_answer(fleet: Fleet) -> None:
    await fleet.order(reset_connection=1, die_after_chunks=2, die_after_chunks_count=1)
    for stream in (False, True):
        with pytest.raises(httpx.TransportError):
            await fleet.ask(stream=stream)
    assert (await fleet.ask(stream=True)).text.endswith("data: [DONE]\n\n")


async def test_a_hung_replica_accepts_and_never_answers(fleet: Fleet) -> None:
    await fleet.order(hang=True)
    with pytest.raises(httpx.ReadTimeout):
        await fleet.http.get(fleet.url("/health"), timeout=0.05)
    await fleet.order(hang=False)
    assert (await fleet.ask()).status_code == 200


async def test_a_dead_replica_refuses_connections_until_ordered_back_through_another(fleet: Fleet) -> None:
    born = await fleet.start_time()
    await fleet.ask()
    await fleet.order(die=True)
    with pytest.raises(httpx.TransportError):
        await fleet.ask()
    await fleet.order(through=1, replica=0, die=False)
    await fleet.up()
    assert (await fleet.ask()).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert await fleet.start_time() != born


async def test_a_restart_breaks_streams_and_numbers_events_from_zero_under_new_names(fleet: Fleet) -> None:
    await fleet.ask()
    (before, _) = await replayed(fleet.config)
    await fleet.order(slow=200.0)
    restart = fleet.order(through=1, replica=0, restart=True)
    _, broken = await asyncio.gather(restart, fleet.ask(max_tokens=500), return_exceptions=True)
    assert isinstance(broken, httpx.TransportError)
    await fleet.up()
    await fleet.order(clear=True)
    assert (await fleet.ask()).status_code == 200
    (after, _) = await replayed(fleet.config)
    assert before[2] == after[2] == bytes(8)
    names = [msgspec.msgpack.decode(frames[3])[1][0]["block_hashes"] for frames in (before, after)]
    assert names[0] != names[1]


async def test_a_silent_restart_drops_no_connection_but_the_cache(fleet: Fleet) -> None:
    await fleet.ask()
    await fleet.order(restart_silent=True)
    assert (await fleet.ask()).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert len(await replayed(fleet.config)) == 2


async def test_a_dropped_batch_is_missing_live_and_there_in_the_replay(fleet: Fleet) -> None:
    context = zmq.asyncio.Context()
    live = context.socket(zmq.SUB)
    live.connect(f"tcp://127.0.0.1:{fleet.config.port + EVENTS_PORT_OFFSET}")
    live.subscribe(b"kv")
    try:
        seen = await heard(fleet, live)
        await fleet.order(drop_events_batches=1)
        await fleet.ask(range(1000, 1040))
        await fleet.ask(range(2000, 2040))
        frames = await live.recv_multipart()
        assert int.from_bytes(frames[1], "big") == seen + 2
        sequences = [int.from_bytes(frames[2], "big") for frames in (await replayed(fleet.config, seen))[:-1]]
        assert sequences == [seen, seen + 1, seen + 2]
    finally:
        live.close(linger=0)
        context.term()


async def heard(fleet: Fleet, live: zmq.asyncio.Socket) -> int:
    """Send prompts until the subscription has taken hold; the number of the last batch, which was heard."""
    start = 3000
    while True:
        start += 100
        await fleet.ask(range(start, start + 40))
        if await live.poll(20):
            last = -1
            while await live.poll(20):
                last = int.from_bytes((await live.recv_multipart())[1], "big")
            return last


async def test_a_replay_buffer_forgets_and_older_versions_leave_the_topic_out() -> None:
    events = EventSettings(topic="kv", buffer_steps=2, topic_in_replay=False, encoding=Encoding.ARRAYS)
    config = fleet_config(events=events)
    async with serving(config), httpx.AsyncClient() as http:
        fleet = Fleet(config, http)
        for start in range(0, 400, 100):
            await fleet.ask(range(start, start + 40))
        first, second, end = await replayed(config)
    assert [int.from_bytes(frames[1], "big") for frames in (first, second)] == [2, 3]
    assert msgspec.msgpack.decode(first[2])[1][0][0] == "BlockStored"
    assert end == [b"", END_OF_REPLAY, b""]


async def test_a_slow_replica_is_slow(fleet: Fleet) -> None:
    await fleet.ask()
    await fleet.order(slow=100.0)
    begun = time.monotonic()
    await fleet.ask(max_tokens=10)
    assert time.monotonic() - begun > 0.09


async def test_an_unknown_switch_is_refused(fleet: Fleet) -> None:
    reply = await fleet.http.post(fleet.url("/sim/failures"), json={"explode": True})
    assert reply.status_code == 400
    assert "explode" in reply.text


def sent(failures: Failures, count: int) -> list[int]:
    return [sequence for i in range(count) for sequence, _ in failures.published(i, b"payload")]


def test_the_same_seed_drops_the_same_batches() -> None:
    runs = []
    for _ in range(2):
        failures = Failures(seed=7)
        failures.obey(Order(drop_events_ratio=0.5))
        runs.append(sent(failures, 40))
    assert runs[0] == runs[1]
    assert 5 < len(runs[0]) < 35


def test_reordered_batches_swap_in_pairs() -> None:
    failures = Failures()
    failures.obey(Order(reorder_events=True))
    assert sent(failures, 6) == [1, 0, 3, 2, 5, 4]


def test_a_malformed_batch_is_no_msgpack() -> None:
    failures = Failures()
    failures.obey(Order(malformed_events=1))
    ((_, payload),) = failures.published(0, msgspec.msgpack.encode([1.0, []]))
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(payload)


async def test_batches_lost_before_they_are_numbered_leave_no_gap(fleet: Fleet) -> None:
    await fleet.ask()
    await fleet.order(lose_events_ratio=1.0)
    await fleet.ask(range(100, 140))
    await fleet.order(lose_events_ratio=0.0)
    await fleet.ask(range(200, 240))
    numbers = [int.from_bytes(frames[-2], "big") for frames in (await replayed(fleet.config))[:-1]]
    assert numbers == list(range(len(numbers)))
    told = b"".join(frames[-1] for frames in await replayed(fleet.config))
    assert msgspec.msgpack.encode(list(range(200, 216)))[3:] in told
    assert msgspec.msgpack.encode(list(range(100, 116)))[3:] not in told


async def test_another_engine_begins_empty_and_nothing_told_betrays_it(fleet: Fleet) -> None:
    await fleet.ask()
    before = await fleet.start_time()
    assert (await fleet.ask()).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 32
    await fleet.order(other_engine=True)
    assert (await fleet.ask()).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert await fleet.start_time() == before
    numbers = [int.from_bytes(frames[-2], "big") for frames in (await replayed(fleet.config))[:-1]]
    assert numbers == list(range(len(numbers)))


async def test_a_block_size_may_be_announced_that_is_not_so(fleet: Fleet) -> None:
    await fleet.order(announce_block_size=64)
    assert 'block_size="64"' in (await fleet.http.get(fleet.url("/metrics"))).text
    await fleet.order(announce_block_size=0)
    assert 'block_size="16"' in (await fleet.http.get(fleet.url("/metrics"))).text


async def test_a_preamble_stands_before_every_chat_and_before_nothing_else(fleet: Fleet) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    text = {"model": "tiny", "prompt": "hello"}

    async def counts() -> list[int]:
        answers = [await fleet.http.post(fleet.url("/tokenize"), json=body) for body in (chat, text)]
        return [answer.json()["count"] for answer in answers]

    before = await counts()
    await fleet.order(template_preamble="Once more: ")
    after = await counts()
    assert after[0] > before[0]
    assert after[1] == before[1]


async def test_hidden_salts_leave_the_events_and_stay_in_the_cache(fleet: Fleet) -> None:
    await fleet.order(hide_salts=True)
    await fleet.ask(cache_salt="tenant")
    assert (await fleet.ask()).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert b"tenant" not in b"".join(frames[-1] for frames in await replayed(fleet.config))
