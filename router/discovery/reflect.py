"""A list of Kubernetes objects, kept as the API server has it: listed once, then followed event by event. Pure.

The rules of the API that this embodies:

- A list tells its version; a watch from that version tells every change since. An event's object carries the version
  to go on from when the watch ends, and so does a bookmark, which carries nothing else: without bookmarks the version
  of a list that seldom changes would grow too old to go on from.
- A version too old to go on from (410, `Expired`) comes as the refusal of a watch or as an ERROR event inside a watch
  that began with 200. Then everything is listed again.
- A list may come in pages. Until the last has come, what was known holds.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

import msgspec

from router.discovery.kube_objects import Event, ListMetadata, Object, Status

GONE = 410

Kind = TypeVar("Kind", bound=Object)


class Page(msgspec.Struct, Generic[Kind], frozen=True):
    metadata: ListMetadata
    items: tuple[Kind, ...] | None = None


class Step(Enum):
    """What an event asks for."""

    CHANGED = "changed"  # look at the objects again
    NOTHING = "nothing"
    EXPIRED = "expired"  # list again


class ServerFault(Exception):
    """The API server says, inside a watch, that something went wrong."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code} {status.reason}: {status.message}")
        self.status = status


class Reflection(Generic[Kind]):
    """One list. Changed by whoever reads from the API server, and by nobody else."""

    def __init__(self, kind: type[Kind]) -> None:
        self.version = ""  # to watch from; empty: to be listed first
        self.objects: dict[str, Kind] = {}  # by name
        self._coming: dict[str, Kind] = {}
        self._events = msgspec.json.Decoder(Event)
        self._object = msgspec.json.Decoder(kind)
        self._bookmark = msgspec.json.Decoder(Object)
        self._status = msgspec.json.Decoder(Status)
        self._page: msgspec.json.Decoder[Page[Kind]] = msgspec.json.Decoder(Page[kind])  # type: ignore[valid-type]  # a type known at run time

    def begin(self) -> None:
        """A list is asked for from its first page."""
        self._coming = {}

    def page(self, body: bytes) -> str:
        """One page of the list. Returns what to ask the next with, empty at the end. Raises msgspec.MsgspecError."""
        page = self._page.decode(body)
        for one in page.items or ():
            self._coming[one.metadata.name] = one
        if not page.metadata.continue_:
            self.objects, self._coming = self._coming, {}
            self.version = page.metadata.resource_version
        return page.metadata.continue_

    def event(self, line: bytes) -> Step:
        """One line of the watch. Raises ServerFault, or msgspec.MsgspecError for a line that is no event."""
        event = self._events.decode(line)
        if event.type == "ERROR":
            status = self._status.decode(event.object)
            if status.code == GONE:
                return self.expired()
            raise ServerFault(status)
        if event.type == "BOOKMARK":
            self.version = self._bookmark.decode(event.object).metadata.resource_version
            return Step.NOTHING
        one = self._object.decode(event.object)
        self.version = one.metadata.resource_version
        if event.type == "DELETED":
            self.objects.pop(one.metadata.name, None)
        else:
            self.objects[one.metadata.name] = one
        return Step.CHANGED

    def expired(self) -> Step:
        """The version is too old to go on from."""
        self.version = ""
        return Step.EXPIRED
