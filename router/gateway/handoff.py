"""Carries a request over two replicas: who is sent what and when, and how each failure before commitment is noticed.

It knows legs only. What they say is the handshake's (`engines/handshake.py`); which two, the policy's; what follows a
failure, the dispatcher's, who is told which leg ended it.

    ordered     prefill leg -> its whole answer -> decode leg -> its first body byte
    at once     both legs; the decode leg's first body byte ends the waiting, the prefill leg is drained beside it

**A donor's death after its answer** shows in no connection of ours: the taker fetches from it, and a real vLLM tells
of it after 7 to 31 seconds. So while the taker is silent its donor is asked how it is, ever again: refused, reset, a
5xx, or no word from its address, end the attempt within two seconds of the death. One that takes connections and says
nothing is busy rather than dead, and gets SILENCES in a row.

**Every leg ends here.** A leg that is not needed any more (its other leg failed, the client hung up, Homing stops) is
closed, which ends its request in the engine. Only the prefill leg of a committed answer outlives the call; it belongs
to the exchange, and ends with it at the latest.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Mapping
from random import Random
from urllib.parse import urlsplit

import httpx
import msgspec

from router.engines.handshake import Donor, Handshake, HandshakeFault, splittable
from router.errors import UpstreamError
from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.gateway.exchange import Answer, Carried
from router.gateway.failures import ConnectFailed, Phase, TimedOut
from router.gateway.first import first_of
from router.gateway.headers import RawHeaders
from router.gateway.http1 import Timeouts
from router.gateway.upstream import Upstream
from router.policy.pools import handshake_of
from router.prompt.request import InferenceRequest
from router.prompt.splices import Pieces

WATCH_AFTER_SECONDS = 0.25  # most hand-overs are done by then
WATCH_EVERY_SECONDS = 0.5
WATCH_TIMEOUT_SECONDS = 0.75
# In a row. On two busy cores a real vLLM 0.32 left two health checks of 0.75 s each unanswered and went on.
SILENCES = 4
UNREACHED = 2  # of those, while connecting: nobody is there; after one on a kept connection, the first such will do
WATCH_TIMEOUTS = Timeouts(WATCH_TIMEOUT_SECONDS, WATCH_TIMEOUT_SECONDS, WATCH_TIMEOUT_SECONDS)


class Ended(msgspec.Struct, frozen=True, gc=False):
    """How an attempt over two replicas ended: `end` came from `seat`, one of its legs."""

    end: Answer | UpstreamError
    seat: Seat
    in_prefill: bool


class Handoff:
    """Runs both legs of split requests."""

    def __init__(
        self,
        *,
        roster: Roster,
        upstreams: Mapping[Seat, Upstream],
        handshakes: Mapping[str, Handshake],
        http: httpx.AsyncClient,
        rng: Random,
    ) -> None:
        """`http`: for bootstrap servers."""
        self._roster = roster
        self._upstreams = upstreams
        self._handshakes = handshakes
        self._http = http
        self._rng = rng

    def takes(self, request: InferenceRequest) -> frozenset[str]:
        """The handshakes with which the request may be split."""
        if not splittable(request):
            return frozenset()
        return frozenset(name for name, one in self._handshakes.items() if one.takes(request))

    def handshake(self, donor: Seat) -> Handshake:
        name = handshake_of(self._roster.replica(donor), self._roster.facts(donor))
        return self._handshakes[name or ""]

    async def carry(
        self,
        request: InferenceRequest,
        donor: Seat,
        taker: Seat,
        headers: RawHeaders,
        body: Pieces,
        carried: Carried,
        computed: Callable[[bytes], None],
    ) -> Ended:
        """Both legs, until the answer is committed or lost. `computed` gets the donor's whole answer.

        On return, and when cancelled, only the prefill leg of a committed answer may still be open (`carried`).
        """
        path = request.endpoint.value
        handshake = self.handshake(donor)
        try:
            legs = handshake.legs(request, body, await self._donor(donor, handshake), self._rng.getrandbits(63))
        except UpstreamError as fault:
            return Ended(fault, donor, in_prefill=True)
        prefill = carried.prefill = asyncio.create_task(
            self._prefill(self._upstreams[donor], path, headers, legs.prefill, donor, computed)
        )
        decode: asyncio.Task[Answer | UpstreamError] | None = None
        watch: asyncio.Task[UpstreamError] | None = None
        committed = False
        try:
            decode_body = legs.decode
            if decode_body is None:
                given = await prefill
                if not isinstance(given, bytes):
                    return Ended(given, donor, in_prefill=True)
                try:
                    decode_body = handshake.hand_over(request, body, given) or body
                except HandshakeFault as fault:
                    return Ended(fault, donor, in_prefill=True)
            decode = asyncio.create_task(self._first(self._upstreams[taker], path, headers, decode_body, taker))
            while True:
                if prefill.done() and watch is None:
                    computed_or_not = prefill.result()
                    if not isinstance(computed_or_not, bytes):
                        return Ended(computed_or_not, donor, in_prefill=True)
                    if handshake.watch_path is not None:
                        watch = asyncio.create_task(self._watch(self._upstreams[donor], handshake.watch_path))
                beside = prefill if not prefill.done() else watch
                await asyncio.wait((decode, beside) if beside is not None else (decode,), return_when=FIRST_COMPLETED)
                if decode.done():
                    end = decode.result()
                    committed = isinstance(end, Answer)
                    return Ended(end, taker, in_prefill=False)
                if watch is not None and watch.done():
                    return Ended(watch.result(), donor, in_prefill=True)
        finally:
            for task in (decode, watch, None if committed else prefill):
                if task is not None and not task.done():
                    task.cancel()

    async def _donor(self, seat: Seat, handshake: Handshake) -> Donor:
        replica = self._roster.replica(seat)
        donor = Donor(urlsplit(replica.url).hostname or "", replica.bootstrap_port, replica.rank)
        url = handshake.bootstrap_url(donor)
        if url is None:
            return donor
        try:
            told = await self._http.get(url)
        except httpx.HTTPError as fault:
            raise ConnectFailed(f"the bootstrap server {url} does not answer: {fault!r}") from fault
        return Donor(donor.host, donor.bootstrap_port, donor.rank, told.content)

    async def _prefill(
        self,
        upstream: Upstream,
        path: str,
        headers: RawHeaders,
        body: Pieces,
        seat: Seat,
        computed: Callable[[bytes], None],
    ) -> Answer | bytes | UpstreamError:
        """The donor's whole answer; or what it refused with; or how it failed."""
        try:
            response = await upstream.request("POST", path, headers, body)
            with response:
                if response.status == 200:
                    whole = await response.read()
                    computed(whole)
                    return whole
                # Kept whole: the response is closed here, and the client may yet be given it.
                refusal = await response.read()
        except UpstreamError as fault:
            return fault
        return Answer(seat, response, refusal, response.status)

    async def _first(
        self, upstream: Upstream, path: str, headers: RawHeaders, body: Pieces, seat: Seat
    ) -> Answer | UpstreamError:
        try:
            return await first_of(upstream, path, headers, body, seat)
        except UpstreamError as fault:
            return fault

    async def _watch(self, upstream: Upstream, path: str) -> UpstreamError:
        """Ends when the donor is found dead, with how."""
        await asyncio.sleep(WATCH_AFTER_SECONDS)
        silences = 0
        while True:
            try:
                with await upstream.request("GET", path, timeouts=WATCH_TIMEOUTS) as response:
                    if response.status >= 500:
                        return ConnectFailed(f"{upstream.origin} is unwell while its KV is fetched")
                silences = 0
                await asyncio.sleep(WATCH_EVERY_SECONDS)
            except TimedOut as silence:
                silences += 1
                if silences >= (UNREACHED if silence.phase is Phase.CONNECT else SILENCES):
                    return ConnectFailed(f"{upstream.origin} fell silent while its KV was fetched")
            except UpstreamError as fault:
                return ConnectFailed(f"{upstream.origin} died while its KV was fetched: {fault}")
