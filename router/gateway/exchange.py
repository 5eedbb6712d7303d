"""One request while it is served: what is known of it so far. The receipt is what remains of it."""

from __future__ import annotations

import asyncio

import msgspec

from router.errors import HomingError, UpstreamError
from router.events.adopt import Sent
from router.fleet.ledger import LeaseId
from router.fleet.replica import Seat
from router.gateway.receipts import Tried
from router.gateway.response import Response
from router.gateway.stream import Usage
from router.index.accuracy import Verdict
from router.index.base import Trust
from router.metrics import Outcome
from router.policy.candidate import Ask
from router.policy.shadow import Opinion
from router.policy.split import Decision
from router.prompt.blocks import BlockHashes
from router.prompt.prompt import Prompt
from router.prompt.request import Endpoint, InferenceRequest

UNKNOWN_MODEL = "unknown"  # the metric label until the name is known to be one of ours (R 6.3)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A committed answer: its head and its first body bytes (empty: a body of length nought)."""

    seat: Seat
    response: Response
    chunk: bytes
    status: int  # as it is to be judged: the head's, or what a stream told in its first event instead of an answer


class Carried(msgspec.Struct):
    """The prefill leg of a split request while it is carried. Changed by the handoff alone."""

    prefill: asyncio.Task[Answer | bytes | UpstreamError] | None = None


class Exchange(msgspec.Struct):
    """Changed by serve, dispatch and account only, in the order of the journey."""

    id: str
    client_id: str | None
    endpoint: Endpoint
    arrived_seconds: float
    arrived_wall_seconds: float
    explained: bool  # the client asked for x-homing-* headers
    model: str = UNKNOWN_MODEL
    base: str = UNKNOWN_MODEL
    adapter: str | None = None
    request: InferenceRequest | None = None
    prompt: Prompt | None = None
    token_source: str | None = None
    session_key: str | None = None
    attempts: list[Tried] = msgspec.field(default_factory=list)
    # Of the attempt under way, or the last one.
    decision: Decision | None = None
    opinion: Opinion | None = None  # the shadow policy's, where there is one
    lease: LeaseId | None = None
    hashes: BlockHashes | None = None  # of the prompt, in the chosen replica's block size
    sent_seconds: float = 0.0
    held_seconds: float = 0.0  # waited for its turn before the first attempt (policy/hold.py)
    trial: bool = False  # it holds a half-open replica's one place
    attempting: bool = False  # an attempt is open that `attempts` does not tell of yet
    sent: Sent | None = None  # what the event side wants back with the report
    stream_trust: Trust = Trust.GUESSED
    batches_before: int = 0  # of the replica's KV events, heard when it was sent
    predicted_cached_tokens: int = 0
    expected_cached_tokens: int = 0
    queue_seconds: float = 0.0
    sibling: bool = False  # another request there may have filled blocks that no event told of yet
    # Of a split request: its prefill leg, an exchange of its own that no client waits for.
    donor: Exchange | None = None
    carried: Carried | None = None
    counts_whole_prompt: bool = False  # its taker reports what it was given as cached
    handshakes: frozenset[str] = frozenset()  # with which it may be split, now
    verdict: Verdict | None = None
    # The answer.
    status: int | None = None
    first_token_seconds: float | None = None
    last_token_seconds: float = 0.0
    token_row: list[float] | None = None  # where the times between tokens are counted
    usage: Usage | None = None
    outcome: Outcome | None = None
    fault: HomingError | None = None

    def donor_cached_tokens(self) -> int | None:
        """What the replica that computed the prompt reported; None: it has not, or there is none."""
        usage = None if self.donor is None else self.donor.usage
        return None if usage is None else usage.cached_tokens

    def ask(self, tried: frozenset[Seat], waited_seconds: float = 0.0) -> Ask:
        """The question for the decider."""
        assert self.request is not None
        assert self.prompt is not None
        prompt = self.prompt
        return Ask(
            model=self.request.model,
            prompt_tokens=prompt.prompt_tokens,
            hashes=prompt.hashes,
            other_tokens=prompt.total_tokens - prompt.prompt_tokens,
            session_key=self.session_key,
            prefix_key=prompt.prefix_key,
            exclude=tried,
            waited_seconds=waited_seconds,
            handshakes=self.handshakes,
        )
