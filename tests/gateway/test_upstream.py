"""The upstream client against replicas that answer oddly, die at every moment, stall, or try to smuggle."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest
import uvloop

from router.errors import BadRequest, ConfigError, UpstreamError
from router.gateway.failures import (
    Aborted,
    ConnectFailed,
    DiedBeforeBody,
    DiedBeforeResponse,
    DiedMidBody,
    Phase,
    ProtocolFault,
    TimedOut,
)
from router.gateway.http1 import HEAD_LIMIT_BYTES, HEADER_LIMIT, READ_AHEAD_BYTES, Timeouts
from router.gateway.response import Response
from router.gateway.upstream import Upstream
from tests.gateway.replica_script import CLOSE, HALF_CLOSE, READ, READ_HEAD, RESET, Hangup, Replica, Step, Until

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = (b'{"model":"tiny"}',)
POST = ("POST", "/v1/completions", ((b"content-type", b"application/json"),), BODY)
SHORT = Timeouts(connect_seconds=0.1, first_body_byte_seconds=0.06, next_chunk_seconds=0.06)


def on_both_loops(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own loop, for its strictness, and on uvloop, which serves."""

    def run(loop: str, **arguments: object) -> None:
        # A factory, because a runner without one unsets the loop that other tests' plugins have set.
        factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test(**arguments))

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    own = inspect.signature(test).parameters.values()
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__dict__["__signature__"] = inspect.Signature([*own, loop])
    run.__dict__["pytestmark"] = list(test.__dict__.get("pytestmark", ()))
    return pytest.mark.parametrize("loop", ["asyncio", "uvloop"])(run)


@dataclass(frozen=True)
class Whole:
    """A response that is delivered, and whether its connection is kept."""

    body: bytes = b"hello"
    status: int = 200
    kept: bool = True


@dataclass(frozen=True)
class Case:
    name: str
    answer: bytes
    expected: Whole | type[UpstreamError]
    end: Step | None = None
    method: str = "POST"


