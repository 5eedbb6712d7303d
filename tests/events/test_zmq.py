from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import zmq
import zmq.asyncio

from router.engines import vllm_wire
from router.events.kinds import Batch, Cleared, Removed, Stored
from router.events.pace import Pace
from router.events.zmq import Patience, Subscription
from router.fleet.replica import EventAddress, Seat
from router.index.base import Trust
from router.prompt.blocks import unpack_tokens
from tests.events.test_ingest import PROMPT, SEAT, SIZE, House, part, stored

HASTY = Patience(replay_silence=0.1, retry_after=(), reconnect=0.01, reconnect_most=0.02)


class Ears:
    """Observer that lets a test wait until something is so."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.causes: list[str] = []
        self.up = False
        self.also: Callable[[str], object] = self.counts.get  # is told as well; does nothing unless a test says so
        self._changed = asyncio.Event()

    def counted(self, seat: Seat, what: str, count: int) -> None:
        self.counts[what] += count
        self.also(what)
        self._changed.set()

    def forgotten(self, seat: Seat, cause: str) -> None:
        self.causes.append(cause)
        self._changed.set()

    def stream(self, seat: Seat, *, up: bool) -> None:
        self.up = up
        self.also("up" if up else "down")
        self._changed.set()

    async def until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not so():
                self._changed.clear()
                await self._changed.wait()


class Publisher:
    """vLLM's publisher: numbered batches to subscribers, and the last of them again to whoever asks."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        *,
        start_seconds: float,
        topic_in_replay: bool = True,
        send_queue_messages: int = 1000,
    ) -> None:
        self.batches: list[bytes] = []
        self.answers = True
        self.waits_to_be_subscribed = True  # before it publishes `meanwhile`
        self.rolled = 0  # batches that are kept for replay no longer
        self.answers_at_once: int | None = None  # more are dropped, and the end marker with them
        self.meanwhile: bytes | None = (
            None  # published live once, after a replay was asked for and before it is answered
        )
        self._start_seconds = start_seconds
        self._topic_in_replay = topic_in_replay
        self._live: zmq.asyncio.Socket = context.socket(zmq.XPUB)
        self._live.sndhwm = send_queue_messages
        self._live.setsockopt(zmq.XPUB_VERBOSE, 1)  # every subscriber is told of, not only the first
        self._replay: zmq.asyncio.Socket = context.socket(zmq.ROUTER)

    async def bind(self, live_port: int = 0, replay_port: int = 0) -> EventAddress:
        """Port 0: any. A port that a predecessor has just left may take a moment to be free."""
        ports = []
        for socket, port in ((self._live, live_port), (self._replay, replay_port)):
            socket.linger = 0
            async with asyncio.timeout(10):
                while True:
                    try:
                        socket.bind(f"tcp://127.0.0.1:{port or '*'}")
                        break
                    except zmq.ZMQError as fault:
                        if fault.errno != zmq.EADDRINUSE:
                            raise
                        await asyncio.sleep(0)
            endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
            assert isinstance(endpoint, bytes)
            ports.append(endpoint.rstrip(b"\0").decode())
        return EventAddress(endpoint=ports[0], replay=ports[1], topic="kv")

    async def serve(self) -> None:
        while True:
            who, _, first = await self._replay.recv_multipart()
            if not self.answers:
                continue
            begin = int.from_bytes(first, "big")
            topic = [b"kv@here"] if self._topic_in_replay else []
            answers = list(enumerate(self.batches))[max(begin, self.rolled) :]
            cut = answers[: self.answers_at_once]
            if self.meanwhile is not None:
                if self.waits_to_be_subscribed:
                    await self.subscribed()
                self.batches.append(self.meanwhile)
                self.meanwhile = None
                self.send_now(len(self.batches) - 1)
            for n, payload in cut:
                await self._replay.send_multipart([who, b"", *topic, n.to_bytes(8, "big"), payload])
            if len(cut) == self.answers_at_once and begin < len(self.batches) - 1:
                continue
            empty = [b""] if self._topic_in_replay else []
            await self._replay.send_multipart([who, b"", *empty, b"\xff" * 8, b""])

    async def subscribed(self) -> None:
        async with asyncio.timeout(20):
            assert await self._live.recv() == b"\x01kv"

    async def publish(self, *events: Stored | Removed | Cleared, lose: bool = False) -> None:
        n = len(self.batches)
        self.batches.append(encoded(Batch(self._start_seconds + n, events)))
        if not lose:
            await self.send(n, self.batches[n])

    async def send(self, n: int, payload: bytes) -> None:
        await self._live.send_multipart([b"kv@here", n.to_bytes(8, "big"), payload])

    def send_now(self, n: int) -> None:
        """Without giving anybody else a turn."""
        plain: zmq.Socket[bytes] = zmq.Socket.shadow(self._live.underlying)
        plain.send_multipart([b"kv@here", n.to_bytes(8, "big"), self.batches[n]], zmq.NOBLOCK)

    def close(self) -> None:
        self._live.close(0)
        self._replay.close(0)


