"""Simulated replicas to examine, and a small proxy that alters what they answer where one lie is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from router import config
from router.doctor.command import examine
from router.doctor.finding import Check, Finding, Report, Status
from router.sim.text import SHIPPED_TOKENIZER
from tests.sim.fleets import fleet_config, serving

TIMEOUT_SECONDS = 2.0
KEY = b"authorization: bearer sesame"

Alter = Callable[[bytes], bytes]


@asynccontextmanager
async def ward(count: int = 1, **changes: Any) -> AsyncIterator[tuple[str, ...]]:
    """Simulated replicas; their addresses."""
    simulated = fleet_config(replicas=count, **changes)
    async with serving(simulated):
        yield tuple(f"http://127.0.0.1:{simulated.port + number}" for number in range(count))


async def order(url: str, **switches: Any) -> None:
    async with httpx.AsyncClient() as http:
        assert (await http.post(f"{url}/sim/failures", json=switches)).status_code == 200


def settings(*urls: str, **more: Any) -> config.Config:
    plain = {"replicas": [{"url": url} for url in urls], "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)}}
    return config.read(None, plain | more)


async def seen(*urls: str, probing: bool = True, homing: str | None = None, **more: Any) -> Report:
    return await examine(settings(*urls, **more), timeout_seconds=TIMEOUT_SECONDS, probing=probing, homing=homing)


def of(report: Report, check: Check, replica: int = 0) -> Finding:
    """One finding, of a replica or of the fleet."""
    found = [*report.replicas[replica].findings, *report.fleet]
    return next(finding for finding in found if finding.check is check)


def wrong(report: Report) -> dict[Check, Status]:
    """Whatever is neither passed nor skipped."""
    return {f.check: f.status for f in report.findings if f.status in (Status.WARN, Status.FAIL)}


def assert_named(finding: Finding, status: Status, found: str, mend: str) -> None:
    assert finding.status is status, finding
    assert found in finding.found, finding
    assert mend in (finding.mend or ""), finding


@asynccontextmanager
async def disguised(
    *urls: str,
    alter: Mapping[str, Alter] | None = None,
    wants_key: bool = False,
    drops: Sequence[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """One address in front of the replicas, in turn.

    `alter` maps a path to what becomes of its answer's body; a path in `drops` is not there, one in `elsewhere` is
    asked of that replica. `wants_key`: /v1 is refused without the key "sesame", as vLLM does with --api-key.
    """
    turn = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = head.split(b" ", 2)[:2]
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = await reader.readexactly(int(lines.get(b"content-length", b"0")))
            where = path.decode()
            url, turn = urls[turn % len(urls)], turn + 1
            if elsewhere and where in elsewhere:
                url = elsewhere[where]
            answer = await http.request(method.decode(), url + where, content=body)
            status, told = answer.status_code, answer.content
            if where in drops:
                status, told = 404, b'{"detail":"Not Found"}'
            elif wants_key and where.startswith("/v1") and KEY not in head.lower():
                status, told = 401, b'{"error":"Unauthorized"}'
            elif alter and where in alter:
                status, told = 200, alter[where](told)
            writer.write(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(told)) + told
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with httpx.AsyncClient() as http:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
