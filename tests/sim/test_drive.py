from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from router.sim.caller import Caller, CallFailed
from router.sim.drive import drive
from router.sim.workload import Arrivals, Ask, Conversation, Text, Turn, Workload, schedule

USAGE = b'"usage":{"prompt_tokens":90,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":64}}'
STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\nda',
    b'ta: {"choices":[{"delta":{"content":"b"}}]}\n\n',
    b'data: {"choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n",
)

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """An engine that answers each request on a connection with `answer`."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await answer(await reader.readexactly(length), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        waiting = list(serving)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def chunked(pieces: tuple[bytes, ...], *, head: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\n" + head + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


async def streams(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(chunked(STREAM, head=b"x-homing-replica: r7\r\n"))


def workload(count: int, at_seconds: float = 0.0) -> Workload:
    return Workload(tuple(Turn(at_seconds, f"c{number}", 0, Text(b'"hi"'), 4) for number in range(count)))


async def test_a_stream_is_read_into_a_record_wherever_it_is_split() -> None:
    async with server(streams) as url:
        (record,) = await drive(workload(1), url, model="m")
    assert (record.error, record.status, record.replica) == (None, 200, "r7")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (90, 64, 2)
    assert record.first_token_seconds is not None
    assert record.inter_token_seconds is not None
    assert record.first_token_seconds <= record.total_seconds


async def test_replies_that_never_come_do_not_hold_back_arrivals() -> None:
    arrived = 0
    everyone = asyncio.Event()

    async def waits_for_all(body: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            everyone.set()
        await everyone.wait()
        await streams(body, writer)

    async with server(waits_for_all) as url:
        records = await drive(workload(20), url, model="m")
    assert [record.error for record in records] == [None] * 20


async def test_past_the_bound_a_turn_is_an_error_not_a_wait() -> None:
    async with server(streams) as url:
        records = await drive(workload(5), url, model="m", max_open=2)
    refused = [record.error for record in records if record.error]
    assert len(records) == 5
    assert refused == ["not sent: 2 requests were open"] * len(refused) != []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy", "status 503: busy"),
        (chunked(STREAM[:2]), "ended without"),
        (chunked((b'data: {"error":{"message":"gone"}}\n\n',)), "gone"),
        (chunked((b"data: {nonsense\n\n",)), "not JSON"),
        (b"nonsense\r\n\r\n", "not HTTP"),
    ],
)
async def test_a_bad_reply_is_told_in_its_record(answer: bytes, error: str) -> None:
    async def says(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with server(says) as url:
        (record,) = await drive(workload(1), url, model="m")
    assert record.error is not None
    assert error in record.error


async def test_a_server_that_is_not_there_is_told_in_the_record() -> None:
    async with server(streams) as url:
        pass
    (record,) = await drive(workload(1), url, model="m")
    assert record.error is not None
    assert "cannot connect" in record.error


async def test_a_hung_reply_ends_at_the_timeout() -> None:
    async def hangs(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.get_running_loop().create_future()

    async with server(hangs) as url:
        (record,) = await drive(workload(1), url, model="m", timeout_seconds=0.05)
    assert record.error == "no end within 0.05 s"


async def test_a_caller_keeps_its_connection_and_survives_one_that_died_idle() -> None:
    peers: list[asyncio.StreamWriter] = []

    async def notes(_: bytes, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with server(notes) as url:
        caller = Caller(url)
        assert [(await caller.post("/", b"{}")).body for _ in range(2)] == [b"ok", b"ok"]
        assert peers[0] is peers[1]
        peers[0].transport.abort()
        assert (await caller.post("/", b"{}")).body == b"ok"
        caller.close()


async def test_a_caller_tells_of_a_connection_cut_in_the_middle() -> None:
    async def cuts(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok")
        writer.close()

    async with server(cuts) as url:
        with pytest.raises(CallFailed, match="lost"):
            await Caller(url).post("/", b"{}")


async def test_a_scheduled_workload_is_sent_on_time() -> None:
    conversations = [Conversation(f"c{n}", (Ask(Text(b'"x"'), 2),)) for n in range(10)]
    async with server(streams) as url:
        records = await drive(schedule(conversations, Arrivals(starts_per_second=200), 3), url, model="m")
    assert len(records) == 10
    assert all(record.late_seconds >= 0 for record in records)
