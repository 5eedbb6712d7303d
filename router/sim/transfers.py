"""KV from one simulated replica to another, in the words of three engines' handshakes. Edge.

All replicas of one process form one fleet, so what would cross a network is a call here; its time is the wires'.

- NIXL: a donor keeps the blocks of a request that asked for it, and tells where they are; a taker that is told of them
  fetches what it lacks. Blocks nobody fetched are freed when their lease is over. A donor that is gone makes the taker
  fail, after as long a silence as a real one's. Blocks that are not those of the request are fetched as any: the answer
  is then wrong, and nobody says so.
- Mooncake: the same, but a taker waits for the donor that has the transfer's name.
- SGLang: the same by room, and the donor answers only when its blocks were fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # transfer parameters are JSON of any shape

from router.clock import Clock
from router.sim.replica import Kept, Replica
from router.sim.wires import Wires

POLL_SECONDS = 0.005  # how soon a taker sees that its donor has what it waits for


class TransferFailed(Exception):
    """The taker could not get what it was told of."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the sides wait for each other."""

    lease_seconds: float = 30.0  # a donor for whoever fetches
    failure_seconds: float = 7.5  # a taker for a donor that is gone, as measured at the least


@dataclass(frozen=True, slots=True)
class Imported:
    """What a taker got."""

    tokens: int
    cached_tokens: int  # as it will report: the donor's hits, or as its engine counts
    spoilt: bool = False  # of another request


@dataclass(frozen=True, slots=True)
class Terms:
    """What one leg's body says of a transfer."""

    kind: str  # nixl, mooncake, sglang
    gives: bool  # the donor's leg
    params: Mapping[str, Any]

    @property
    def meeting(self) -> str | None:
        """What both legs call the transfer, where they have a name for it."""
        if self.kind == "sglang":
            return f"room {self.params['bootstrap_room']}"
        return None if self.kind == "nixl" else str(self.params["transfer_id"])


def terms_of(params: Mapping[str, Any] | None, room: int | None, role: str) -> Terms | None:
    """None: an ordinary request."""
    if room is not None:
        return Terms("sglang", role == "prefill", {"bootstrap_room": room})
    if not params:
        return None
    kind = "mooncake" if "transfer_id" in params else "nixl"
    if params.get("do_remote_decode"):
        return Terms(kind, True, params)
    return Terms(kind, False, params) if params.get("do_remote_prefill") else None


class Transfers:
    """Of one process. `fleet` are its replicas."""

    def __init__(self, fleet: Sequence[Replica], wires: Wires, patience: Patience, clock: Clock) -> None:
        self.wires = wires
        self._fleet = fleet
        self._patience = patience
        self._clock = clock
        self._meetings: dict[str, tuple[Replica, Kept]] = {}

    def keep(self, donor: Replica, job_id: str, terms: Terms, prompt_tokens: int, cached_tokens: int) -> Kept:
        """The job's blocks stay until they are fetched or their lease is over."""
        kept = donor.keep(job_id, prompt_tokens, cached_tokens)
        meeting = terms.meeting
        if meeting is not None:
            self._meetings[meeting] = (donor, kept)
        asyncio.get_running_loop().call_later(self._patience.lease_seconds, self._expire, donor, kept, meeting)
        return kept

    def params(self, donor: Replica, kept: Kept) -> dict[str, Any]:
        """What a NIXL donor answers."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(kept.blocks)],
            "remote_engine_id": donor.engine_id,
            "remote_request_id": kept.job_id,
            "remote_host": donor.settings.host,
            "remote_port": donor.settings.port,
            "tp_size": 1,
            "remote_num_tokens": kept.tokens,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
            "remote_prefill_cached_tokens": kept.cached_tokens,
        }

    async def fetched(self, kept: Kept) -> None:
        """Wait until somebody has fetched the blocks, or their lease is over."""
        await kept.gone.wait()

    async def fetch(self, taker: Replica, terms: Terms, lacking: Callable[[int], int]) -> Imported:
        """`lacking`: how many of so many leading prompt tokens the taker has not. Raises TransferFailed."""
        began = self._clock.now()
        if taker.failures.transfer_fails():
            raise TransferFailed
        found = await self._meet(terms, began) if terms.meeting is not None else self._named(terms.params)
        if found is not None:
            donor, kept, spoilt = found
            engine_id, tokens = donor.engine_id, lacking(kept.tokens)
            ports = donor.settings.port, taker.settings.port
            ends = self.wires.begin(*ports, tokens, self._clock.now(), taker.failures.slow_transfers)
            await asyncio.sleep(max(0.0, ends - self._clock.now()))
            if donor.alive and donor.engine_id == engine_id:
                donor.release(kept)
                taker.transferred(tokens * self.wires.timing.token_bytes, self._clock.now() - began)
                reported = kept.tokens if terms.kind == "mooncake" else kept.cached_tokens
                return Imported(kept.tokens, reported, spoilt)
        await asyncio.sleep(max(0.0, began + self._patience.failure_seconds - self._clock.now()))
        raise TransferFailed

    def _named(self, params: Mapping[str, Any]) -> tuple[Replica, Kept, bool] | None:
        for donor in self._fleet:
            if donor.alive and donor.engine_id == params.get("remote_engine_id"):
                kept = donor.kept.get(str(params.get("remote_request_id")))
                if kept is not None and params.get("remote_block_ids") == [list(kept.blocks)]:
                    return donor, kept, False
                tokens = int(params.get("remote_num_tokens") or 1)
                return donor, Kept("", tokens, 0, (), asyncio.Event()), True
        return None

    async def _meet(self, terms: Terms, began: float) -> tuple[Replica, Kept, bool] | None:
        meeting = terms.meeting or ""
        while self._clock.now() < began + self._patience.failure_seconds:
            found = self._meetings.pop(meeting, None)
            if found is not None:
                wanted = terms.params.get("remote_engine_id")
                return (*found, False) if wanted in (None, found[0].engine_id) else None
            await asyncio.sleep(POLL_SECONDS)
        return None

    def _expire(self, donor: Replica, kept: Kept, meeting: str | None) -> None:
        if meeting is not None:
            self._meetings.pop(meeting, None)
        donor.release(kept, expired=True)
