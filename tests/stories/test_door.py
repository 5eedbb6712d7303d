"""What Homing refuses, and how: in OpenAI's shape, at once, blaming no replica."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import Stage, stage

CHAT = "/v1/chat/completions"


@pytest.fixture
async def one() -> AsyncIterator[Stage]:
    async with stage(1, limits={"body_megabytes": 0.1, "drain_seconds": 1.0}) as alone:
        yield alone
        await alone.nothing_left()
        assert await alone.metric("homing_retries_total{") == 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff\xfe", 400, None),
        (b'{"model":"tiny"', 400, None),
        (b'{"messages":[]}', 400, "model"),
        (b'{"model":7,"messages":[]}', 400, "model"),
        (b'{"model":"tiny","model":"tiny","messages":[]}', 400, "model"),
        (b'{"model":"tiny","messages":[],"stream":"yes"}', 400, "stream"),
        (b'{"model":"tiny","messages":[],"stream":true,"stream_options":[1]}', 400, "stream_options"),
        (b'{"model":"tiny","messages":' + b"[" * 100_000, 400, None),
        (b'{"model":"nobody","messages":[]}', 404, "model"),
        (b'{"model":"tiny","messages":[' + b" " * 200_000 + b"]}", 413, None),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else str(value),
)
async def test_a_bad_body_is_refused_in_openais_shape(one: Stage, body: bytes, status: int, param: str | None) -> None:
    answer = await one.http.post(f"{one.url}{CHAT}", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("POST", "/v1/nothing", 404), ("GET", "/", 404), ("DELETE", "/v1/models", 405)],
)
async def test_what_is_not_served_is_told_with_what_is(one: Stage, method: str, path: str, status: int) -> None:
    answer = await one.http.request(method, f"{one.url}{path}")
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_metrics_and_receipts_are_not_on_the_public_port(one: Stage) -> None:
    for path in ("/metrics", "/homing/replicas", "/homing/requests"):
        assert (await one.http.get(f"{one.url}{path}")).status_code == 404


async def test_a_request_can_be_explained_by_its_id(one: Stage) -> None:
    answer = await one.ask()
    told = await one.http.get(f"{one.house.admin_url}/homing/explain/{answer.headers['x-homing-request-id']}")
    receipt = told.json()
    assert receipt["outcome"] == "ok"
    assert receipt["decision"]["candidates"][0]["replica"] == answer.headers["x-homing-replica"] == "r0"
    assert (await one.http.get(f"{one.house.admin_url}/homing/explain/unknown")).status_code == 404
    wrong = await one.http.get(f"{one.house.admin_url}/homing/requests?limit=0")
    assert (wrong.status_code, "limit" in wrong.json()["error"]["message"]) == (400, True)


async def test_garbage_on_the_socket_hurts_nobody(one: Stage) -> None:
    address = urlsplit(one.url)
    for garbage in (b"\x00\xff" * 50, b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\n\r\n", b"GET / HTT"):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(garbage)
        await writer.drain()
        writer.close()
        await reader.read()
    smuggled = (
        b"POST /v1/models HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(smuggled)
    assert b" 400 " in (await reader.readline())
    writer.close()
    assert (await one.ask()).status_code == 200


async def test_only_known_keys_come_in_and_they_go_no_further(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    async with stage(1, auth={"api_keys_file": str(keys)}) as one:
        assert (await one.ask()).status_code == 401
        assert (await one.http.get(f"{one.url}/v1/models")).status_code == 401
        assert (await one.ask(headers={"authorization": "Bearer sesame"})).status_code == 200


async def test_several_models_live_behind_one_endpoint() -> None:
    first, second = (
        fleet_config(model_names=("tiny",)),
        fleet_config(model_names=("other", "alias"), adapters=("lora",)),
    )
    async with (
        serving(second),
        stage(
            1,
            fleet={"port": first.port},
            settle=False,
            replicas=[{"url": f"http://127.0.0.1:{port}", "id": f"r{port}"} for port in (first.port, second.port)],
        ) as one,
    ):
        await one.until(lambda: len(one.house.roster.models()) == 4)
        listed = (await one.http.get(f"{one.url}/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["alias", "lora", "other", "tiny"]
        for model, port in (
            ("tiny", first.port),
            ("other", second.port),
            ("alias", second.port),
            ("lora", second.port),
        ):
            answer = await one.ask(model=model)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-homing-replica"] == f"r{port}"


async def test_homing_starts_with_every_replica_down_and_serves_when_one_comes() -> None:
    simulated = fleet_config()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with stage(
            1,
            settle=False,
            fleet={"port": simulated.port},
            probe={"interval_seconds": 0.1},
            replicas=[
                {"url": f"http://127.0.0.1:{unused.getsockname()[1]}"},
                {"url": f"http://127.0.0.1:{simulated.port}"},
            ],
        ) as one:
            early = await one.ask()
            assert early.status_code in (200, 503)
            await one.until(lambda: bool(one.house.roster.models()))
            assert (await one.ask()).status_code == 200
            assert (await one.ask(model="nobody")).status_code == 404


async def test_the_queue_keeps_a_client_waiting_no_longer_than_configured() -> None:
    limits = {"max_in_flight": 1, "queue_wait_seconds": 0.2, "drain_seconds": 1.0}
    async with stage(1, limits=limits) as one:
        await one.order(0, slow=3000.0)
        first = asyncio.create_task(one.ask(max_tokens=3))
        await one.until(lambda: len(one.house.ledger) == 1)
        refused: httpx.Response = await one.ask()
        assert refused.status_code == 429
        await one.order(0, slow=1.0)
        assert (await first).status_code == 200
        await one.nothing_left()
