"""Event streams over real sockets, ruined one thing at a time: each fault is named, with what mends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from router.doctor.finding import Check, Status
from router.sim.publish import EventSettings
from tests.doctor.wards import assert_named, disguised, of, order, seen, ward, wrong
from tests.sim.fleets import free_ports


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """An answer of /kv_event_sources with one rank's entry changed."""

    def alter(body: bytes) -> bytes:
        told = json.loads(body)
        change(told["0"])
        return json.dumps(told).encode()

    return alter


async def test_events_that_are_off_are_named_with_the_whole_flag() -> None:
    off = edited(lambda source: source.update(enable_kv_cache_events=False))
    async with ward() as (url,), disguised(url, alter={"/kv_event_sources": off}) as door:
        report = await seen(door)
    assert_named(of(report, Check.EVENTS), Status.FAIL, "off", '--kv-events-config \'{"enable_kv_cache_events":true')
    assert of(report, Check.FLOW).status is Status.SKIPPED


async def test_a_publisher_that_connects_is_named_with_the_address_to_bind() -> None:
    connecting = edited(lambda source: source.update(endpoint="tcp://127.0.0.1:5557"))
    async with ward() as (url,), disguised(url, alter={"/kv_event_sources": connecting}) as door:
        report = await seen(door)
    assert_named(of(report, Check.PUBLISHER), Status.FAIL, "connects to tcp://127.0.0.1:5557", "tcp://*:5557")


async def test_an_engine_that_does_not_tell_where_it_publishes_can_be_told_by_the_configuration() -> None:
    async with ward() as (url,), disguised(url, drops=["/kv_event_sources"]) as door:
        untold = await seen(door)
        port = urlsplit(url).port
        assert port is not None
        events = {"events": f"tcp://127.0.0.1:{port + 1000}", "replay": f"tcp://127.0.0.1:{port + 2000}"}
        told = await seen(door, replicas=[{"url": door, **events}])
        mute = await seen(door, replicas=[{"url": door, **events, "topic": "other"}])
        strange = await seen(door, replicas=[{"url": door, "events": f"tcp://127.0.0.1:{port}"}])
        shut = await seen(door, replicas=[{"url": door, "events": f"tcp://127.0.0.1:{free_ports(1)}"}])
    assert_named(of(untold, Check.EVENTS), Status.FAIL, "does not tell", "replicas[].events")
    assert not wrong(told)
    assert_named(of(mute, Check.TOPIC), Status.FAIL, "'kv'", "replicas[].topic to 'kv'")
    assert_named(of(strange, Check.FLOW), Status.FAIL, "no ZMQ publisher", "replicas[].events")
    assert_named(of(shut, Check.EVENT_PORT), Status.FAIL, "refused", "container port")


async def test_no_replay_is_a_warning_with_the_key() -> None:
    async with ward(replays=False) as (url,):
        report = await seen(url)
    assert_named(of(report, Check.REPLAY), Status.WARN, "cannot be asked for", '"replay_endpoint":"tcp://*:5558"')
    assert set(wrong(report)) == {Check.REPLAY}


async def test_a_replay_that_does_not_answer_is_named() -> None:
    async with ward() as (url,):
        await order(url, no_replay=True)
        report = await seen(url)
    assert_named(of(report, Check.REPLAY), Status.FAIL, "answers no replay request", "replay_endpoint")
    assert set(wrong(report)) == {Check.REPLAY}


async def test_a_short_replay_buffer_is_a_warning_and_one_that_keeps_nothing_a_failure() -> None:
    async with ward(events=EventSettings(topic="kv", buffer_steps=50)) as (url,):
        assert_named(of(await seen(url), Check.REPLAY), Status.WARN, "50 batches", "buffer_steps")
    async with ward(events=EventSettings(topic="kv", buffer_steps=0)) as (url,):
        assert_named(of(await seen(url), Check.REPLAY), Status.FAIL, "does not have", "buffer_steps")


async def test_events_lost_on_the_way_are_told_from_events_never_published() -> None:
    async with ward() as (url,):
        await order(url, drop_events_batches=50)
        lost = await seen(url)
    async with ward(2) as urls:
        other = urlsplit(urls[1]).port
        assert other is not None
        astray = edited(lambda source: source.update(endpoint=f"tcp://*:{other + 1000}", replay_endpoint=None))
        async with disguised(urls[0], alter={"/kv_event_sources": astray}) as door:
            silent = await seen(door)
    assert_named(of(lost, Check.FLOW), Status.FAIL, "did not come by itself", "hwm")
    assert_named(of(silent, Check.FLOW), Status.FAIL, "nothing was published", "--kv-events-config")


async def test_the_events_of_another_engine_are_named() -> None:
    async with ward(2) as urls, httpx.AsyncClient() as http:
        other = urlsplit(urls[1]).port
        assert other is not None

        async def elsewhere() -> None:
            for number in range(10_000):
                body = {"model": "tiny", "max_tokens": 2, "prompt": f"{number} and so on " * 30}
                await http.post(f"{urls[1]}/v1/completions", json=body)

        busy = asyncio.create_task(elsewhere())
        ports = {"endpoint": f"tcp://*:{other + 1000}", "replay_endpoint": f"tcp://*:{other + 2000}"}
        astray = edited(lambda source: source.update(ports))
        async with disguised(urls[0], alter={"/kv_event_sources": astray}) as door:
            report = await seen(door)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
    assert_named(of(report, Check.FLOW), Status.FAIL, "another engine", "replicas[].events")


async def test_messages_that_cannot_be_read_are_named() -> None:
    async with ward() as (url,):
        await order(url, malformed_events=50)
        report = await seen(url)
    assert_named(of(report, Check.FLOW), Status.FAIL, "cannot be read", "release")
