"""The journey of a request, on one screen. Each step is told in the file it calls."""

from __future__ import annotations

import asyncio
import traceback
from functools import partial
from typing import Any

from router.clock import Clock
from router.config import UsageProbe
from router.errors import HomingError, InternalError, Stopping, UpstreamError
from router.fleet.roster import Roster
from router.fleet.sessions import session_key
from router.gateway.account import Account
from router.gateway.admission import Admission
from router.gateway.client import Client, Gone, Receive, Send
from router.gateway.dispatch import Dispatch
from router.gateway.exchange import Answer, Exchange
from router.gateway.headers import Credentials, first, to_replica
from router.gateway.native import addressed
from router.gateway.readers import Readers
from router.gateway.recorder import Recorder
from router.gateway.relay import relay
from router.metrics import Metrics
from router.prompt.elements import opening
from router.prompt.generate import parse_generate
from router.prompt.request import Endpoint, InferenceRequest, engine_body, parse

SAMPLED_ONE_IN = 10  # of streams whose client did not ask for usage, under `usage_probe: sampled`


class Serve:
    """Serves the endpoints that carry prompts."""

    def __init__(
        self,
        *,
        roster: Roster,
        readers: Readers,
        admission: Admission,
        dispatch: Dispatch,
        account: Account,
        credentials: Credentials,
        metrics: Metrics,
        clock: Clock,
        session_headers: tuple[str, ...],
        reads_sessions: bool,
        usage_probe: UsageProbe,
        body_limit_bytes: int,
        recorder: Recorder,
    ) -> None:
        self._roster = roster
        self._readers = readers
        self._admission = admission
        self._dispatch = dispatch
        self._account = account
        self._metrics = metrics
        self._clock = clock
        self.heed(credentials, session_headers, usage_probe, body_limit_bytes, reads_sessions=reads_sessions)
        self._recorder = recorder
        self._streams = 0

    def heed(
        self,
        credentials: Credentials,
        session_headers: tuple[str, ...],
        usage_probe: UsageProbe,
        body_limit_bytes: int,
        *,
        reads_sessions: bool,
    ) -> None:
        """For requests from now on."""
        self.credentials = credentials
        self._session_headers = tuple(name.lower() for name in session_headers)
        self._usage_probe = usage_probe
        self._body_limit_bytes = body_limit_bytes
        self._reads_sessions = reads_sessions

    async def __call__(self, endpoint: Endpoint, scope: Any, receive: Receive, send: Send) -> None:
        client = Client(scope["headers"], receive, send)
        exchange = self._account.arrive(endpoint, client.headers)
        try:
            self.credentials.check(first(client.headers, b"authorization"))
            with client:
                body = await client.body(self._body_limit_bytes)
                await self._journey(client, exchange, body)
        except HomingError as fault:
            exchange.fault = fault
            exchange.status = fault.status
            if client.committed:
                raise  # the server breaks the connection off, which is all that can still be told
            await client.refuse(fault, self._account.explain_headers(exchange))
        except Gone:
            client.gone = True
        except asyncio.CancelledError:
            # Homing is stopping. Not raised again: this is the outermost frame of the request's own task.
            exchange.fault = Stopping("Homing stopped before the answer ended.", code="stopping")
            exchange.status = exchange.status or exchange.fault.status
            if not client.committed:
                await client.refuse(exchange.fault, self._account.explain_headers(exchange))
        except Exception as bug:
            # A fault of ours: told to the operator whole, to the client in its protocol's shape.
            traceback.print_exc()
            exchange.fault = InternalError(f"Homing failed to serve this request ({type(bug).__name__}).")
            exchange.status = exchange.fault.status
            if client.committed:
                raise
            await client.refuse(exchange.fault, self._account.explain_headers(exchange))
        finally:
            self._account.close(exchange, gone=client.gone)
            _let_go(exchange)

    async def _journey(self, client: Client, exchange: Exchange, body: bytes) -> None:
        if exchange.endpoint is Endpoint.GENERATE:
            request, served = addressed(self._roster, parse_generate(body))
        else:
            request = parse(exchange.endpoint, body)
            served = self._roster.served(request.model)
        exchange.request = request
        exchange.model, exchange.base, exchange.adapter = served.name, served.base, served.adapter
        if self._reads_sessions or self._recorder.recording is not None:
            exchange.session_key = self._session(client, request)
        prompt = exchange.prompt = await self._readers.read(request, served)
        exchange.token_source = self._readers.source(served.base)
        if prompt.unpredicted is not None:
            self._metrics.unpredicted.add(prompt.unpredicted.value)
        pieces, splices = engine_body(request, ask_usage=self._asks_usage(request))
        for splice in splices:
            self._metrics.splices.add(splice)
        headers = to_replica(client.headers, self.credentials, exchange.id)
        withhold = "include_usage" in splices
        with await self._admission.enter(request.model) as place:
            try:
                answer = await self._dispatch.send(exchange, place, headers, pieces)
                await self._relay(client, exchange, answer, withhold_usage=withhold)
            finally:
                self._account.release(exchange)  # before the place is left, so that its room is seen

    async def _relay(self, client: Client, exchange: Exchange, answer: Answer, *, withhold_usage: bool) -> None:
        exchange.status = answer.response.status
        cached = None
        if exchange.donor is not None and exchange.counts_whole_prompt:
            cached = exchange.donor_cached_tokens
            self._metrics.splices.add("cached_tokens")
        with answer.response:
            try:
                relayed = await relay(
                    client,
                    answer.response,
                    answer.chunk,
                    self._account.explain_headers(exchange),
                    withhold_usage=withhold_usage,
                    native=exchange.endpoint is Endpoint.GENERATE,
                    on_tokens=partial(self._account.tokens, exchange),
                    cached=cached,
                )
            except UpstreamError:
                self._dispatch.died(answer)
                raise
        exchange.usage = relayed.usage
        if relayed.fault is not None:
            exchange.fault = relayed.fault
            if relayed.blamed:
                self._dispatch.died(answer)

    def _session(self, client: Client, request: InferenceRequest) -> str | None:
        """R 6.1."""

        def header(name: str) -> str | None:
            value = first(client.headers, name.encode())
            return value.decode("latin-1") if value is not None else None

        return session_key(
            header,
            model=request.model,
            prompt_cache_key=request.prompt_cache_key,
            user=request.user,
            opening=opening(request),
            header_names=self._session_headers,
        )

    def _asks_usage(self, request: InferenceRequest) -> bool:
        if not request.stream or request.choices > 1 or request.prompts > 1 or self._usage_probe is UsageProbe.NEVER:
            return False  # of several choices asking changes more than the watch can take back
        if request.endpoint is Endpoint.GENERATE:
            return False  # told unasked
        self._streams += 1
        return self._usage_probe is UsageProbe.ALWAYS or self._streams % SAMPLED_ONE_IN == 1


def _let_go(exchange: Exchange) -> None:
    """Break the ring of an error, the frames it passed through, and the exchange that holds it.

    The frames hold the request's body, and the collector of rings comes seldom (garbage.py): a client that is refused
    again and again must not fill the memory.
    """
    behind: list[BaseException | None] = [exchange.fault]
    exchange.fault = None
    while behind:
        fault = behind.pop()
        if fault is not None and fault.__traceback__ is not None:
            fault.__traceback__ = None
            behind += (fault.__cause__, fault.__context__)
