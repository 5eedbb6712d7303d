"""Replicas that are pods: listed once, then watched, in a thread of its own.

The client blocks for as long as nothing changes, so a thread reads and the loop is handed whole sightings, the newest
of them if it is slow. What objects mean is `pods` and `slices`, what a watch means `reflect`; here is when to ask:

    list -> watch from its version -> watch on from the last version -> ...
      ^           |
      +--- 410 ---+     the version is too old to go on from

A watch that ends is the ordinary case: servers end each after a while. One that breaks, or a server that is gone, is
asked again at once, then after 1, 2, 4... seconds, with what was known so far; only when it refuses the version all is
listed anew. Meanwhile the fleet stays as last seen: engines that die are found by their probes, and pods that come are
late. A fault that lasts is told once, with what to do about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

import msgspec

from router.clock import Clock
from router.config import KubernetesSettings
from router.discovery import pods, slices
from router.discovery.kube_client import KubeClient, Refused, Unreachable
from router.discovery.kube_objects import EndpointSlice, Object, Pod
from router.discovery.members import Sighting
from router.discovery.newest import Newest
from router.discovery.pods import Seen
from router.discovery.reflect import GONE, Reflection, ServerFault, Step

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# A watch that brought nothing and ended sooner than this is a server in trouble, not an idle one.
SHORTEST_WATCH_SECONDS = 1.0
END_SECONDS = 2.0  # for the thread to end when the house is closed
REMEDIES = {
    401: "The token or certificate is not accepted.",
    403: "Give the service account a Role that may list and watch them: k8s/rbac/rbac.yaml.",
    404: "The API server does not know this list; is it a Kubernetes of 1.21 or later?",
}

Say = Callable[[str], None]
Kind = TypeVar("Kind", bound=Object)


class KubernetesSource:
    """One namespace's pods by selector, or one Service's endpoints. `sightings` is to be read by one at a time."""

    name = "kubernetes"

    def __init__(
        self,
        settings: KubernetesSettings,
        client: KubeClient,
        *,
        clock: Clock,
        say: Say,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._say = say
        self._first_pause_seconds = first_pause_seconds
        self._lost_since: float | None = clock.now()  # until the first list

    def lost_since(self) -> float | None:
        return self._lost_since

    async def sightings(self) -> AsyncGenerator[Sighting, None]:
        loop = asyncio.get_running_loop()
        news: Newest[Sighting | Exception] = Newest()

        def say(line: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._say, line)

        def saw(since: float | None) -> None:
            self._lost_since = since

        reader = _Reader(self._settings, self._client, self._clock, self._first_pause_seconds, news.put, say, saw)
        thread = threading.Thread(target=reader.run, name=self.name, daemon=True)
        thread.start()
        try:
            while True:
                one = await news.get()
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            reader.stop()
            await asyncio.to_thread(thread.join, END_SECONDS)


class _Reader:
    """What runs in the thread. `put` gets a sighting after each change, or the fault of ours that ended it."""

    def __init__(
        self,
        settings: KubernetesSettings,
        client: KubeClient,
        clock: Clock,
        first_pause_seconds: float,
        put: Callable[[Sighting | Exception], None],
        say: Say,
        saw: Callable[[float | None], None],
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._first_pause_seconds = first_pause_seconds
        self._put = put
        self._say = say
        self._saw = saw
        self._rng = random.Random()  # routers that lost one server do not all come back at once
        self._stopped = threading.Event()
        self._failures = 0  # in a row
        self._told_loss = False
        self._last: Seen | None = None

    def stop(self) -> None:
        """From any thread."""
        self._stopped.set()
        self._client.interrupt()

    def run(self) -> None:
        try:
            if self._settings.service is None:
                self._follow(Reflection(Pod), lambda some: pods.members(some, self._settings))
            else:
                self._follow(Reflection(EndpointSlice), lambda some: slices.members(some, self._settings))
        except Exception as bug:
            if not self._stopped.is_set():
                traceback.print_exc()
                self._put(bug)

    def _follow(self, reflection: Reflection[Kind], view: Callable[[Iterable[Kind]], Seen]) -> None:
        while not self._stopped.is_set():
            try:
                if not reflection.version:
                    self._list(reflection)
                    self._sees()
                    self._look(view(reflection.objects.values()))
                self._watch(reflection, view)
            except Refused as fault:
                if fault.code == GONE:
                    reflection.expired()
                    self._failures += 1
                else:
                    self._lost(str(fault), REMEDIES.get(fault.code))
            except (Unreachable, ServerFault, msgspec.MsgspecError) as fault:
                self._lost(str(fault))
            self._pause()

    def _list(self, reflection: Reflection[Kind]) -> None:
        reflection.begin()
        token = ""
        while not self._stopped.is_set():
            token = reflection.page(self._client.page(token))
            if not token:
                return

    def _watch(self, reflection: Reflection[Kind], view: Callable[[Iterable[Kind]], Seen]) -> None:
        began = self._clock.now()
        with self._client.watch(reflection.version) as lines:
            self._sees()
            if self._stopped.is_set():  # said before there was a watch to interrupt
                return
            for line in lines:
                step = reflection.event(line)
                if step is Step.EXPIRED:
                    self._failures += 1
                    return
                self._failures = 0
                if step is Step.CHANGED:
                    self._look(view(reflection.objects.values()))
        if self._clock.now() - began >= SHORTEST_WATCH_SECONDS:
            self._failures = 0
        else:
            self._failures += 1

    def _look(self, seen: Seen) -> None:
        last, self._last = self._last, seen
        for fault in seen.faults:
            if last is None or fault not in last.faults:
                self._say(f"kubernetes: {fault}")
        if last is None:
            self._say(
                f"kubernetes: watches {self._client.what} in namespace {self._client.namespace} by "
                f"{self._client.where}; {len(seen.members)} ready"
            )
        if last is None or seen.members != last.members:
            self._put(seen.members)

    def _sees(self) -> None:
        self._saw(None)
        if self._told_loss:
            self._told_loss = False
            self._say("kubernetes: the API server is seen again")

    def _lost(self, why: str, remedy: str | None = None) -> None:
        """Told when it lasts, or when somebody must do something about it."""
        self._failures += 1
        if self._failures == 1 and remedy is None:
            return
        if not self._told_loss and not self._stopped.is_set():
            self._told_loss = True
            self._saw(self._clock.now())
            rest = "" if remedy is None else f" {remedy}"
            self._say(f"kubernetes: the API server is not seen: {why}; the fleet stays as it was.{rest}")

    def _pause(self) -> None:
        """Nothing after a watch that ended as watches do, and after the first fault."""
        if self._failures > 1:
            longest = self._first_pause_seconds * 2 ** min(self._failures - 2, 16)
            self._stopped.wait(min(longest, LONGEST_PAUSE_SECONDS) * self._rng.uniform(0.5, 1.0))
