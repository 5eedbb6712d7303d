"""Replicas over real sockets: sound ones pass, and one that is not what it should be is named, with what mends it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from router.doctor.finding import Check, Status
from router.sim.publish import EventSettings
from router.sim.text import SHIPPED_TOKENIZER
from router.sim.wire import Encoding
from tests.doctor.wards import assert_named, disguised, of, order, seen, settings, ward, wrong
from tests.sim.fleets import free_ports

DEAD_SECONDS = 5.0


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda body: body.replace(old, new)


async def test_everything_passes_on_sound_replicas() -> None:
    async with ward(2) as urls:
        report = await seen(*urls)
    assert not wrong(report)
    assert {finding.check for finding in report.findings} == set(Check) - {Check.HOMING, Check.SHARED, Check.PAIRS}
    assert report.count(Status.SKIPPED) == 0


@pytest.mark.parametrize(
    "events",
    [
        EventSettings(topic="kv", names_as_bytes=True),
        EventSettings(topic="", topic_in_replay=False, encoding=Encoding.ARRAYS),
    ],
    ids=["names of 32 bytes", "the wire of older releases"],
)
async def test_every_wire_form_passes(events: EventSettings) -> None:
    async with ward(events=events) as (url,):
        assert not wrong(await seen(url))


async def test_a_replica_in_use_passes_too() -> None:
    async with ward() as (url,), httpx.AsyncClient() as http:

        async def chat(number: int) -> None:
            body = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": f"{number} " * 60}]}
            assert (await http.post(f"{url}/v1/chat/completions", json=body)).status_code == 200

        async def keep_busy() -> None:
            for number in range(10_000):
                await chat(number)

        busy = asyncio.create_task(keep_busy())
        report = await seen(url)
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
    assert not wrong(report)


# Nobody there


async def test_a_dead_replica_is_refused_at_once_and_does_not_hold_up_the_others() -> None:
    async with ward() as (url,):
        dead = f"http://127.0.0.1:{free_ports(1)}"
        asked = asyncio.get_running_loop().time()
        report = await seen(dead, url)
        assert asyncio.get_running_loop().time() - asked < DEAD_SECONDS
    assert_named(of(report, Check.REACHABLE), Status.FAIL, "refused", "replicas[].url")
    assert report.replicas[0].findings[1].status is Status.SKIPPED
    assert not [f for f in report.replicas[1].findings if f.status in (Status.FAIL, Status.WARN)]


async def test_a_hung_replica_is_told_from_a_dead_one() -> None:
    async with ward() as (url,):
        await order(url, hang=True)
        asked = asyncio.get_running_loop().time()
        report = await seen(url)
        assert asyncio.get_running_loop().time() - asked < DEAD_SECONDS
    assert_named(of(report, Check.REACHABLE), Status.FAIL, "never answers", "Restart")


async def test_a_name_nobody_knows_and_tls_where_there_is_none_are_told_apart() -> None:
    async with ward() as (url,):
        report = await seen("http://no-such-host.invalid:8000", url.replace("http:", "https:"))
    nameless, plain = of(report, Check.REACHABLE, 0), of(report, Check.REACHABLE, 1)
    assert_named(plain, Status.FAIL, "TLS", "http://")
    assert nameless.status is Status.FAIL
    assert "name" in nameless.found or "in time" in nameless.found  # a resolver may also say nothing at all


async def test_something_else_than_an_engine_is_named() -> None:
    async with ward() as (url,), disguised(url, drops=["/metrics", "/kv_event_sources", "/v1/models"]) as door:
        report = await seen(door)
    assert_named(of(report, Check.ENGINE), Status.FAIL, "not those of vLLM or SGLang", "API server")


async def test_an_engine_configured_as_another_is_named() -> None:
    async with ward() as (url,):
        report = await seen(url, replicas=[{"url": url, "engine": "sglang"}])
    assert_named(of(report, Check.ENGINE), Status.FAIL, "configured as sglang", "replicas[].engine to vllm")


# Keys


async def test_a_missing_a_wrong_and_a_right_key(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = {"replica_api_key_env": "DOCTOR_TEST_KEY"}
    async with ward() as (url,), disguised(url, wants_key=True) as door:
        assert_named(of(await seen(door), Check.API_KEY), Status.FAIL, "we have none", "--api-key-env")
        monkeypatch.setenv("DOCTOR_TEST_KEY", "wrong")
        assert_named(of(await seen(door, auth=auth), Check.API_KEY), Status.FAIL, "refuses", "--api-key")
        monkeypatch.setenv("DOCTOR_TEST_KEY", "sesame")
        assert not wrong(await seen(door, auth=auth))


# What it tells of itself


async def test_two_engines_behind_one_address_are_found_out() -> None:
    async with ward(2) as urls, disguised(*urls) as door:
        report = await seen(door)
    assert_named(of(report, Check.ONE_PROCESS), Status.FAIL, "another engine", "load balancer")


async def test_usage_without_cached_tokens_is_named_with_the_flag() -> None:
    async with ward(reports_cached=False) as (url,):
        report = await seen(url)
    assert_named(of(report, Check.USAGE), Status.FAIL, "cached_tokens is missing", "--enable-prompt-tokens-details")
    assert set(wrong(report)) == {Check.USAGE}


async def test_prefix_caching_that_is_off_is_named_with_the_flag() -> None:
    off = replaced(b'enable_prefix_caching="True"', b'enable_prefix_caching="False"')
    async with ward() as (url,), disguised(url, alter={"/metrics": off}) as door:
        report = await seen(door)
    assert_named(of(report, Check.PREFIX_CACHING), Status.FAIL, "off", "--no-enable-prefix-caching")


async def test_a_block_size_that_the_events_contradict_is_named() -> None:
    lie = replaced(b'block_size="16"', b'block_size="32"')
    async with ward() as (url,), disguised(url, alter={"/metrics": lie}) as door:
        report = await seen(door)
    assert_named(of(report, Check.BLOCK_SIZE), Status.FAIL, "32 tokens, its events carry blocks of 16", "--block-size")
    assert set(wrong(report)) == {Check.BLOCK_SIZE}


async def test_an_unknown_release_is_a_warning() -> None:
    async with ward() as (url,), disguised(url, alter={"/version": lambda _: b'{"version":"1.4.0"}'}) as door:
        report = await seen(door)
    assert_named(of(report, Check.VERSION), Status.WARN, "newer", "0.32")
    assert set(wrong(report)) == {Check.VERSION}


# The other engine


async def test_an_sglang_is_examined_in_its_own_language() -> None:
    async with ward(reports_cached=False) as (url,):
        port = urlsplit(url).port
        assert port is not None
        root = str(SHIPPED_TOKENIZER)
        kv_events = {
            "publisher": "zmq",
            "endpoint_host": "*",
            "endpoint_port_base": port + 1000,
            "replay_endpoint_port_base": port + 2000,
            "topic": "kv",
            "block_size": 16,
        }
        tells = {
            "/server_info": {"version": "0.5.23", "page_size": 16, "tokenizer_path": root, "kv_events": kv_events},
            "/v1/models": {"data": [{"id": "tiny", "owned_by": "sglang", "root": "tiny", "max_model_len": 1024}]},
            "/ready": {},
        }
        alter = {path: (lambda _body, told=told: json.dumps(told).encode()) for path, told in tells.items()}
        drops = ["/metrics", "/version", "/kv_event_sources"]
        async with disguised(url, alter=alter, drops=drops) as door:
            report = await seen(door)
    assert report.replicas[0].engine == "sglang"
    assert_named(of(report, Check.USAGE), Status.FAIL, "cached_tokens is missing", "SGLang with --enable-cache-report")
    # Underneath is a vLLM: its events show salts elsewhere, and its /tokenize is not asked for all it could be told.
    assert set(wrong(report)) == {Check.USAGE, Check.PARITY, Check.SALT}
    assert of(report, Check.PARITY).status is Status.WARN
    for check in (Check.FLOW, Check.PROBE_TOKENS, Check.REPLAY, Check.EVENT_PORT):
        assert of(report, check).status is Status.PASS


# Harmlessness


async def test_without_a_probe_no_token_is_made_and_the_rest_is_examined() -> None:
    async with ward() as (url,), httpx.AsyncClient() as http:
        report = await seen(url, probing=False)
        metrics = (await http.get(f"{url}/metrics")).text
    assert not wrong(report)
    for check in (Check.USAGE, Check.PROBE_TOKENS, Check.PROBE_HIT, Check.SALT, Check.FLOW):
        assert of(report, check).status is Status.SKIPPED
    assert of(report, Check.REPLAY).status is Status.PASS
    assert of(report, Check.PARITY).status is Status.PASS
    tokens = next(line for line in metrics.splitlines() if line.startswith("vllm:prompt_tokens_total"))
    assert tokens.endswith(" 0.0")


async def test_a_probe_makes_three_tokens() -> None:
    async with ward() as (url,), httpx.AsyncClient() as http:
        await seen(url)
        metrics = (await http.get(f"{url}/metrics")).text
    made = next(line for line in metrics.splitlines() if line.startswith("vllm:generation_tokens_total"))
    assert made.endswith(" 3.0")


async def test_a_port_that_speaks_no_http_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        loop = asyncio.get_running_loop()

        async def answer() -> None:
            while True:
                peer, _ = await loop.sock_accept(door)
                await loop.sock_sendall(peer, b"\x15\x03\x01 no\r\n\r\n")
                peer.close()

        answering = asyncio.create_task(answer())
        report = await seen(f"http://127.0.0.1:{door.getsockname()[1]}")
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    assert_named(of(report, Check.REACHABLE), Status.FAIL, "does not speak HTTP", "https://")


def test_settings_of_the_ward_are_a_configuration() -> None:
    assert settings("http://a:1").replicas[0].name == "a:1"