CASES = [
    # Whole messages, however they say where they end.
    Case("content_length", HELLO, Whole()),
    Case("content_length_zero", OK + b"content-length: 0\r\n\r\n", Whole(b"")),
    Case("content_length_spaces", OK + b"content-length:   5  \r\n\r\nhello", Whole()),
    Case("content_length_leading_zeros", OK + b"content-length: 005\r\n\r\nhello", Whole()),
    Case("mixed_case_names", OK + b"CoNtEnT-LeNgTh: 5\r\nX-A: b\r\n\r\nhello", Whole()),
    Case("no_reason", b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", Whole()),
    Case("long_reason", b"HTTP/1.1 503 " + b"really " * 40 + b"\r\ncontent-length: 5\r\n\r\nhello", Whole(status=503)),
    Case("chunked", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", Whole()),
    Case("chunked_many", CHUNKED + b"1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n", Whole()),
    Case("chunked_hex", CHUNKED + b"00A\r\nhellohello\r\n0\r\n\r\n", Whole(b"hellohello")),
    Case("chunk_extension", CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n', Whole()),
    Case("trailers", CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\nx-b: 2\r\n\r\n", Whole()),
    Case("length_in_trailers", CHUNKED + b"5\r\nhello\r\n0\r\ncontent-length: 9\r\n\r\n", ProtocolFault),
    Case("empty_chunked", CHUNKED + b"0\r\n\r\n", Whole(b"")),
    Case("coding_name_in_capitals", OK + b"transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Whole()),
    Case("until_close", OK + b"\r\nhello", Whole(kept=False), CLOSE),
    Case("until_half_close", OK + b"\r\nhello", Whole(kept=False), HALF_CLOSE),
    Case("until_close_empty", OK + b"\r\n", Whole(b"", kept=False), CLOSE),
    Case("no_content", b"HTTP/1.1 204 No Content\r\n\r\n", Whole(b"", 204)),
    Case("not_modified_with_length", b"HTTP/1.1 304 X\r\ncontent-length: 50\r\n\r\n", Whole(b"", 304)),
    Case("head", OK + b"content-length: 50\r\n\r\n", Whole(b"", kept=False), method="HEAD"),
    Case("head_chunked", CHUNKED, Whole(b"", kept=False), method="HEAD"),
    Case("close_asked", OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", Whole(kept=False)),
    Case("close_among_others", OK + b"connection: x, Close\r\ncontent-length: 5\r\n\r\nhello", Whole(kept=False)),
    Case("http_1_0", b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", Whole(kept=False)),
    Case("http_1_0_kept", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello", Whole()),
    Case("http_1_0_until_close", b"HTTP/1.0 200 OK\r\n\r\nhello", Whole(kept=False), CLOSE),
    Case("continue", b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, Whole()),
    Case("early_hints", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3 + HELLO, Whole()),
    Case("interim_with_length", b"HTTP/1.1 102 Busy\r\ncontent-length: 3\r\n\r\n" + HELLO, Whole()),
    Case("upgrade_offered", OK + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 5\r\n\r\nhello", Whole()),
    Case("error_status", b"HTTP/1.1 500 Oh\r\ncontent-length: 5\r\n\r\nhello", Whole(status=500)),
    # Whole, but the connection is not to be trusted again.
    Case("excess_text", HELLO + b"excess", Whole(kept=False)),
    Case("excess_response", HELLO + HELLO, Whole(kept=False)),
    Case("excess_after_chunks", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n0\r\n\r\n", Whole(kept=False)),
    Case("excess_after_no_content", b"HTTP/1.1 204 No Content\r\n\r\nhello", Whole(b"", 204, kept=False)),
    Case("excess_after_close", OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhelloX", Whole(kept=False)),
    Case("length_too_small", OK + b"content-length: 3\r\n\r\nhello", Whole(b"hel", kept=False)),
    # Framing in doubt: the smuggler's tools.
    Case("length_repeated", OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("lengths_conflict", OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!", ProtocolFault),
    Case("lengths_in_one", OK + b"content-length: 5, 5\r\n\r\nhello", ProtocolFault),
    Case("length_and_chunked", OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", ProtocolFault),
    Case("chunked_and_length", CHUNKED[:-2] + b"content-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("length_negative", OK + b"content-length: -5\r\n\r\nhello", ProtocolFault),
    Case("length_signed", OK + b"content-length: +5\r\n\r\nhello", ProtocolFault),
    Case("length_hex", OK + b"content-length: 0x5\r\n\r\nhello", ProtocolFault),
    Case("length_empty", OK + b"content-length: \r\n\r\nhello", ProtocolFault),
    Case("length_huge", OK + b"content-length: " + b"9" * 30 + b"\r\n\r\nhello", ProtocolFault),
    Case("length_spaced", OK + b"content-length: 5 5\r\n\r\nhello", ProtocolFault),
    Case("coding_repeated", CHUNKED[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", ProtocolFault),
    Case("coding_unknown", OK + b"transfer-encoding: gzip\r\n\r\nhello", ProtocolFault, CLOSE),
    Case("coding_stacked", OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ProtocolFault),
    Case("coding_not_last", OK + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", ProtocolFault),
    Case("coding_in_1_0", b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ProtocolFault),
    Case("coding_disguised", OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", ProtocolFault, CLOSE),
    Case("folded_header", OK + b"x-a: b\r\n c\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("folded_length", OK + b"content-length:\r\n 5\r\n\r\nhello", ProtocolFault),
    Case("space_before_colon", OK + b"content-length : 5\r\n\r\nhello", ProtocolFault),
    Case("bare_lf", b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", ProtocolFault),
    Case("bare_cr", OK + b"x-a: b\rcontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("nul_in_value", OK + b"x-a: b\0c\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("control_in_value", OK + b"x-a: b\x07c\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("name_with_space", OK + b"x a: b\r\n\r\n", ProtocolFault),
    Case("name_empty", OK + b": b\r\n\r\n", ProtocolFault),
    # Not HTTP, or not ours.
    Case("garbage", b"\x16\x03\x01\x02\x00 not http at all\r\n\r\n", ProtocolFault),
    Case("other_protocol", b"ICY 200 OK\r\n\r\n", ProtocolFault),
    Case("a_request", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", ProtocolFault),
    Case("http_0_9", b"HTTP/0.9 200 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("http_2", b"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("http_7", b"HTTP/7.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("status_two_digits", b"HTTP/1.1 20 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("status_four_digits", b"HTTP/1.1 2000 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("status_zero", b"HTTP/1.1 000 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("status_too_high", b"HTTP/1.1 600 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("status_no_number", b"HTTP/1.1 OK\r\ncontent-length: 5\r\n\r\nhello", ProtocolFault),
    Case("switching", b"HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n\0\0\0", ProtocolFault),
    Case("switching_without_upgrade", b"HTTP/1.1 101 X\r\n\r\n", ProtocolFault),
    Case("head_too_large", OK + b"x-a: " + b"a" * HEAD_LIMIT_BYTES + b"\r\ncontent-length: 0\r\n\r\n", ProtocolFault),
    Case("head_endless", OK + b"x-a: " + b"a" * 3 * HEAD_LIMIT_BYTES, ProtocolFault),
    Case("headers_too_many", OK + b"a: b\r\n" * (HEADER_LIMIT + 1) + b"content-length: 0\r\n\r\n", ProtocolFault),
    Case("interim_endless", b"HTTP/1.1 100 Continue\r\n\r\n" * 8000, ProtocolFault),
    Case("chunk_size_no_hex", CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("chunk_size_negative", CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("chunk_size_huge", CHUNKED + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("chunk_size_empty", CHUNKED + b"\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("chunk_longer_than_said", CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", ProtocolFault),
    Case("chunk_bare_lf", CHUNKED + b"5\nhello\n0\n\n", ProtocolFault),
    Case("chunk_extension_endless", CHUNKED + b"5;" + b"x" * 5 * HEAD_LIMIT_BYTES, ProtocolFault),
    Case("trailers_endless", CHUNKED + b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 60_000, ProtocolFault),
    # Deaths.
    Case("nothing", b"", DiedBeforeResponse, CLOSE),
    Case("nothing_reset", b"", DiedBeforeResponse, RESET),
    Case("half_a_status_line", b"HTTP/1.1 2", DiedBeforeBody, CLOSE),
    Case("half_a_head", OK + b"content-le", DiedBeforeBody, CLOSE),
    Case("head_alone", OK + b"content-length: 5\r\n\r\n", DiedBeforeBody, CLOSE),
    Case("head_alone_chunked", CHUNKED, DiedBeforeBody, CLOSE),
    Case("chunk_head_alone", CHUNKED + b"5\r\n", DiedBeforeBody, CLOSE),
    Case("interim_alone", b"HTTP/1.1 100 Continue\r\n\r\n", DiedBeforeBody, CLOSE),
    Case("short_of_length", OK + b"content-length: 50\r\n\r\nhello", DiedMidBody, CLOSE),
    Case("mid_chunk", CHUNKED + b"50\r\nhello", DiedMidBody, CLOSE),
    Case("between_chunks", CHUNKED + b"5\r\nhello\r\n", DiedMidBody, CLOSE),
    Case("before_final_line", CHUNKED + b"5\r\nhello\r\n0\r\n", DiedMidBody, CLOSE),
    Case("half_closed_mid_body", CHUNKED + b"5\r\nhello\r\n", DiedMidBody, HALF_CLOSE),
]


async def outcome(upstream: Upstream, method: str = "POST") -> Whole | type[UpstreamError]:
    try:
        with await upstream.request(method, *POST[1:]) as response:
            status, body = response.status, await response.read()
    except UpstreamError as error:
        assert upstream.open_connections == 0
        return type(error)
    return Whole(body, status, kept=upstream.idle_connections == 1)


@on_both_loops
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_an_odd_answer_is_framed_or_refused(case: Case) -> None:
    script: list[Step] = [READ, case.answer]
    async with Replica([[*script, *([case.end] if case.end else ())]]) as replica:
        upstream = Upstream(replica.origin)
        assert await outcome(upstream, case.method) == case.expected
        upstream.close()


SMALL = [case for case in CASES if 0 < len(case.answer) < 1000]


@on_both_loops
@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
async def test_an_odd_answer_in_single_bytes_ends_the_same_way(case: Case) -> None:
    pieces: list[Step] = [case.answer[i : i + 1] for i in range(len(case.answer))]
    async with Replica([[READ, *pieces, *([case.end] if case.end else ())]]) as replica:
        upstream = Upstream(replica.origin)
        found = await outcome(upstream, case.method)
        if isinstance(case.expected, Whole) and isinstance(found, Whole):
            # Excess bytes that come later find the connection in the pool, and end it there.
            assert (found.body, found.status) == (case.expected.body, case.expected.status)
            assert found.kept or not case.expected.kept
        else:
            assert found == case.expected
        upstream.close()


@on_both_loops
async def test_a_reset_inside_the_body_is_a_death_even_where_the_end_is_the_close() -> None:
    for answer in (OK + b"\r\nhello", CHUNKED + b"5\r\nhello\r\n"):
        gate = asyncio.Event()
        async with Replica([[READ, answer, Until(gate), RESET]]) as replica:
            upstream = Upstream(replica.origin)
            response = await upstream.request(*POST)
            assert await response.chunk() == b"hello"
            gate.set()
            with pytest.raises(DiedMidBody):
                await response.chunk()


@on_both_loops
async def test_bytes_before_a_death_are_delivered_before_it_is_told() -> None:
    async with Replica([[READ, CHUNKED + b"5\r\nhello\r\n", CLOSE]]) as replica:
        response = await Upstream(replica.origin).request(*POST)
        assert await response.chunk() == b"hello"
        for _ in range(2):
            with pytest.raises(DiedMidBody) as caught:
                await response.chunk()
            assert caught.value.body_started


# Requests.


@on_both_loops
async def test_a_request_is_written_as_given_with_host_and_length() -> None:
    async with Replica([[READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        headers = (
            (b"X-Request-Id", b"a b\xe9"),
            (b"Host", b"evil"),
            (b"Content-Length", b"9"),
            (b"connection", b"close"),
        )
        body = (b"abc", memoryview(b"defgh")[1:3], b"")
        await outcome_of(await upstream.request("POST", "/v1/x?a=%20", headers, body))
        upstream.close()
    authority = replica_authority(upstream)
    assert replica.requests == [
        (
            b"POST /v1/x?a=%20 HTTP/1.1\r\nhost: "
            + authority
            + b"\r\nX-Request-Id: a b\xe9\r\ncontent-length: 5\r\n\r\n",
            b"abcef",
        )
    ]


async def outcome_of(response: Response) -> bytes:
    with response:
        return await response.read()


def replica_authority(upstream: Upstream) -> bytes:
    return upstream.origin.removeprefix("http://").encode()


@on_both_loops
async def test_a_get_has_no_content_length_and_an_empty_post_has_zero() -> None:
    async with Replica([[READ, HELLO, READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome_of(await upstream.request("GET", "/health"))
        await outcome_of(await upstream.request("POST", "/reset"))
        upstream.close()
    assert b"content-length" not in replica.requests[0][0]
    assert b"content-length: 0\r\n" in replica.requests[1][0]


@on_both_loops
@pytest.mark.parametrize(
    ("method", "target", "header"),
    [
        ("POST", "/", (b"x", b"a\r\nContent-Length: 0")),
        ("POST", "/", (b"x", b"a\nb")),
        ("POST", "/", (b"x", b"a\rb")),
        ("POST", "/", (b"x", b"a\0b")),
        ("POST", "/", (b"x\r\ny", b"a")),
        ("POST", "/", (b"x: y", b"a")),
        ("POST", "/", (b"x ", b"a")),
        ("POST", "/", (b"", b"a")),
        ("POST", "/", (b"content-length\x0b", b"0")),
        ("POST", "/ HTTP/1.1\r\nx: y", (b"x", b"a")),
        ("POST", "/a b", (b"x", b"a")),
        ("POST", "/\x7f", (b"x", b"a")),
        ("POST", "/é", (b"x", b"a")),
        ("POST", "http://other/", (b"x", b"a")),
        ("POST", "", (b"x", b"a")),
        ("GET /x", "/", (b"x", b"a")),
        ("", "/", (b"x", b"a")),
    ],
)
async def test_what_would_break_out_of_the_head_is_refused_before_anything_is_sent(
    method: str, target: str, header: tuple[bytes, bytes]
) -> None:
    async with Replica([[READ, HELLO]]) as replica:
        with pytest.raises(BadRequest):
            await Upstream(replica.origin).request(method, target, (header,))
        assert replica.connections == 0


async def test_a_pinned_header_goes_with_every_request_and_a_clients_own_never_does() -> None:
    async with Replica([[READ, HELLO, READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin, pinned=((b"x-data-parallel-rank", b"3"),))
        for value in (b"0", b"1"):
            headers = ((b"X-Data-Parallel-Rank", value), (b"x-other", b"stays"))
            with await upstream.request("POST", "/v1/completions", headers, BODY) as response:
                assert await response.read() == b"hello"
        for head, _ in replica.requests:
            assert [line for line in head.lower().split(b"\r\n") if b"rank" in line] == [b"x-data-parallel-rank: 3"]
            assert b"x-other: stays" in head
        upstream.close()


async def test_a_retired_client_lets_what_is_under_way_end_and_begins_nothing() -> None:
    gate = asyncio.Event()
    slow: list[Step] = [READ, OK + b"content-length: 10\r\n\r\nhello", Until(gate), b"world"]
    async with Replica([slow, [READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        busy = await upstream.request(*POST)
        idle = await upstream.request(*POST)
        assert await idle.read() == b"hello"
        assert (upstream.open_connections, upstream.idle_connections) == (2, 1)
        upstream.retire()
        assert (upstream.open_connections, upstream.idle_connections) == (1, 0)
        with pytest.raises(Aborted):
            await upstream.request(*POST)
        gate.set()
        assert await busy.read() == b"helloworld"
        assert upstream.open_connections == 0


@pytest.mark.parametrize(
    ("origin", "host", "port", "line"),
    [
        ("http://gpu-1:8000", "gpu-1", 8000, b"host: gpu-1:8000"),
        ("http://gpu-1", "gpu-1", 80, b"host: gpu-1"),
        ("http://[::1]:8000/", "::1", 8000, b"host: [::1]:8000"),
    ],
)
def test_an_origin_names_host_and_port(origin: str, host: str, port: int, line: bytes) -> None:
    upstream = Upstream(origin)
    assert (upstream.host, upstream.port) == (host, port)
    assert upstream.host_line == line


@pytest.mark.parametrize(
    "origin",
    [
        *("gpu-1:8000", "ftp://gpu-1", "http://", "http://u:p@gpu-1", "http://gpu-1/v1", "http://gpu-1:99999"),
        *("http://gpu-1?x", "https://gpu-1", "http://gpu 1", "http://gpu-1\r\nx: y"),
    ],
)
def test_an_unusable_origin_is_a_config_error(origin: str) -> None:
    with pytest.raises(ConfigError):
        Upstream(origin)


@on_both_loops
async def test_ipv6_replicas_are_reached() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with server:
        upstream = Upstream(f"http://[::1]:{server.sockets[0].getsockname()[1]}")
        assert await outcome_of(await upstream.request("GET", "/")) == b"hello"
        upstream.close()


# Pool.


@on_both_loops
async def test_connections_are_kept_and_used_again() -> None:
    async with Replica([[READ, HELLO] * 20]) as replica:
        upstream = Upstream(replica.origin)
        for _ in range(20):
            assert await outcome(upstream) == Whole()
        assert (replica.connections, upstream.fresh_connections) == (1, 1)
        assert repr(upstream) == f"<Upstream {replica.origin}: 1 open, 1 idle>"
        upstream.close()
        assert (upstream.open_connections, upstream.idle_connections) == (0, 0)


@on_both_loops
async def test_a_connection_is_back_in_the_pool_before_its_last_bytes_are_read() -> None:
    async with Replica([[READ, HELLO, READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        first = await upstream.request(*POST)
        second = await upstream.request(*POST)
        assert replica.connections == 1
        assert [await first.chunk(), await second.chunk()] == [b"hello", b"hello"]
        assert [await first.chunk(), await second.chunk()] == [b"", b""]
        upstream.close()


@on_both_loops
async def test_exchanges_at_once_have_connections_of_their_own() -> None:
    gate = asyncio.Event()
    async with Replica([[READ, Until(gate), HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        asyncio.get_running_loop().call_later(0.02, gate.set)
        responses = await asyncio.gather(*[upstream.request(*POST) for _ in range(8)])
        assert replica.connections == 8
        assert [await response.read() for response in responses] == [b"hello"] * 8
        upstream.close()


@on_both_loops
async def test_only_so_many_idle_connections_are_kept() -> None:
    gate = asyncio.Event()
    async with Replica([[READ, Until(gate), HELLO]]) as replica:
        upstream = Upstream(replica.origin, idle_limit=2)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(upstream)) for _ in range(5)]
            await replica.has_read(5)
            assert (upstream.open_connections, upstream.idle_connections) == (5, 0)
            gate.set()
        assert all(isinstance(task.result(), Whole) for task in tasks)
        assert (upstream.open_connections, upstream.idle_connections) == (2, 2)
        upstream.close()


@on_both_loops
async def test_an_idle_connection_is_closed_in_time() -> None:
    gone = asyncio.Event()
    async with Replica([[READ, HELLO, Hangup(gone)], [READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin, keep_alive_seconds=0.05)
        await outcome(upstream)
        assert upstream.idle_connections == 1
        async with asyncio.timeout(1):
            await gone.wait()
        assert upstream.open_connections == 0
        assert await outcome(upstream) == Whole()
        assert upstream.stale_retries == 0
        upstream.close()


@on_both_loops
async def test_an_idle_connection_that_speaks_is_dropped_and_its_words_reach_nobody() -> None:
    gate, gone = asyncio.Event(), asyncio.Event()
    poison = OK + b"content-length: 6\r\n\r\npoison"
    async with Replica([[READ, HELLO, Until(gate), poison, Hangup(gone)], [READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome(upstream)
        gate.set()
        async with asyncio.timeout(1):
            await gone.wait()
        assert upstream.open_connections == 0
        assert await outcome(upstream) == Whole()
        assert replica.connections == 2
        upstream.close()


@on_both_loops
async def test_a_kept_connection_that_the_replica_closed_is_dropped_quietly() -> None:
    gate, gone = asyncio.Event(), asyncio.Event()
    async with Replica([[READ, HELLO, Until(gate), HALF_CLOSE, Hangup(gone)], [READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome(upstream)
        gate.set()
        await gone.wait()
        assert upstream.open_connections == 0
        assert await outcome(upstream) == Whole()
        assert upstream.stale_retries == 0
        upstream.close()


@on_both_loops
@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_kept_connection_that_dies_under_a_request_is_replaced_unseen(end: Step) -> None:
    async with Replica([[READ, HELLO, READ, end], [READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome(upstream)
        assert await outcome(upstream) == Whole()
        assert (replica.connections, upstream.stale_retries) == (2, 1)
        assert [body for _, body in replica.requests] == [BODY[0]] * 3
        upstream.close()


@on_both_loops
async def test_a_request_is_retried_once_only() -> None:
    async with Replica([[READ, HELLO, READ, CLOSE], [READ, CLOSE]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome(upstream)
        assert await outcome(upstream) is DiedBeforeResponse
        assert replica.connections == 2


@on_both_loops
async def test_a_fresh_connection_that_dies_is_not_retried() -> None:
    async with Replica([[READ, CLOSE]]) as replica:
        assert await outcome(Upstream(replica.origin)) is DiedBeforeResponse
        assert replica.connections == 1


@on_both_loops
async def test_a_kept_connection_that_dies_after_a_response_byte_is_not_retried() -> None:
    async with Replica([[READ, HELLO, READ, b"H", CLOSE]]) as replica:
        upstream = Upstream(replica.origin)
        await outcome(upstream)
        assert await outcome(upstream) is DiedBeforeBody
        assert replica.connections == 1


@on_both_loops
async def test_a_refused_connection_is_a_connect_failure() -> None:
    async with Replica([[READ]]) as replica:
        origin = replica.origin
    with pytest.raises(ConnectFailed, match=origin):
        await Upstream(origin).request(*POST)


@on_both_loops
async def test_a_host_name_that_cannot_be_looked_up_is_a_connect_failure() -> None:
    with pytest.raises(ConnectFailed):
        await Upstream("http://no..host:1").request(*POST)


@on_both_loops
async def test_header_names_are_lower_case_and_values_without_spaces_around_them() -> None:
    async with Replica([[READ, b"HTTP/1.1 429 X\r\nX-A:  b c \t\r\nx-a:\r\nRetry-After: 3\r\n\r\n", CLOSE]]) as replica:
        with await Upstream(replica.origin).request(*POST) as response:
            assert response.status == 429
            assert response.headers == [(b"x-a", b"b c"), (b"x-a", b""), (b"retry-after", b"3")]


@on_both_loops
async def test_closing_ends_what_is_under_way_and_refuses_more() -> None:
    async with Replica([[READ, CHUNKED + b"5\r\nhello\r\n"]]) as replica:
        upstream = Upstream(replica.origin)
        response = await upstream.request(*POST)
        assert await response.chunk() == b"hello"
        upstream.close()
        with pytest.raises(Aborted):
            await response.chunk()
        with pytest.raises(Aborted):
            await upstream.request(*POST)


# Hanging up.


@on_both_loops
async def test_an_abort_reaches_the_replica_at_once_and_may_be_repeated() -> None:
    gone = asyncio.Event()
    async with Replica([[READ, CHUNKED + b"5\r\nhello\r\n", Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin)
        response = await upstream.request(*POST)
        assert await response.chunk() == b"hello"
        started = time.perf_counter()
        response.abort()
        response.abort()
        await gone.wait()
        assert time.perf_counter() - started < 0.1
        assert upstream.open_connections == 0
        with pytest.raises(Aborted):
            await response.chunk()


@on_both_loops
async def test_cancelling_a_request_that_waits_for_its_head_hangs_up() -> None:
    gone = asyncio.Event()
    async with Replica([[READ, Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin)
        task = asyncio.ensure_future(upstream.request(*POST))
        await replica.has_read(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(0.1):
            await gone.wait()
        assert upstream.open_connections == 0


@on_both_loops
async def test_leaving_the_context_early_hangs_up_and_after_the_end_does_not() -> None:
    gone = asyncio.Event()
    async with Replica([[READ, HELLO, READ, CHUNKED, Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin)
        with await upstream.request(*POST) as response:
            await response.read()
        assert response.complete
        assert upstream.idle_connections == 1
        with await upstream.request(*POST) as response:
            assert response.try_chunk() is None
        assert not response.complete
        await gone.wait()


@on_both_loops
async def test_an_abort_after_the_end_leaves_the_next_exchange_alone() -> None:
    async with Replica([[READ, HELLO, READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        first = await upstream.request(*POST)
        second = await upstream.request(*POST)
        first.abort()
        assert await second.read() == b"hello"
        assert await first.read() == b"hello"
        upstream.close()


@on_both_loops
async def test_a_cancelled_wait_for_a_chunk_loses_nothing() -> None:
    gate = asyncio.Event()
    async with Replica([[READ, CHUNKED, Until(gate), b"5\r\nhello\r\n0\r\n\r\n"]]) as replica:
        upstream = Upstream(replica.origin)
        response = await upstream.request(*POST)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await response.chunk()
        gate.set()
        assert await response.read() == b"hello"
        assert response.try_chunk() == b""
        upstream.close()


# Times.


@on_both_loops
@pytest.mark.parametrize("start", [b"", CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_replica_that_sends_no_body_byte_times_out(start: bytes) -> None:
    gone = asyncio.Event()
    async with Replica([[READ, start, Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin, timeouts=SHORT)
        with pytest.raises(TimedOut) as caught:
            await (await upstream.request(*POST)).chunk()
        assert caught.value.phase is Phase.FIRST_BODY_BYTE
        assert not caught.value.body_started
        await gone.wait()
        assert upstream.open_connections == 0


@on_both_loops
async def test_a_replica_that_falls_silent_times_out() -> None:
    gone = asyncio.Event()
    async with Replica([[READ, CHUNKED + b"5\r\nhello\r\n", Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin)
        patient = Timeouts(next_chunk_seconds=0.06)
        response = await upstream.request(*POST, timeouts=patient)
        assert await response.chunk() == b"hello"
        with pytest.raises(TimedOut) as caught:
            await response.chunk()
        assert caught.value.phase is Phase.NEXT_CHUNK
        assert caught.value.body_started
        await gone.wait()


@on_both_loops
async def test_a_replica_that_keeps_talking_does_not_time_out() -> None:
    gates = [asyncio.Event() for _ in range(6)]
    steps: list[Step] = [READ, CHUNKED]
    for gate in gates:
        steps += (Until(gate), b"1\r\nx\r\n")
    async with Replica([[*steps, b"0\r\n\r\n"]]) as replica:
        upstream = Upstream(replica.origin, timeouts=Timeouts(first_body_byte_seconds=0.2, next_chunk_seconds=0.1))
        loop = asyncio.get_running_loop()
        response = await upstream.request(*POST)
        for number, gate in enumerate(gates):
            loop.call_later(0.03 * (number + 1), gate.set)
        assert await response.read() == b"x" * 6
        upstream.close()


@on_both_loops
async def test_a_long_answer_after_a_kept_connection_s_timer_is_not_cut_short() -> None:
    gate = asyncio.Event()
    async with Replica([[READ, HELLO, READ, Until(gate), HELLO]]) as replica:
        upstream = Upstream(replica.origin, keep_alive_seconds=0.03)
        await outcome(upstream)
        asyncio.get_running_loop().call_later(0.1, gate.set)
        assert await outcome(upstream) == Whole()
        upstream.close()


@on_both_loops
async def test_a_connection_that_nobody_accepts_times_out() -> None:
    upstream = Upstream("http://192.0.2.1:9", timeouts=SHORT)  # TEST-NET-1: nobody is there
    with pytest.raises((TimedOut, ConnectFailed)) as caught:
        await upstream.request(*POST)
    if isinstance(caught.value, TimedOut):
        assert caught.value.phase is Phase.CONNECT


def answer_once(listening: socket.socket) -> None:
    """What a replica in another process does, whatever our loop is at."""
    one, _ = listening.accept()
    with one:
        one.recv(1 << 16)
        one.sendall(HELLO)


@on_both_loops
async def test_what_came_while_our_own_loop_was_held_up_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10.0)
        replica = threading.Thread(target=answer_once, args=(listening,))
        replica.start()
        upstream = Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", timeouts=SHORT)
        loop = asyncio.get_running_loop()
        asking = asyncio.ensure_future(outcome(upstream))
        while not upstream.open_connections:
            await asyncio.sleep(0)
            loop.call_soon(time.sleep, 0.2)  # the stall itself: connecting, and again before the first byte
            await asyncio.sleep(0)
        assert await asking == Whole()
        replica.join()
        upstream.close()


# Flow.


@on_both_loops
async def test_a_slow_reader_holds_the_replica_back_and_then_gets_all() -> None:
    size = 16 << 20
    gone = asyncio.Event()
    async with Replica([[READ, OK + b"content-length: %d\r\n\r\n" % size + b"z" * size, Hangup(gone)]]) as replica:
        upstream = Upstream(replica.origin, timeouts=Timeouts(next_chunk_seconds=0.03))
        with await upstream.request(*POST) as response:
            await asyncio.sleep(0.1)  # longer than the silence allowed: it is we who do not read
            assert READ_AHEAD_BYTES < response.unread_bytes <= 3 * READ_AHEAD_BYTES
            received = 0
            while chunk := await response.chunk():
                received += len(chunk)
        assert received == size
        assert (upstream.idle_connections, replica.connections) == (1, 1)
        upstream.close()


@on_both_loops
async def test_a_big_body_arrives_whole() -> None:
    body: list[bytes | memoryview] = [b"a" * (3 << 20), memoryview(b"b" * (2 << 20)), b"c"]
    async with Replica([[READ, HELLO]]) as replica:
        upstream = Upstream(replica.origin)
        assert await outcome_of(await upstream.request("POST", "/", (), body)) == b"hello"
        assert replica.requests[0][1] == b"".join(body)
        upstream.close()


@on_both_loops
@pytest.mark.parametrize("answer", [HELLO, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
async def test_an_answer_to_a_request_only_half_read_is_delivered_and_ends_the_connection(answer: bytes) -> None:
    gone = asyncio.Event()
    async with Replica([[READ_HEAD, answer, Until(gone)]]) as replica:
        upstream = Upstream(replica.origin)
        response = await upstream.request("POST", "/", (), [b"a" * (64 << 20)])
        assert await outcome_of(response) == b"hello"
        assert upstream.open_connections == 0
        gone.set()


@on_both_loops
async def test_a_replica_that_does_not_read_the_request_times_out() -> None:
    gone = asyncio.Event()
    async with Replica([[READ_HEAD, Until(gone)]]) as replica:
        upstream = Upstream(replica.origin, timeouts=SHORT)
        with pytest.raises(TimedOut):
            await upstream.request("POST", "/", (), [b"a" * (64 << 20)])
        assert upstream.open_connections == 0
        gone.set()


@on_both_loops
async def test_a_response_has_one_reader() -> None:
    async with Replica([[READ, CHUNKED]]) as replica:
        upstream = Upstream(replica.origin)
        response = await upstream.request(*POST)
        first = asyncio.ensure_future(response.chunk())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await response.chunk()
        response.abort()
        with pytest.raises(Aborted):
            await first
