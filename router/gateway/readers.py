"""One prompt reader per model, there before that model's first request: nothing loads at request time (R 3.1)."""

from __future__ import annotations

from collections.abc import Awaitable

from router.fleet.replica import ServedModel
from router.fleet.roster import Roster
from router.prompt.prompt import Prompt
from router.prompt.read import PromptReader
from router.prompt.request import InferenceRequest


class Readers:
    """Readers by base model. `fallback` reads for a model whose token source is still being looked for."""

    def __init__(self, roster: Roster, fallback: PromptReader) -> None:
        self._roster = roster
        self._fallback = fallback
        self._readers: dict[str, PromptReader] = {}

    def __contains__(self, base: str) -> bool:
        return base in self._readers

    def put(self, base: str, reader: PromptReader) -> None:
        self._readers[base] = reader

    def source(self, base: str) -> str:
        """Where the model's tokens come from now: local, engine or none."""
        return self._readers.get(base, self._fallback).kind

    def read(self, request: InferenceRequest, served: ServedModel) -> Awaitable[Prompt]:
        """The prompt, hashed once for each block size among the model's replicas."""
        reader = self._readers.get(served.base, self._fallback)
        block_sizes = self._roster.block_sizes(served.name)
        return reader.read(request, block_sizes=block_sizes, adapter=served.adapter, base=served.base)
