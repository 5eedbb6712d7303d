from __future__ import annotations

import pytest

from router.fleet.replica import Seat
from router.gateway.dispatch import Verdict, verdict
from router.gateway.exchange import Answer
from router.gateway.first import first_of, status_told
from router.gateway.upstream import Upstream
from tests.gateway.replica_script import CLOSE, READ, Replica, Step

ERROR = b'data: {"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}\n\n'
DONE = b"data: [DONE]\n\n"
TOKEN = b'data: {"choices":[{"text":"a word about an \\"error\\""}]}\n\n'


def streamed(*chunks: bytes) -> list[Step]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [READ, head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


async def answered(steps: list[Step]) -> Answer:
    async with Replica([steps]) as replica:
        upstream = Upstream(replica.origin)
        answer = await first_of(upstream, "/v1/completions", [], (b"{}",), Seat(0))
        answer.response.abort()
        upstream.close()
        return answer


@pytest.mark.parametrize("pieces", [(ERROR + DONE,), (ERROR, DONE), (ERROR[:40], ERROR[40:] + DONE)])
async def test_a_stream_that_begins_with_an_error_is_judged_by_the_status_it_tells(pieces: tuple[bytes, ...]) -> None:
    answer = await answered(streamed(*pieces))
    assert answer.status == 500
    assert verdict(answer) is Verdict.DOUBTFUL
    assert answer.chunk.startswith(ERROR), "who gets it after all gets it whole"


async def test_an_error_that_is_cut_off_by_the_end_passes_as_it_came() -> None:
    assert (await answered(streamed(ERROR[:40]))).status == 200


async def test_a_stream_that_begins_with_a_token_passes() -> None:
    answer = await answered(streamed(TOKEN, ERROR))
    assert answer.status == 200
    assert verdict(answer) is Verdict.PASS


async def test_a_refusal_in_the_head_is_judged_as_ever() -> None:
    answer = await answered([READ, b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}", CLOSE])
    assert answer.status == 503


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (b'data: {"error":{"message":"too long","code":400}}\n\n', 400),
        (b'data: {"error":{"message":"x","code":"overloaded"}}\r\n\r\n', 500),
        (b'data: {"error":{"message":"x","code":200}}\n\n', 500),
        (b'data: {"error":"aborted"}\n\n', 500),
        (b'\ndata:{ "error" : {"code": 503}}\n\n', 503),
        (b'data: {"error":null,"choices":[]}\n\n', 200),
        (b'data: {"error": nonsense}\n\n', 200),
        (b'data: {"choices":[],"error":{"code":500}}\n\n', 200),
        (b"", 200),
    ],
)
def test_which_status_a_first_event_tells(event: bytes, status: int) -> None:
    assert status_told(event) == status
