"""An API server of our own, as far as discovery asks one: lists in pages, watches with bookmarks, 410, a sudden end.

Written from the API's conventions and held to the same contract suite as a real server (tests/real_kube).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]  # Any: JSON
PATHS = {
    "/api/v1/namespaces/models/pods": "Pod",
    "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices": "EndpointSlice",
}
TOKEN = "a token"


@dataclass
class _Change:
    version: int
    kind: str
    type: str
    object: Object
    before: Object | None


@dataclass
class FakeApiServer:
    """Changed by the test; serves while `start`ed."""

    page_limit: int = 2  # whatever is asked for: several pages even for a few objects
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    changes: list[_Change] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # list, page, watch
    forbidden: bool = False
    version: int = 100
    oldest: int = 100
    port: int = 0
    watched: asyncio.Event = field(default_factory=asyncio.Event)  # somebody has watched
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _bookmarks: int = 0

    # What the test does

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """As a crash: every connection ends in the middle of what it was doing."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def put(self, one: Object) -> None:
        key = (one["kind"], one["metadata"]["name"])
        before = self.objects.get(key)
        self._change("MODIFIED" if before else "ADDED", key, one, before)
        self.objects[key] = self.changes[-1].object

    def delete(self, kind: str, name: str) -> None:
        before = self.objects.pop((kind, name))
        self._change("DELETED", (kind, name), before, before)

    def compact(self) -> None:
        """Forget all history: no version known before can be watched from."""
        self.version += 1
        self.oldest = self.version
        self.changes.clear()

    def bookmark(self) -> None:
        """Tell every watcher the newest version."""
        self._bookmarks += 1
        self._tell()

    def end_watches(self) -> None:
        """As servers do after a while: every watch ends in order."""
        self._bookmarks = -1
        self._tell()

    # What it does

    def _change(self, kind_of_change: str, key: tuple[str, str], one: Object, before: Object | None) -> None:
        self.version += 1
        one = json.loads(json.dumps(one))
        one["metadata"]["resourceVersion"] = str(self.version)
        self.changes.append(_Change(self.version, key[0], kind_of_change, one, before))
        self._tell()

    def _tell(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(head.split(" ")[1])
        kind = PATHS.get(target.path)
        query = {key: values[0] for key, values in parse_qs(target.query).items()}
        if f"authorization: bearer {TOKEN}" not in head.lower():
            await self._refuse(writer, 401, "Unauthorized", "Unauthorized")
        elif kind is None:
            await self._refuse(writer, 404, "NotFound", "the server could not find the requested resource")
        elif self.forbidden:
            await self._refuse(writer, 403, "Forbidden", f"User cannot list {kind}")
        elif query.get("watch") in ("true", "True"):
            self.asked.append("watch")
            self.watched.set()
            await self._watch(writer, kind, query)
        else:
            self.asked.append("page" if "continue" in query else "list")
            await self._list(writer, kind, query)

    async def _list(self, writer: asyncio.StreamWriter, kind: str, query: dict[str, str]) -> None:
        found = [one for (one_kind, _), one in sorted(self.objects.items()) if one_kind == kind and _fits(one, query)]
        version, _, start = query.get("continue", f"{self.version}:0").partition(":")
        if int(version) < self.oldest:
            await self._refuse(writer, 410, "Expired", "The provided continue parameter is too old")
            return
        first = int(start)
        last = first + min(self.page_limit, int(query["limit"]))
        token = f"{version}:{last}" if last < len(found) else ""
        body = {"kind": f"{kind}List", "metadata": {"resourceVersion": version}, "items": found[first:last] or None}
        if token:
            body["metadata"] = {"resourceVersion": version, "continue": token}
        await self._send(writer, 200, body)

    async def _watch(self, writer: asyncio.StreamWriter, kind: str, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        at = int(query["resourceVersion"])
        bookmarks = self._bookmarks = max(self._bookmarks, 0)
        if at < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {at}"}
            self._line(writer, {"type": "ERROR", "object": gone})
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return
        try:
            async with asyncio.timeout(float(query["timeoutSeconds"])):
                while self._bookmarks != -1:
                    wake = self._wake
                    for change in [change for change in self.changes if change.kind == kind and change.version > at]:
                        at = change.version
                        kind_of_change = _seen_as(change, query)
                        if kind_of_change is not None:
                            self._line(writer, {"type": kind_of_change, "object": change.object})
                    if self._bookmarks > bookmarks:
                        bookmarks, at = self._bookmarks, self.version
                        bare = {"kind": kind, "metadata": {"resourceVersion": str(at), "creationTimestamp": None}}
                        self._line(writer, {"type": "BOOKMARK", "object": bare})
                    await writer.drain()
                    await wake.wait()
        except TimeoutError:
            pass
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _line(self, writer: asyncio.StreamWriter, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        half = len(line) // 2  # an event need not come in one piece
        for part in (line[:half], line[half:]):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))

    async def _refuse(self, writer: asyncio.StreamWriter, code: int, reason: str, message: str) -> None:
        await self._send(writer, code, {"kind": "Status", "code": code, "reason": reason, "message": message})

    async def _send(self, writer: asyncio.StreamWriter, code: int, body: Object) -> None:
        text = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n" % code)
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(text), text))
        await writer.drain()


def _fits(one: Object, query: dict[str, str]) -> bool:
    labels = one["metadata"].get("labels") or {}
    wanted = (pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
    return all(labels.get(key) == value for key, value in wanted)


def _seen_as(change: _Change, query: dict[str, str]) -> str | None:
    """An object that comes to fit the selector is added to this watcher's list, one that ceases to is deleted."""
    fits, fitted = _fits(change.object, query), change.before is not None and _fits(change.before, query)
    if change.type == "DELETED" or not fits:
        return "DELETED" if fitted else None
    return "MODIFIED" if fitted else "ADDED"
