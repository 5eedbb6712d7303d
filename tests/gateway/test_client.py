from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from router.errors import BadRequest, BodyTooLarge, Overloaded
from router.gateway.client import WATCH_AFTER_SECONDS, Client, Gone, Message


@dataclass
class Peer:
    """The other side of an exchange: messages to receive, then silence until it hangs up."""

    messages: list[Message]
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.got.append(message)


def pieces(*bodies: bytes) -> list[Message]:
    last = len(bodies) - 1
    return [{"type": "http.request", "body": body, "more_body": at < last} for at, body in enumerate(bodies)]


def client_of(messages: Sequence[Message]) -> tuple[Client, Peer]:
    peer = Peer(list(messages))
    return Client([], peer.receive, peer.send), peer


@pytest.mark.parametrize("bodies", [(b"",), (b"whole",), (b"in ", b"three ", b"parts")])
async def test_the_body_is_what_was_sent(bodies: tuple[bytes, ...]) -> None:
    client, _ = client_of(pieces(*bodies))
    with client:
        assert await client.body(100) == b"".join(bodies)


@pytest.mark.parametrize("bodies", [(b"x" * 11,), (b"x" * 6, b"x" * 5, b"")])
async def test_a_body_over_the_limit_is_refused_as_soon_as_it_is(bodies: tuple[bytes, ...]) -> None:
    client, _ = client_of(pieces(*bodies))
    with client, pytest.raises(BodyTooLarge, match="body_megabytes"):
        await client.body(10)


async def test_a_client_gone_before_its_body_is_whole_is_gone() -> None:
    client, _ = client_of([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])
    with client, pytest.raises(Gone):
        await client.body(100)


async def test_a_client_that_never_sends_its_body_is_not_waited_for_long() -> None:
    peer = Peer([])
    with (
        Client([], peer.receive, peer.send, body_seconds=WATCH_AFTER_SECONDS) as client,
        pytest.raises(BadRequest, match="did not arrive"),
    ):
        await client.body(100)


async def test_a_hang_up_after_a_slow_body_ends_the_wait_too() -> None:
    peer, arrived = Peer(pieces(b"late")), asyncio.Event()

    async def receive() -> Message:
        await arrived.wait()
        return await peer.receive()

    client = Client([], receive, peer.send)

    async def exchange() -> str:
        with client:
            assert await client.body(100) == b"late"
            peer.hung_up.set()
            await asyncio.Event().wait()
        return "went on"

    asyncio.get_running_loop().call_later(2 * WATCH_AFTER_SECONDS, arrived.set)
    assert await asyncio.create_task(exchange()) == "went on"
    assert client.gone


async def test_a_hang_up_ends_whatever_is_waited_for_and_nothing_outside() -> None:
    client, peer = client_of([])
    cleaned = False

    async def exchange() -> str:
        nonlocal cleaned
        with client:
            try:
                asyncio.get_running_loop().call_soon(peer.hung_up.set)
                await asyncio.Event().wait()
            finally:
                cleaned = True
        return "went on"

    assert await asyncio.create_task(exchange()) == "went on"
    assert cleaned
    assert client.gone


async def test_a_cancellation_from_elsewhere_is_not_swallowed() -> None:
    client, _ = client_of([])

    async def exchange() -> None:
        with client:
            await asyncio.Event().wait()

    task = asyncio.create_task(exchange())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client.gone


async def test_the_end_of_an_answer_is_no_hang_up() -> None:
    client, peer = client_of([])
    with client:
        await client.answer(200, [], b"done")
        peer.hung_up.set()  # what servers say when the answer is whole
        await asyncio.sleep(0.01)
    assert not client.gone


async def test_an_error_of_ours_has_openais_shape_and_says_when_to_come_back() -> None:
    client, peer = client_of([])
    await client.refuse(Overloaded("full", retry_after_seconds=1.2), [])
    headers: dict[bytes, bytes] = dict(peer.got[0]["headers"])
    assert peer.got[0]["status"] == 429
    assert headers[b"retry-after"] == b"2"
    error: dict[str, Any] = json.loads(peer.got[1]["body"])["error"]
    assert error == {"message": "full", "type": "rate_limit_error", "param": None, "code": "overloaded"}
