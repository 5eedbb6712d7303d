"""The yardstick: a relay with the same server and the same upstream client, and nothing else. No policy, no tokens.

`python -m loadtest.micro.bare --port 9002 --upstream http://127.0.0.1:9001`. Reads the body, sends it on, passes
the answer's bytes through.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any  # ASGI's messages have no narrower type

import uvicorn

from router.gateway.upstream import Upstream

Message = MutableMapping[str, Any]
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host", b"te"})


class Relay:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        pieces: list[bytes] = []
        more = True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        response = await self._upstream.request(scope["method"], scope["path"], headers, pieces)
        with response:
            passed = [(name, value) for name, value in response.headers if name.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": passed})
            while chunk := await response.chunk():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    given = parser.parse_args()
    uvicorn.run(
        Relay(Upstream(given.upstream)),
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