def encoded(batch: Batch) -> bytes:
    """A batch as vLLM >= 0.24 writes it."""
    events: list[dict[str, object]] = []
    for event in batch.events:
        if isinstance(event, Stored):
            fields = {"parent_block_hash": event.parent, "token_ids": list(unpack_tokens(event.tokens))}
            events.append({"type": "BlockStored", "block_hashes": event.names, "block_size": SIZE, **fields})
        elif isinstance(event, Removed):
            events.append({"type": "BlockRemoved", "block_hashes": event.names, "medium": "GPU"})
        else:
            events.append({"type": "AllBlocksCleared"})
    return msgspec.msgpack.encode([batch.time_seconds, events, 0])


@asynccontextmanager
async def publishing(
    start_seconds: float = 1_000.0,
    *,
    at: EventAddress | None = None,
    topic_in_replay: bool = True,
    blocks: int = 0,
    send_queue_messages: int = 1000,
) -> AsyncIterator[tuple[Publisher, EventAddress]]:
    """A process that has published `blocks` batches, each a block of PROMPT, before anybody listened."""
    with zmq.asyncio.Context() as context:
        publisher = Publisher(
            context,
            start_seconds=start_seconds,
            topic_in_replay=topic_in_replay,
            send_queue_messages=send_queue_messages,
        )
        try:
            ports = [0, 0] if at is None else [int(str(end).rsplit(":", 1)[1]) for end in (at.endpoint, at.replay)]
            address = await publisher.bind(*ports)
            for n in range(blocks):
                publisher.batches.append(encoded(Batch(start_seconds + n, (block(n),))))
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(publisher.serve())
                try:
                    yield publisher, address
                finally:
                    serving.cancel()
        finally:
            publisher.close()


@asynccontextmanager
async def hearing(
    address: EventAddress, patience: Patience = HASTY, pace: Pace | None = None
) -> AsyncIterator[tuple[House, Ears, Subscription]]:
    house, ears = House(whole=None), Ears()
    house.ingest.stream(SEAT, up=False)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    subscription = Subscription(context, SEAT, address, vllm_wire, house.ingest, ears, pace or Pace(), patience)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(subscription.run())
            try:
                yield house, ears, subscription
            finally:
                task.cancel()
    finally:
        context.term()  # returns only when every socket has been closed


def block(n: int, name: int = 0) -> Stored:
    """Block n of PROMPT; names begin at `name`."""
    return stored([name + n], name + n - 1 if n else None, part(n, n + 1))


def depth(house: House) -> int:
    return house.held(house.hashes(PROMPT))


@pytest.mark.parametrize("topic_in_replay", [True, False])
async def test_what_was_missed_is_replayed_and_what_comes_is_heard(topic_in_replay: bool) -> None:
    async with (
        publishing(topic_in_replay=topic_in_replay, blocks=3) as (publisher, address),
        hearing(address) as (house, ears, _),
    ):
        await ears.until(lambda: ears.up)
        assert depth(house) == 3
        await publisher.subscribed()
        await publisher.publish(block(3))
        await ears.until(lambda: depth(house) == 4)
        assert house.ingest.trust(SEAT) is Trust.EXACT
        assert ears.causes == ["join"]


