"""Warms every pair of a donor and a taker before a client's request is split over it.

The first hand-over between two engines takes seconds, and one configured wrong fails for good. So a
pair is opened by a request of our own that went through it: both legs, one token. It is tried when both replicas are
well, again after a failure, and anew when either has restarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

import msgspec
import numpy as np

from router.engines.handshakes import ANSWERING_WHOLE
from router.errors import UpstreamError
from router.fleet.health import Health
from router.fleet.pairs import Pairs
from router.fleet.replica import Replica, ReplicaId, Seat
from router.fleet.roster import Roster
from router.gateway.exchange import Carried
from router.gateway.handoff import Handoff
from router.gateway.headers import RawHeaders
from router.policy.pools import pools_of
from router.prompt.request import Endpoint, parse

AGAIN_SECONDS = 5.0  # after a failure
PATIENCE_SECONDS = 60.0  # vLLM on a slow machine takes five; one that takes this long is not warm but stuck
AT_ONCE = 8  # a fleet of a hundred pairs must not be stormed

Pair = tuple[Seat, Seat]


class Warming:
    """Owns its tasks, in the given group. `say` gets a sentence for each pair."""

    def __init__(
        self,
        *,
        roster: Roster,
        health: Health,
        pairs: Pairs,
        handoff: Handoff,
        headers: Sequence[tuple[bytes, bytes]],
        rng: Random,
        tasks: asyncio.TaskGroup,
        say: Callable[[str], None],
    ) -> None:
        self._roster = roster
        self._health = health
        self._pairs = pairs
        self._handoff = handoff
        self._headers: RawHeaders = [*headers, (b"content-type", b"application/json")]
        self._rng = rng
        self._tasks = tasks
        self._say = say
        self._running: dict[Pair, asyncio.Task[None]] = {}
        self._not_before: dict[Pair, float] = {}
        self._told: dict[Pair, str] = {}
        self._version = -1
        self._matched: dict[Pair, str] = {}

    def beat(self, now_seconds: float) -> None:
        """Begin what is to be warmed. Ask now and then."""
        for pair, model in self._wanted(now_seconds).items():
            if len(self._running) >= AT_ONCE:
                return
            if pair in self._running or self._pairs.is_open(*pair) or self._not_before.get(pair, 0.0) > now_seconds:
                continue
            self._not_before[pair] = now_seconds + AGAIN_SECONDS
            self._running[pair] = self._tasks.create_task(self._warm(pair, model), name=f"warming {pair}")

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    def _wanted(self, now_seconds: float) -> dict[Pair, str]:
        """Pairs that match and whose replicas are well, with a model both serve."""
        if self._version != self._roster.version:
            self._version, self._matched = self._roster.version, self._matching()
        seats = np.array(self._roster.present(), dtype=np.int64)
        well = {Seat(seat) for seat in seats[self._health.allowed(seats, now_seconds)].tolist()}
        return {pair: model for pair, model in self._matched.items() if well.issuperset(pair)}

    def _matching(self) -> dict[Pair, str]:
        """Pairs that match, whoever is well: every pair is looked at, so only when the roster has changed."""
        found: dict[Pair, str] = {}
        for model in self._roster.models():
            seats = [Seat(seat) for seat in self._roster.serving(model.name).tolist()]
            if model.adapter is not None or not seats:
                continue
            facts = [self._roster.facts(seat) for seat in seats]
            pools = pools_of([self._roster.replica(seat) for seat in seats], facts, ANSWERING_WHOLE)
            if pools is None:
                continue
            for donor, taker in zip(*(places.tolist() for places in pools.matched.nonzero()), strict=True):
                found.setdefault((seats[pools.donors.item(donor)], seats[pools.takers.item(taker)]), model.name)
        return found

    async def _warm(self, pair: Pair, model: str) -> None:
        donor, taker = (self._roster.replica(seat) for seat in pair)
        try:
            why = await self._carry(pair, model)
            if why is None and self._is_as_it_was(pair, donor, taker):
                self._pairs.opened(*pair)
                self._tell(pair, donor.id, taker.id, "are a pair: KV went from the one to the other")
            elif why is not None:
                self._tell(pair, donor.id, taker.id, f"are no pair yet: {why}")
        finally:
            del self._running[pair]

    async def _carry(self, pair: Pair, model: str) -> str | None:
        """Why it did not go through; None when it did."""
        # Another text each time: what both have cached already would not be handed over.
        prompt = f"Homing introduces two replicas to each other: {self._rng.getrandbits(128):032x}"
        asked = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        request = parse(Endpoint.COMPLETIONS, msgspec.json.encode(asked))
        carried, given = Carried(), list[bytes]()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                ended = await self._handoff.carry(request, *pair, self._headers, (request.body,), carried, given.append)
                if isinstance(ended.end, UpstreamError):
                    return str(ended.end)
                with ended.end.response as response:
                    answer = ended.end.chunk + await response.read()
                    if response.status != 200:
                        return f"status {response.status}: {answer[:200].decode(errors='replace')}"
                if not self._handoff.handshake(pair[0]).handed_over(given):
                    return "the prefill replica handed nothing over; is its KV connector configured?"
        except UpstreamError as fault:
            return str(fault)
        except TimeoutError:
            return f"no answer within {PATIENCE_SECONDS:g} s"
        finally:
            if carried.prefill is not None:
                carried.prefill.cancel()
        return None

    def _is_as_it_was(self, pair: Pair, donor: Replica, taker: Replica) -> bool:
        """Neither has left or been replaced meanwhile."""
        return all(
            self._roster.is_present(seat) and self._roster.replica(seat) is one
            for seat, one in zip(pair, (donor, taker), strict=True)
        )

    def _tell(self, pair: Pair, donor: ReplicaId, taker: ReplicaId, what: str) -> None:
        if self._told.get(pair) != what:
            self._told[pair] = what
            self._say(f"{donor} and {taker} {what}")
