"""What every engine's dialect offers: what to ask a replica, and how to read what it answers. No sockets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from router.events.kinds import Wire
from router.fleet.replica import Facts
from router.prompt.request import InferenceRequest


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What a replica says of its own load. Older than it looks: engines refresh these figures between steps."""

    running_requests: int | None = None
    waiting_requests: int | None = None
    waiting_tokens: int | None = None  # of prompts not begun, less what is cached; only SGLang tells
    used_ratio: float | None = None  # share of the KV cache in use by running requests, 0 to 1
    # Counters since the process began: prompt tokens looked up in the prefix cache, and found there.
    prefix_queries_tokens: int | None = None
    prefix_hits_tokens: int | None = None
    # Likewise, KV it fetched from other replicas.
    transfer_bytes: int | None = None
    transfer_seconds: float | None = None


class Dialect(Protocol):
    """One engine's HTTP and wire. Answers are given by path; one not answered with 200 is missing."""

    @property
    def name(self) -> str: ...

    @property
    def health_path(self) -> str:
        """Asked idly, often: it must not make a token."""

    @property
    def paths(self) -> tuple[str, ...]:
        """What is asked beside health, each with GET."""

    @property
    def load_path(self) -> str:
        """Asked with GET in every round, for `loads`: cheap, and without a token made."""

    @property
    def tokenize_path(self) -> str: ...

    @property
    def wire(self) -> Wire: ...

    def recognises(self, answers: Mapping[str, bytes]) -> bool:
        """Whether these answers come from this engine."""

    def learned(self, replica_url: str, answers: Mapping[str, bytes], rank: int = 0) -> tuple[Facts, tuple[str, ...]]:
        """What the answers come to for one data-parallel rank, and remarks for people."""

    def loads(self, answers: Mapping[str, bytes]) -> Mapping[int, EngineLoad]:
        """Load by data-parallel rank; empty where it was not told."""

    def tokenize_body(self, request: InferenceRequest, prompt: str | None = None) -> bytes:
        """What to post to `tokenize_path` so that the engine reads a prompt as it will read the request's.

        `prompt` is the one text to ask about, for anything but a chat. Raises msgspec.DecodeError where fields do not
        have the types the engine takes.
        """

    def tokens(self, body: bytes) -> list[int]:
        """Token ids in an answer of `tokenize_path`. Raises WireFault."""

    def rank_headers(self, rank: int) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that pin a request to a data-parallel rank."""