async def test_a_stream_is_up_only_when_what_came_during_the_replay_was_heard_too() -> None:
    async with publishing(blocks=3) as (publisher, address):
        publisher.meanwhile = encoded(Batch(1_003.0, (block(3),)))
        calm = Patience(reconnect=0.01, reconnect_most=0.02)
        async with hearing(address, calm) as (house, ears, _):
            held_when_up: list[int] = []
            ears.also = lambda what: held_when_up.append(depth(house)) if what == "up" else None
            await ears.until(lambda: ears.up)
            assert held_when_up == [4]


async def test_a_lost_batch_is_asked_for_again() -> None:
    async with publishing(blocks=1) as (publisher, address), hearing(address) as (house, ears, _):
        await publisher.subscribed()
        await publisher.publish(block(1), lose=True)
        await publisher.publish(block(2))
        await ears.until(lambda: depth(house) == 3)
        assert ears.causes == ["join"]


async def test_a_replay_that_loses_its_end_is_asked_for_again_as_long_as_it_brings_something() -> None:
    async with publishing(blocks=5) as (publisher, address):
        publisher.answers_at_once = 2
        async with hearing(address) as (house, ears, _):
            await ears.until(lambda: ears.up)
            assert depth(house) == 5
            assert (ears.counts["replay"], ears.counts["replay_timeout"]) == (1, 4)
            assert house.ingest.trust(SEAT) is Trust.EXACT


async def test_an_overflowed_publisher_leaves_a_gap_that_the_replay_fills() -> None:
    async with (
        publishing(blocks=1, send_queue_messages=1) as (publisher, address),
        hearing(address) as (house, ears, _),
    ):
        await publisher.subscribed()
        await ears.until(lambda: ears.up)
        for n in range(500):  # faster than a queue of one can be emptied: most are dropped in silence
            publisher.batches.append(encoded(Batch(1_001.0 + n, (stored([100 + n], None, [n] * SIZE),))))
            publisher.send_now(len(publisher.batches) - 1)
        await ears.until(lambda: ears.counts["batch"] >= 2)  # room again for the next one
        await publisher.publish(block(1))
        await ears.until(lambda: depth(house) == 2 and ears.counts["batch"] == 502)
        assert house.ingest.trust(SEAT) is Trust.EXACT
        assert ears.causes == ["join"]
        assert ears.counts["replay"] >= 2


async def test_a_clear_empties_the_replica_and_is_told() -> None:
    async with publishing(blocks=2) as (publisher, address), hearing(address) as (house, ears, _):
        await publisher.subscribed()
        await publisher.publish(Cleared(), block(0))
        await ears.until(lambda: ears.counts["batch"] == 3)
        assert depth(house) == 1
        assert ears.causes == ["join", "cleared"]


async def test_garbage_is_counted_and_the_stream_goes_on() -> None:
    async with publishing(blocks=1) as (publisher, address), hearing(address) as (house, ears, _):
        await publisher.subscribed()
        await publisher.send(7, b"garbage")
        await publisher.send(2**64 - 2, b"\xc1")
        await publisher.publish(block(1))
        await ears.until(lambda: depth(house) == 2)
        assert ears.counts["malformed_frame"] == 2
        assert house.ingest.trust(SEAT) is Trust.EXACT


async def test_a_batch_that_nobody_can_read_is_history_lost() -> None:
    async with publishing(blocks=1) as (publisher, address), hearing(address) as (house, ears, _):
        await publisher.subscribed()
        await ears.until(lambda: ears.up)
        publisher.batches.append(b"garbage")
        await publisher.send(1, b"garbage")
        await publisher.publish(block(0, name=50), block(1, name=50))
        await ears.until(lambda: depth(house) == 2)
        assert house.ingest.trust(SEAT) is Trust.CATCHING_UP
        assert ears.causes == ["join", "gap"]


