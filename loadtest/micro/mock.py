"""An engine that costs next to nothing: `python -m loadtest.micro.mock --port 9001`.

It answers every chat with the same bytes, at once or, for streams, as one chunk every 10 ms (as many as max_tokens
asks). It tells of itself what a router wants to know, and tokenizes as the shipped tokenizer does, so that a local
token source can be proven against it. It publishes no events and reports no cached tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from typing import cast

import httptools
import uvloop

from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, Tokens

MODEL = "mock"
CHUNK_SECONDS = 0.010
CHUNK_BYTES = 200

_MAX_TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')


def _answer(status: bytes, body: bytes, content_type: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (status, content_type, len(body))
    return head + body


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def _event(content: str) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
CHAT = _answer(
    b"200 OK",
    json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Yes. " * 20}, "finish_reason": "stop"}
            ],
            "usage": USAGE,
        }
    ).encode(),
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_CHUNK = _chunk(_event("x" * (CHUNK_BYTES - len(_event("")))))
STREAM_USAGE = _chunk(
    b"data: " + json.dumps({"id": "chatcmpl-1", "object": "x", "model": MODEL, "choices": [], "usage": USAGE}).encode()
    + b"\n\n"
)  # fmt: skip
STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
NOT_FOUND = _answer(b"404 Not Found", b'{"detail":"Not Found"}')


class Engine:
    """What connections share."""

    def __init__(self) -> None:
        self.tokens = Tokens(SHIPPED_TOKENIZER)
        self.template = ChatTemplate(SHIPPED_TOKENIZER)
        started = time.time()
        self.pages = {
            b"/health": _answer(b"200 OK", b""),
            b"/version": _answer(b"200 OK", b'{"version":"0.11.0"}'),
            b"/v1/models": _answer(
                b"200 OK",
                json.dumps(
                    {
                        "object": "list",
                        "data": [{"id": MODEL, "object": "model", "root": MODEL, "max_model_len": 10**6}],
                    }
                ).encode(),
            ),
            b"/metrics": _answer(
                b"200 OK",
                b'vllm:cache_config_info{block_size="16",num_gpu_blocks="65536",enable_prefix_caching="True"} 1.0\n'
                b"process_start_time_seconds %f\n" % started,
                b"text/plain",
            ),
        }

    def tokenize(self, body: bytes) -> bytes:
        asked = json.loads(body)
        if "messages" in asked:
            arguments = asked.get("chat_template_kwargs") or {}
            generation = asked.get("add_generation_prompt", True)
            text = self.template.render(
                asked["messages"], tools=asked.get("tools"), add_generation_prompt=generation, arguments=arguments
            )
            ids = self.tokens.encode(text)
        else:
            ids = self.tokens.encode(asked["prompt"], framed=asked.get("add_special_tokens", True))
        return _answer(b"200 OK", json.dumps({"count": len(ids), "max_model_len": 10**6, "tokens": ids}).encode())


class Connection(asyncio.Protocol):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._pieces: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self._timer is not None:
            self._timer.cancel()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        url, body = self._url, b"".join(self._pieces)
        self._url, self._pieces = b"", []
        if url == b"/v1/chat/completions":
            if b'"stream":true' in body:
                self._stream(body)
            else:
                self._transport.write(CHAT)
        elif url == b"/tokenize":
            self._transport.write(self._engine.tokenize(body))
        else:
            self._transport.write(self._engine.pages.get(url, NOT_FOUND))

    def _stream(self, body: bytes) -> None:
        asked = _MAX_TOKENS.search(body)
        self._left = int(asked[1]) if asked else 16
        self._tail = (STREAM_USAGE if b'"include_usage":true' in body else b"") + STREAM_END
        self._next_at = asyncio.get_running_loop().time()
        self._transport.write(STREAM_HEAD)
        self._send_chunk()

    def _send_chunk(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._left:
            self._transport.write(self._tail)
            return
        self._transport.write(STREAM_CHUNK)
        self._left -= 1
        self._next_at += CHUNK_SECONDS
        self._timer = loop.call_at(self._next_at, self._send_chunk)


async def serve(port: int) -> None:
    engine = Engine()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=512)
    print(f"mock engine listens on {port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    uvloop.run(serve(arguments.parse_args().port))
