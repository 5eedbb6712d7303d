"""Token ids from the engine's own POST /tokenize: remembered, asked for once, and never waited for long.

The HTTP call is the caller's: `tokenize` posts a body to some replica of the model and gives the ids back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from xxhash import xxh3_128_digest

from router.prompt.ask import tokenize_body
from router.prompt.blocks import TOKEN_BYTES, TokenIds, pack_tokens
from router.prompt.lru import Lru
from router.prompt.prompt import Tokenized, Unpredicted
from router.prompt.request import Endpoint, InferenceRequest

Tokenize = Callable[[bytes], Awaitable[Sequence[int]]]
TokenizeBody = Callable[[InferenceRequest, str | None], bytes]


FAILURES_TO_QUIET = 3  # in a row
QUIET_SECONDS = 10.0


class _Call:
    """A call in flight, and how it ended for those who wait for it."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.failed = False


class EngineTokens:
    """One model's engine as a token source. Used from the event loop only."""

    def __init__(
        self,
        tokenize: Tokenize,
        *,
        body: TokenizeBody = tokenize_body,
        timeout_seconds: float = 2.0,
        cache_bytes: int = 64 << 20,
    ) -> None:
        """`body`: what this engine is asked for a request's prompt; vLLM's, unless told otherwise."""
        self._tokenize = tokenize
        self._body = body
        self._timeout_seconds = timeout_seconds
        self._answers: Lru[bytes, TokenIds] = Lru(cache_bytes)
        self._calls: dict[bytes, _Call] = {}
        self._failures_in_a_row = 0
        self._quiet_until_seconds = 0.0

    async def read(self, request: InferenceRequest) -> Tokenized | Unpredicted:
        """The request's prompts as the engine reads them. A batch is asked for by its longest text, the rest estimated.

        Never raises but for cancellation.
        """
        try:
            if request.endpoint is Endpoint.CHAT:
                if request.members.is_present("mm_processor_kwargs"):
                    return Unpredicted.MULTIMODAL
                return _alone(await self._ask(self._body(request, None)))
            prompts = _prompts(request)
            if prompts is None:
                return Unpredicted.MALFORMED
            longest, total_length = max(prompts, key=len), sum(map(len, prompts))
            if not isinstance(longest, str):
                return Tokenized(pack_tokens(longest), total_length)
            read = _alone(await self._ask(self._body(request, longest)))
        except (msgspec.DecodeError, OverflowError, TypeError, RecursionError):
            return Unpredicted.MALFORMED
        if isinstance(read, Unpredicted) or len(prompts) == 1:
            return read
        return Tokenized(read.tokens, round(read.total_tokens * total_length / max(1, len(longest))))

    async def _ask(self, body: bytes) -> TokenIds | None:
        """The ids for one body; None where the engine did not give them. Equal bodies in flight share one call."""
        key = xxh3_128_digest(body)
        while True:
            answer = self._answers.get(key)
            if answer is not None:
                return answer
            call = self._calls.get(key)
            if call is None:
                if asyncio.get_running_loop().time() < self._quiet_until_seconds:
                    return None
                return await self._call(key, body)
            await call.done.wait()
            if call.failed:
                return None
            # Answered, or its asker hung up: look again, and ask ourselves if need be.

    async def _call(self, key: bytes, body: bytes) -> TokenIds | None:
        call = self._calls[key] = _Call()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = pack_tokens(await self._tokenize(body))
        except Exception:
            # Whatever the edge raises for a refusal, a dead replica or a strange answer: the prompt is not known.
            call.failed = True
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_TO_QUIET:
                # A hung /tokenize must not cost every prompt the whole wait: route by load, and ask again later.
                self._quiet_until_seconds = asyncio.get_running_loop().time() + QUIET_SECONDS
            return None
        else:
            self._failures_in_a_row = 0
            self._answers.put(key, answer, len(answer))
            return answer
        finally:
            del self._calls[key]
            call.done.set()


def _alone(tokens: TokenIds | None) -> Tokenized | Unpredicted:
    return Unpredicted.TOKENIZE_FAILED if tokens is None else Tokenized(tokens, len(tokens) // TOKEN_BYTES)


def _prompts(request: InferenceRequest) -> Sequence[str | list[int]] | None:
    """The prompts of a completion, all texts or all token ids; None for anything else."""
    raw = request.members.raw(request.prompt_field)
    if raw is None:
        return None
    prompt = msgspec.json.decode(raw)
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        return None
    if all(isinstance(one, str) for one in prompt):
        return prompt
    if all(type(one) is int for one in prompt):
        return [prompt]
    return prompt if all(isinstance(one, list) for one in prompt) else None
