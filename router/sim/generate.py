"""One request on a simulated replica, from its jobs to the last byte of its answer. Edge.

A hang-up of the client ends its jobs at once, streamed or not, as vLLM does; what they filled stays cached.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from router.clock import Clock
from router.sim.asgi import Receive, Scope, Send, hang_up, reply
from router.sim.ask import Ask
from router.sim.body import Endpoint
from router.sim.engine import Job, Output
from router.sim.model import Model
from router.sim.replica import Replica
from router.sim.shapes import DONE, Counts, Named, StreamShape, embeddings, error_body, whole
from router.sim.transfers import Imported, Terms, TransferFailed, Transfers

Sink: TypeAlias = asyncio.Queue[Output | None]

_STREAM_BEGINS = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
PREFIXES = {Endpoint.CHAT: "chatcmpl-", Endpoint.COMPLETIONS: "cmpl-", Endpoint.EMBEDDINGS: "embd-"}


class Gone(Exception):
    """The connection is no more: the client hung up, or the process died."""


class Generator:
    """Runs requests on one replica. `abort` resets the connection a request came on."""

    def __init__(
        self,
        replica: Replica,
        model: Model,
        clock: Clock,
        abort: Callable[[Scope], None],
        fingerprint: str,
        transfers: Transfers,
        *,
        reports_cached: bool,
    ) -> None:
        self.served = 0  # requests open now
        self._replica = replica
        self._model = model
        self._clock = clock
        self._abort = abort
        self._fingerprint = fingerprint
        self._transfers = transfers
        self._reports_cached = reports_cached

    async def run(self, ask: Ask, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the jobs of one request; a hang-up or a death ends them."""
        asked_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
        named = Named(
            f"{PREFIXES[ask.endpoint]}{asked_id or secrets.token_hex(8)}",
            int(self._clock.wall()),
            ask.model,
            self._fingerprint,
        )
        size = self._replica.settings.limits.block_size_tokens
        counts = Counts(ask.prompt_tokens, full_block_tokens=sum(len(p) // size * size for p in ask.prompts))
        sink: Sink = asyncio.Queue()
        watch = asyncio.ensure_future(_watch(receive, sink))
        jobs: dict[str, int] = {}
        self.served += 1
        try:
            imported = await self._fetch(ask, watch)
            if imported is not None and imported.spoilt:  # of another prompt: so is the answer
                ask = replace(ask, answers=[answer[::-1] for answer in ask.answers])
            jobs = self._submit(ask, named, sink, imported)
            if ask.transfer is not None and ask.transfer.gives:
                await self._give(ask, ask.transfer, named, counts, jobs, sink, send)
            elif ask.stream:
                await self._stream(ask, named, counts, jobs, sink, send)
            else:
                await self._whole(ask, named, counts, jobs, sink, send)
        except TransferFailed:
            body = error_body("Internal server error", "InternalServerError", None, 500)
            if ask.stream:  # vLLM 0.32 begins every stream with 200, and tells of this as its first event
                await send(_STREAM_BEGINS)
                await send(
                    {"type": "http.response.body", "body": b"data: " + body + b"\n\n" + DONE, "more_body": False}
                )
            else:
                await reply(send, 500, body)
        except Gone:
            self._abort(scope)
            watch.cancel()
            await hang_up(receive)
        finally:
            self.served -= 1
            watch.cancel()
            for job_id in jobs:
                self._replica.cancel(job_id)

    async def _fetch(self, ask: Ask, watch: asyncio.Future[None]) -> Imported | None:
        """What another replica has computed of the prompt. Raises TransferFailed, Gone."""
        terms = ask.transfer
        if terms is None or terms.gives:
            return None
        replica, prompt = self._replica, ask.prompts[0]

        def lacking(tokens: int) -> int:
            return replica.engine.lacking(prompt[:tokens], ask.namespace)

        fetch = asyncio.ensure_future(self._transfers.fetch(replica, terms, lacking))
        try:
            await asyncio.wait((fetch, watch), return_when=asyncio.FIRST_COMPLETED)
            if not fetch.done():
                raise Gone
            return fetch.result()
        finally:
            fetch.cancel()

    async def _give(
        self, ask: Ask, terms: Terms, named: Named, counts: Counts, jobs: dict[str, int], sink: Sink, send: Send
    ) -> None:
        """The donor's leg: the first token, and where the blocks are."""
        output = await _next(sink)
        counts.completion, counts.cached = 1, output.cached_tokens
        kept = self._transfers.keep(self._replica, output.request_id, terms, counts.prompt, output.cached_tokens)
        jobs.clear()
        if terms.kind == "sglang":
            gone = asyncio.ensure_future(kept.gone.wait())
            hung_up = asyncio.ensure_future(sink.get())
            try:
                await asyncio.wait({gone, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                if not gone.done():
                    self._replica.release(kept)
                    raise Gone
            finally:
                gone.cancel()
                hung_up.cancel()
        params = self._transfers.params(self._replica, kept) if terms.kind == "nixl" else None
        first = [answer[:1] for answer in ask.answers]
        page = whole(ask, named, self._model, first, counts, reports_cached=self._reports_cached, transfer=params)
        await reply(send, 200, page)

    def _submit(self, ask: Ask, named: Named, sink: Sink, imported: Imported | None) -> dict[str, int]:
        """Queue one job for each choice; the choice each job's outputs belong to."""
        gives = ask.transfer is not None and ask.transfer.gives
        jobs: dict[str, int] = {}
        for index, spoken in enumerate(ask.answers):
            job_id = f"{named.id}-{index}-{secrets.token_hex(4)}"
            jobs[job_id] = index
            prompt = ask.prompts[index // ask.choices]
            self._replica.submit(
                Job(
                    job_id,
                    prompt,
                    spoken[:1] if gives else spoken,
                    ask.namespace,
                    ask.reads_cache,
                    ask.reports_all_hits,
                    imported_tokens=0 if imported is None else imported.tokens,
                    reported_cached_tokens=None if imported is None else imported.cached_tokens,
                    keeps_blocks=gives,
                ),
                sink,
            )
        return jobs

    async def _whole(
        self, ask: Ask, named: Named, counts: Counts, jobs: dict[str, int], sink: Sink, send: Send
    ) -> None:
        cached: dict[int, int] = {}
        open_jobs = len(jobs)
        while open_jobs:
            output = await _next(sink)
            index = jobs[output.request_id]
            counts.completion += output.token is not None
            cached.setdefault(index // ask.choices, output.cached_tokens)
            open_jobs -= output.finished
        counts.cached = sum(cached.values())
        if ask.endpoint is Endpoint.EMBEDDINGS:
            page = embeddings(ask, named, counts)
        else:
            page = whole(ask, named, self._model, ask.answers, counts, reports_cached=self._reports_cached)
        await reply(send, 200, page)

    async def _stream(
        self, ask: Ask, named: Named, counts: Counts, jobs: dict[str, int], sink: Sink, send: Send
    ) -> None:
        shape = StreamShape(ask, named, reports_cached=self._reports_cached)
        left = self._replica.failures.chunks_to_live()
        positions: dict[int, int] = {}
        cached: dict[int, int] = {}
        open_jobs = len(jobs)
        while open_jobs:
            output = await _next(sink)
            index = jobs[output.request_id]
            if not positions:
                await send(_STREAM_BEGINS)
            events = b""
            if index not in positions and ask.endpoint is Endpoint.CHAT:
                events = shape.first(index, counts)
            cached.setdefault(index // ask.choices, output.cached_tokens)
            counts.cached = sum(cached.values())
            counts.completion += 1
            open_jobs -= output.finished
            position = positions.get(index, 0)
            positions[index] = position + 1
            token = output.token or 0
            text = self._model.tokens.text(token)
            events += shape.token(index, position, token, text, counts, finished=output.finished)
            if left is not None and (left := left - 1) < 0:
                raise Gone
            await send({"type": "http.response.body", "body": events, "more_body": True})
        tail = (shape.last(counts) if ask.include_usage else b"") + DONE
        await send({"type": "http.response.body", "body": tail, "more_body": False})


async def _watch(receive: Receive, sink: Sink) -> None:
    """Tell the sink when the client hangs up."""
    await hang_up(receive)
    sink.put_nowait(None)


async def _next(sink: Sink) -> Output:
    output = await sink.get()
    if output is None:
        raise Gone
    return output
