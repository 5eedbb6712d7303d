"""A stand-in that answers and publishes as SGLang 0.5.23 does, as far as Homing looks. Its cache never evicts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any  # bodies and events

import msgspec
import zmq
import zmq.asyncio

from router.sim.asgi import JSON_TYPE, Receive, Scope, Send, hang_up, read_body, reply
from router.sim.server import HttpListener
from tests.engines.makers import SERVER_INFO, SGLANG_LOAD, SGLANG_MODEL
from tests.sim.fleets import free_ports

PAGE = 16
Namespace = tuple[str | None, str | None]  # extra key and salt


class SglangDouble:
    """One server. `asked` counts requests by path."""

    def __init__(self) -> None:
        self.port = free_ports(1)
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []  # what came to /generate
        self.announced_blocks = 0
        self.hung_up = asyncio.Event()
        self.endless = False  # streams do not end
        self.listener = HttpListener("127.0.0.1", self.port)
        self.listener.serve(self)  # type: ignore[arg-type] # any ASGI application can be served
        self._held: dict[Namespace, set[tuple[int, ...]]] = {}  # whole prefixes
        self._published: list[bytes] = []
        context = zmq.asyncio.Context.instance()
        self._events = context.socket(zmq.PUB)
        self._replay = context.socket(zmq.ROUTER)
        self._events.bind(f"tcp://127.0.0.1:{self.port + 1000}")
        self._replay.bind(f"tcp://127.0.0.1:{self.port + 2000}")

    async def run(self) -> None:
        """Answer replays; a fresh process first says that its cache is empty."""
        try:
            await self.publish({"type": "AllBlocksCleared"})
            await self.listener.start()
            while True:
                peer, _, first = await self._replay.recv_multipart()
                for number in range(int.from_bytes(first, "big"), len(self._published)):
                    frames = [peer, b"", b"kv", number.to_bytes(8, "big"), self._published[number]]
                    await self._replay.send_multipart(frames)
                await self._replay.send_multipart([peer, b"", b"", b"\xff" * 8, b""])
        finally:
            self.listener.stop()
            self._events.close(0)
            self._replay.close(0)

    async def publish(self, *events: dict[str, Any]) -> None:
        number = len(self._published)
        self._published.append(msgspec.msgpack.encode([1.0 + number, events, 0]))
        await self._events.send_multipart([b"kv", number.to_bytes(8, "big"), self._published[-1]])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.asked[path] += 1
        if path == "/generate":
            await self._generate(json.loads(await read_body(receive)), receive, send)
        elif path == "/v1/models":
            await _told(send, {"object": "list", "data": [SGLANG_MODEL]})
        elif path == "/server_info":
            ports = {"endpoint_port_base": self.port + 1000, "replay_endpoint_port_base": self.port + 2000}
            await _told(send, SERVER_INFO | {"kv_events": SERVER_INFO["kv_events"] | ports | {"topic": "kv"}})
        elif path == "/v1/loads":
            await _told(send, {"loads": [SGLANG_LOAD | {"num_running_reqs": 0, "num_waiting_reqs": 0}]})
        elif path == "/ready":
            await reply(send, 200, b"")
        else:
            await _told(send, {"detail": "Not Found"}, 404)

    async def _generate(self, body: dict[str, Any], receive: Receive, send: Send) -> None:
        self.bodies.append(body)
        ids: list[int] = body["input_ids"]
        meta = {"prompt_tokens": len(ids), "completion_tokens": 1, "cached_tokens": await self._cached(body, ids)}
        answer = {"text": "a", "output_ids": [7], "meta_info": meta | {"finish_reason": {"type": "length"}}}
        if not body.get("stream"):
            await _told(send, answer)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _event(answer), "more_body": True})
        if self.endless:
            await hang_up(receive)
            self.hung_up.set()
            return
        more = _event(answer | {"text": "ab", "output_ids": [7, 8]}) + b"data: [DONE]\n\n"
        await send({"type": "http.response.body", "body": more})

    async def _cached(self, body: dict[str, Any], ids: Sequence[int]) -> int:
        """What is cached of a prompt; its other pages are stored and announced."""
        salt = body.get("cache_salt")
        held = self._held.setdefault((body.get("extra_key"), salt), set())
        pages = [tuple(ids[:end]) for end in range(PAGE, len(ids) + 1, PAGE)]
        found = next((at for at, page in enumerate(pages) if page not in held), len(pages))
        held.update(pages)
        new = pages[found:]
        if new:
            self.announced_blocks += len(new)
            event = {
                "type": "BlockStored",
                "block_hashes": [_name(page, salt) for page in new],
                "parent_block_hash": _name(pages[found - 1], salt) if found else None,
                "token_ids": ids[found * PAGE : len(pages) * PAGE],
                "block_size": PAGE,
                "lora_id": None,
                "medium": "GPU",
            }
            await self.publish(event if salt is None else event | {"cache_salt": salt})
        return PAGE * min(found, (len(ids) - 1) // PAGE)


def _name(prefix: tuple[int, ...], salt: str | None) -> int:
    """Signed, of the tokens and the salt, and not of an extra key."""
    return int.from_bytes(sha256(repr((prefix, salt)).encode()).digest()[:8], "big", signed=True)


def _event(answer: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(answer).encode() + b"\n\n"


async def _told(send: Send, answer: object, status: int = 200) -> None:
    await reply(send, status, json.dumps(answer).encode(), (JSON_TYPE,))


@asynccontextmanager
async def serving_sglang() -> AsyncIterator[SglangDouble]:
    double = SglangDouble()
    task = asyncio.create_task(double.run())
    try:
        yield double
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
