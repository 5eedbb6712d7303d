"""From a request to its prompt: token ids, block hashes, or the reason why there are none.

Which source reads it: the local one once its parity is proven, else the engine, else nobody (R 3.1). A local source is
also used unproven where there is no engine to ask, since a guess that accuracy judges is better than none. What the
local source leaves to the engine goes there. Nothing here refuses a request: a prompt that cannot be read is routed by
load, and its cause is counted.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from enum import StrEnum
from typing import TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from router.prompt.blocks import TOKEN_BYTES, BlockHasher, root_hash
from router.prompt.engine import EngineTokens
from router.prompt.local import LocalTokens
from router.prompt.parity import PASSED, UNPROVEN
from router.prompt.prompt import Prompt, Tokenized, Unpredicted
from router.prompt.request import EMBEDDINGS, GENERATE, InferenceRequest

T = TypeVar("T")

# R 3.3: work estimated under this is done at once, since handing it to a thread and back costs about as much as a tenth
# of it and wakes two threads.
INLINE_SECONDS = 0.0005

# Prompts waiting for the pool before newcomers are routed by load instead.
WAITING_PROMPTS = 256

# How much of a prompt its prefix key covers.
PREFIX_TOKENS = 1024

# Bytes of text per token, for prompts whose tokens are not known. English prose and code lie between 3.5 and 4.5.
BYTES_PER_TOKEN = 4

# Causes after which the engine may still know better.
_ASK_ENGINE = frozenset((Unpredicted.NO_TOKENIZER, Unpredicted.CUSTOM_TEMPLATE, Unpredicted.ENGINE_SPECIFIC))

_RAWS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])

# Fields that, where they are present and not empty, keep any source from telling what is cached.
_BEYOND: Mapping[str, Unpredicted] = {
    "prompt_embeds": Unpredicted.PROMPT_EMBEDS,
    "truncate_prompt_tokens": Unpredicted.TRUNCATED,
    "extra_key": Unpredicted.EXTRA_KEY,
    "kv_transfer_params": Unpredicted.ENGINE_SPECIFIC,  # blocks come from elsewhere
    "lora_path": Unpredicted.ENGINE_SPECIFIC,  # SGLang's second way to name an adapter
}
# The same of /generate, whose `lora_path` is the only way.
_BEYOND_GENERATE: Mapping[str, Unpredicted] = {
    "extra_key": Unpredicted.EXTRA_KEY,
    "image_data": Unpredicted.MULTIMODAL,
    "video_data": Unpredicted.MULTIMODAL,
    "audio_data": Unpredicted.MULTIMODAL,
    "input_embeds": Unpredicted.PROMPT_EMBEDS,
    "positional_embed_overrides": Unpredicted.PROMPT_EMBEDS,
    "session_params": Unpredicted.ENGINE_SPECIFIC,  # the prompt goes on from one that only the engine knows
    "multi_item_delimiter_indices": Unpredicted.ENGINE_SPECIFIC,
}
_GENERATE_PROMPTS = ("text", "input_ids")
_ARRAY = ord("[")
_EMPTY = frozenset((b"null", b'""', b"[]", b"{}"))


class SourceKind(StrEnum):
    LOCAL = "local"
    ENGINE = "engine"
    NONE = "none"


LOCAL, ENGINE, NONE = SourceKind


class PromptReader:
    """Reads the prompts of one model. Used from the event loop; long work goes to `executor`, which must be bounded."""

    def __init__(
        self,
        *,
        local: LocalTokens | None,
        engine: EngineTokens | None,
        hasher: BlockHasher,
        hash_seed: int,
        executor: Executor,
    ) -> None:
        self._local = local
        self._engine = engine
        self._hasher = hasher
        self._hash_seed = hash_seed
        self._executor = executor
        self._waiting = 0
        self._roots: dict[tuple[str, str | None], int] = {}  # of prompts without a salt

    @property
    def kind(self) -> SourceKind:
        """Who reads an ordinary prompt now."""
        if self._local is not None:
            verdict = self._local.parity.verdict
            if verdict is PASSED or (verdict is UNPROVEN and self._engine is None):
                return LOCAL
        return NONE if self._engine is None else ENGINE

    async def read(
        self, request: InferenceRequest, *, block_sizes: frozenset[int], adapter: str | None, base: str
    ) -> Prompt:
        """The prompt of a request to `base` (with `adapter`), hashed for each block size in tokens."""
        root = self._root(base, adapter, request.cache_salt)
        read: Tokenized | Unpredicted | None = _beyond_reading(request)
        if read is None:
            kind, local = self.kind, self._local
            if kind is LOCAL and local is not None:

                def work() -> Prompt:
                    return self._finish(local.read(request), request, root, block_sizes)

                inline = local.seconds_per_byte * request.body_bytes < INLINE_SECONDS
                prompt = work() if inline else await self._in_pool(work)
                if prompt is None:
                    read = Unpredicted.BUSY
                elif prompt.unpredicted not in _ASK_ENGINE or self._engine is None:
                    return prompt
                else:
                    kind = ENGINE
            if kind is ENGINE and self._engine is not None:
                read = await self._engine.read(request)
        return self._finish(read or Unpredicted.NO_TOKENIZER, request, root, block_sizes)

    def _root(self, base: str, adapter: str | None, salt: str | None) -> int:
        if salt is not None:
            return root_hash(self._hash_seed, base, adapter, salt)
        root = self._roots.get((base, adapter))  # bounded by the names served
        if root is None:
            root = self._roots[base, adapter] = root_hash(self._hash_seed, base, adapter)
        return root

    async def _in_pool(self, work: Callable[[], T]) -> T | None:
        """What `work` gives; None when the pool has more waiting than it should."""
        if self._waiting >= WAITING_PROMPTS:
            return None
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._waiting -= 1

    def _finish(
        self, read: Tokenized | Unpredicted, request: InferenceRequest, root: int, block_sizes: frozenset[int]
    ) -> Prompt:
        if isinstance(read, Unpredicted):
            longest, total = _estimated_tokens(request)
            return Prompt(
                tokens=None,
                prompt_tokens=longest,
                total_tokens=total,
                root=root,
                hashes={size: array("Q") for size in block_sizes},
                prefix_key=_raw_prefix_key(request, root),
                prompts=request.prompts,
                unpredicted=read,
            )
        return Prompt(
            tokens=read.tokens,
            prompt_tokens=len(read.tokens) // TOKEN_BYTES,
            total_tokens=read.total_tokens,
            root=root,
            hashes={size: self._hasher.hashes(read.tokens, root, size) for size in block_sizes},
            prefix_key=xxh3_64_intdigest(read.tokens[: PREFIX_TOKENS * TOKEN_BYTES], seed=root),
            prompts=request.prompts,
            unpredicted=None,
        )


def _beyond_reading(request: InferenceRequest) -> Unpredicted | None:
    """Why no source could tell what is cached of this request, whatever its text."""
    endpoint, members = request.endpoint, request.members
    if endpoint is EMBEDDINGS:
        return Unpredicted.EMBEDDINGS
    beyond = _BEYOND_GENERATE if endpoint is GENERATE else _BEYOND
    if not members.spans.keys().isdisjoint(beyond):
        for name, cause in beyond.items():
            raw = members.raw(name)
            if raw is not None and raw not in _EMPTY:
                return cause
    if endpoint is GENERATE:
        if all(map(members.is_present, _GENERATE_PROMPTS)):
            return Unpredicted.ENGINE_SPECIFIC  # the engine takes one of them
        if any(members.first_byte(name) == _ARRAY for name in ("cache_salt", "lora_path")):
            return Unpredicted.ENGINE_SPECIFIC  # each prompt has its own
    return None


def _asked(request: InferenceRequest) -> bytes | memoryview:
    """The raw messages, prompt or input of a request."""
    for name in ("messages", request.prompt_field, "input"):
        raw = request.members.raw(name)
        if raw is not None:
            return raw
    return b""


def _estimated_tokens(request: InferenceRequest) -> tuple[int, int]:
    """Tokens of the longest prompt and of all, from their bytes. Tools count: they are part of a chat's prompt."""
    asked = _asked(request)
    tools = request.members.raw("tools")
    total = len(asked) + (0 if tools is None else len(tools))
    longest = total
    if request.prompts > 1:
        longest = max(len(memoryview(raw)) for raw in _RAWS.decode(asked))
    return max(1, longest // BYTES_PER_TOKEN), max(1, total // BYTES_PER_TOKEN)


def _raw_prefix_key(request: InferenceRequest, root: int) -> int:
    beginning = bytes(_asked(request)[: PREFIX_TOKENS * BYTES_PER_TOKEN])
    return xxh3_64_intdigest(beginning, seed=root)
