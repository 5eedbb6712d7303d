"""The HTTP surface of one simulated replica: a plain ASGI application. Edge."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace

import msgspec

from router.clock import Clock
from router.sim.asgi import Receive, Scope, Send, hang_up, read_body, reply
from router.sim.ask import LONG_TEXT_CHARACTERS, plan, texts, tokenized
from router.sim.body import Body, Endpoint, parse
from router.sim.failures import Order
from router.sim.generate import Generator
from router.sim.model import Model, Refusal
from router.sim.pages import metrics, models_page, sources
from router.sim.replica import Replica
from router.sim.shapes import error_body
from router.sim.transfers import Transfers, terms_of

VERSION = "0.32.0"
ENDPOINTS = {endpoint.value: endpoint for endpoint in Endpoint}


class Routes:
    """Serves one replica.

    `fleet` are all replicas of the process, so that a dead one can be ordered back to life through another; `abort`
    resets the connection a request came on.
    """

    def __init__(
        self,
        replica: Replica,
        fleet: list[Replica],
        model: Model,
        clock: Clock,
        abort: Callable[[Scope], None],
        *,
        reports_cached: bool = True,
        transfers: Transfers,
    ) -> None:
        self._replica = replica
        self._fleet = fleet
        self._model = model
        self._abort = abort
        fingerprint = f"vllm-{VERSION}-{secrets.token_hex(4)}"
        self._generator = Generator(replica, model, clock, abort, fingerprint, transfers, reports_cached=reports_cached)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path == "/sim/failures":
            await self._failures(method, receive, send)
            return
        if self._replica.failures.hang:
            await hang_up(receive)
            return
        endpoint = ENDPOINTS.get(path)
        if endpoint is None:
            await self._page(method, path, send)
        elif method != "POST":
            await reply(send, 405, b'{"detail":"Method Not Allowed"}')
        else:
            await self._inference(endpoint, scope, receive, send)

    async def _page(self, method: str, path: str, send: Send) -> None:
        """Everything that needs no engine step."""
        replica, model = self._replica, self._model
        if path in ("/health", "/ping"):
            await reply(send, 200, b"", ())
        elif path == "/version":
            await reply(send, 200, msgspec.json.encode({"version": VERSION}))
        elif path == "/load":
            await reply(send, 200, msgspec.json.encode({"server_load": self._generator.served}))
        elif path == "/v1/models":
            await reply(send, 200, models_page(model, replica.process_start_time))
        elif path == "/kv_event_sources":
            await reply(send, 200, sources(replica.settings))
        elif path == "/metrics":
            page = metrics(replica, model.names[0])
            await reply(send, 200, page, ((b"content-type", b"text/plain; version=1.0.0; charset=utf-8"),))
        elif path == "/query":  # of Mooncake's bootstrap server, which here listens beside all else
            engine = {"engine_id": replica.engine_id, "worker_addr": {"0": {"0": "tcp://127.0.0.1:0"}}}
            await reply(send, 200, msgspec.json.encode({"0": engine}))
        elif path == "/reset_prefix_cache" and method == "POST":
            await reply(send, 200, msgspec.json.encode({"success": replica.engine.reset_cache()}))
        else:
            await reply(send, 404, b'{"detail":"Not Found"}')

    async def _failures(self, method: str, receive: Receive, send: Send) -> None:
        raw = await read_body(receive)
        if method != "POST":
            await reply(send, 200, msgspec.json.encode({"alive": [replica.alive for replica in self._fleet]}))
            return
        try:
            order = msgspec.json.decode(raw, type=Order)
            replica = self._replica if order.replica is None else self._fleet[order.replica]
        except (msgspec.DecodeError, IndexError) as error:
            await reply(send, 400, error_body(str(error), "BadRequestError", None, 400))
            return
        await reply(send, 200, b'{"ok":true}')
        replica.obey(order)

    async def _inference(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(receive)
        failures = self._replica.failures
        if endpoint is not Endpoint.TOKENIZE:
            if failures.resets_connection():
                self._abort(scope)
                await hang_up(receive)
                return
            status = failures.status()
            if status is not None:
                await reply(send, status, error_body("ordered to fail", "InternalServerError", None, status))
                return
        try:
            body = parse(raw)
            namespace = self._model.namespace(body.model, body.cache_salt)
            prompts = await self._prompts(endpoint, body)
            if endpoint is Endpoint.TOKENIZE:
                await reply(send, 200, self._tokenize_page(body, prompts[0]))
                return
            terms = terms_of(body.kv_transfer_params, body.bootstrap_room, self._replica.settings.role)
            ask = replace(plan(endpoint, body, namespace, prompts, self._model), transfer=terms)
        except Refusal as refusal:
            body_out = error_body(refusal.message, refusal.kind, refusal.param, refusal.status)
            await reply(send, refusal.status, body_out)
            return
        await self._generator.run(ask, scope, receive, send)

    async def _prompts(self, endpoint: Endpoint, body: Body) -> list[list[int]]:
        sources = texts(endpoint, body, self._model)
        preamble = self._replica.failures.template_preamble
        if preamble and body.messages is not None:
            sources = [preamble + source if isinstance(source, str) else source for source in sources]
        new = sum(self._model.tokens.new_characters(source) for source in sources if isinstance(source, str))
        if new < LONG_TEXT_CHARACTERS:
            return tokenized(sources, endpoint, body, self._model)
        return await asyncio.to_thread(tokenized, sources, endpoint, body, self._model)

    def _tokenize_page(self, body: Body, tokens: list[int]) -> bytes:
        strings = [self._model.tokens.tokenizer.id_to_token(token) for token in tokens]
        return msgspec.json.encode(
            {
                "count": len(tokens),
                "max_model_len": self._model.max_model_tokens,
                "tokens": tokens,
                "token_strs": strings if body.return_token_strs else None,
            }
        )