async def test_a_replay_that_is_never_answered_leaves_the_beginning_missing() -> None:
    async with publishing(blocks=2) as (publisher, address):
        publisher.answers = False
        async with hearing(address) as (house, ears, _):
            await publisher.subscribed()
            await publisher.publish(block(2))
            await publisher.publish(stored([90], None, part(0, 1)))
            await ears.until(lambda: depth(house) == 1)
            assert house.ingest.trust(SEAT) is Trust.CATCHING_UP
            assert ears.counts["replay_failed"] > 0


async def test_a_gap_without_a_replay_endpoint_forgets_and_catches_up() -> None:
    async with publishing() as (publisher, address):
        deaf = EventAddress(address.endpoint, None, address.topic)
        async with hearing(deaf) as (house, ears, _):
            await publisher.subscribed()
            await publisher.publish(block(0))
            await ears.until(lambda: depth(house) == 1)
            assert house.ingest.trust(SEAT) is Trust.EXACT
            await publisher.publish(Removed((0,)), lose=True)
            await publisher.publish(stored([9], None, [1] * SIZE))
            await ears.until(lambda: "gap" in ears.causes and ears.counts["batch"] == 2)
            assert depth(house) == 0
            assert house.ingest.trust(SEAT) is Trust.CATCHING_UP


async def test_a_restart_behind_a_partition_with_a_higher_number_is_found_out() -> None:
    async with publishing(blocks=4) as (publisher, address), hearing(address) as (house, ears, _):
        await ears.until(lambda: ears.up and depth(house) == 4)
        publisher.close()
        await ears.until(lambda: not ears.up)
        assert house.ingest.trust(SEAT) is Trust.LOAD_ONLY
        async with publishing(start_seconds=9_000.0, at=address) as (successor, _):
            for n in range(6):  # two of our blocks, under names and numbers that mean nothing here
                await successor.publish(block(n, name=70) if n < 2 else stored([n], None, [n] * SIZE), lose=True)
            await ears.until(lambda: ears.up)
            await ears.until(lambda: depth(house) == 2)
            assert house.ingest.trust(SEAT) is Trust.EXACT
            assert "restart" in ears.causes


async def test_a_changed_start_time_empties_the_replica_and_asks_from_the_start() -> None:
    async with publishing(blocks=3) as (publisher, address), hearing(address) as (house, ears, subscription):
        await publisher.subscribed()
        subscription.process_started(100.0)
        await publisher.publish(block(3))
        await ears.until(lambda: ears.up and depth(house) == 4)
        subscription.process_started(200.0)
        await ears.until(lambda: ears.counts["batch"] == 8)
        assert ears.causes == ["join", "restart", "join"]  # told once
        assert house.ingest.trust(SEAT) is Trust.EXACT


async def test_silence_is_questioned_and_shows_what_was_lost_at_the_end() -> None:
    async with publishing(blocks=1) as (publisher, address):
        doubtful = Patience(replay_silence=1.0, retry_after=(), doubt_after=0.05)
        async with hearing(address, doubtful) as (house, ears, _):
            await ears.until(lambda: ears.up)
            await publisher.publish(block(1), lose=True)
            await ears.until(lambda: depth(house) == 2)
            assert ears.causes == ["join"]


async def test_an_address_nobody_listens_at_is_waited_for() -> None:
    async with publishing() as (_, address):
        pass
    async with hearing(address) as (house, ears, _):
        async with publishing(at=address, blocks=2):
            await ears.until(lambda: ears.up)
            assert depth(house) == 2
        await ears.until(lambda: not ears.up)
    assert house.ingest.trust(SEAT) is Trust.LOAD_ONLY


async def test_an_impossible_address_is_an_error_of_the_task() -> None:
    house, ears = House(whole=None), Ears()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    address = EventAddress("nonsense")
    with pytest.raises(zmq.ZMQError):
        await Subscription(context, SEAT, address, vllm_wire, house.ingest, ears, Pace()).run()
    context.term()
