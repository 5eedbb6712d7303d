"""Questions over HTTP, each on its own connection and never for long. What the answers mean is judged elsewhere.

Each on its own connection, because a load balancer between us and several engines shows only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

import httpx

from router.clock import Clock


class Ending(Enum):
    """How an attempt to reach somebody ended, other than by an answer."""

    NO_NAME = "its name is not known"
    REFUSED = "the connection is refused"
    TIMED_OUT = "no connection in time"
    NO_ROUTE = "no way there"
    TLS = "TLS does not come about"
    HUNG = "it takes the connection and never answers"
    NOT_HTTP = "it does not speak HTTP"


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer, and why."""

    ending: Ending
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """`date` is the header of that name. Times are seconds on our clocks."""

    status: int
    body: bytes
    date: str | None
    asked_wall_seconds: float
    seconds: float


class Asker:
    """One replica's questioner. `http` brings the key and the TLS settings."""

    def __init__(self, http: httpx.AsyncClient, url: str, clock: Clock, timeout_seconds: float) -> None:
        self.url = url
        self._http = http
        self._clock = clock
        self.timeout_seconds = timeout_seconds

    async def connect(self) -> Silence | tuple[str, ...]:
        """The addresses behind the name once one of them took a connection (and TLS), else why none did."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        return await connect(host, port, self.timeout_seconds, tls=ssl.create_default_context() if secure else None)

    async def get(self, path: str) -> Answer | Silence:
        return await self._ask("GET", path, None, (), self.timeout_seconds)

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        timeout_seconds: float | None = None,
    ) -> Answer | Silence:
        typed = ((b"content-type", b"application/json"), *headers)
        return await self._ask("POST", path, body, typed, timeout_seconds or self.timeout_seconds)

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: Sequence[tuple[bytes, bytes]], timeout_seconds: float
    ) -> Answer | Silence:
        asked, asked_wall = self._clock.now(), self._clock.wall()
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._http.request(
                    method, self.url + path, content=body, headers=list(headers), timeout=timeout_seconds
                )
        except httpx.ConnectTimeout:
            return Silence(Ending.TIMED_OUT)
        except (TimeoutError, httpx.TimeoutException):
            return Silence(Ending.HUNG, f"{path}: nothing in {timeout_seconds:g} s")
        except httpx.ConnectError as fault:
            return Silence(Ending.REFUSED, str(fault))
        except httpx.HTTPError as fault:
            return Silence(Ending.NOT_HTTP, f"{type(fault).__name__} {fault}".strip())
        return Answer(
            answer.status_code, answer.content, answer.headers.get("date"), asked_wall, self._clock.now() - asked
        )


async def connect(
    host: str, port: int, timeout_seconds: float, *, tls: ssl.SSLContext | None = None
) -> Silence | tuple[str, ...]:
    """Open a connection and close it again: the addresses behind the name, or why none took it."""
    loop = asyncio.get_running_loop()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except socket.gaierror as fault:
        return Silence(Ending.NO_NAME, f"{host}: {fault.strerror}")
    except ssl.SSLError as fault:  # an OSError too, so before them
        return Silence(Ending.TLS, fault.reason or str(fault))
    except ConnectionRefusedError:
        return Silence(Ending.REFUSED, f"{host}:{port}")
    except TimeoutError:
        return Silence(Ending.TIMED_OUT, f"{host}:{port}, {timeout_seconds:g} s")
    except OSError as fault:
        # asyncio joins the faults of several addresses into one without a number; refusals come first in practice.
        ending = Ending.REFUSED if "refused" in str(fault).lower() else Ending.NO_ROUTE
        return Silence(ending, str(fault))
    finally:
        if writer is not None:
            writer.transport.abort()  # a polite TLS farewell may take half a minute
    return tuple(sorted({str(entry[4][0]) for entry in found}))


async def get_all(asker: Asker, paths: Sequence[str]) -> Mapping[str, Answer | Silence]:
    """Every path once, all at once."""
    answers = await asyncio.gather(*(asker.get(path) for path in paths))
    return dict(zip(paths, answers, strict=True))


@contextlib.asynccontextmanager
async def client(replica_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP for all replicas: the key that Homing would send, its TLS roots, no proxy, no connection used twice."""
    headers = {"authorization": f"Bearer {replica_key}"} if replica_key else {}
    limits = httpx.Limits(max_keepalive_connections=0)
    tls = ssl.create_default_context()
    async with httpx.AsyncClient(headers=headers, limits=limits, verify=tls, trust_env=False) as http:
        yield http
