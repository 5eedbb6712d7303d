"""SGLang's prefill and decode pools: both get the same body, and meet in a numbered room at the donor's bootstrap.

Not verified on a real engine: the names are those of the sources of 0.5.23, that both legs leave at once and that rooms
are below 2^63 is from SGLang's own router. Neither side can answer a request alone: there is no going back to whole.
The rank a leg runs on is pinned by its headers, as for whole requests; the taker is told the donor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from router.engines.handshake import Donor, Legs
from router.prompt.request import InferenceRequest
from router.prompt.splices import Pieces, begun_with

BOOTSTRAP_PORT = 8998  # SGLang's default for --disaggregation-bootstrap-port
FIELDS = ("bootstrap_host", "bootstrap_port", "bootstrap_room")


@dataclass(frozen=True, slots=True)
class SglangPd:
    """The handshake."""

    name: Literal["sglang"] = "sglang"
    at_once: bool = True
    answers_whole: bool = False
    counts_whole_prompt: bool = False
    watch_path: str | None = None  # the donor's own leg stays open until the taker has all

    def takes(self, request: InferenceRequest) -> bool:
        return request.members.spans.keys().isdisjoint(FIELDS)

    def bootstrap_url(self, donor: Donor) -> str | None:  # noqa: ARG002  the engines ask it themselves
        return None

    def legs(self, request: InferenceRequest, body: Pieces, donor: Donor, transfer: int) -> Legs:
        encode = msgspec.json.encode
        values = (donor.host, donor.bootstrap_port or BOOTSTRAP_PORT, transfer)
        fields = {name: encode(value) for name, value in zip(FIELDS, values, strict=True)}
        opening = request.members.opening
        taker = fields if donor.rank is None else {**fields, "disagg_prefill_dp_rank": encode(donor.rank)}
        return Legs(begun_with(body, opening, fields), begun_with(body, opening, taker))

    def hand_over(self, request: InferenceRequest, body: Pieces, answer: bytes) -> Pieces | None:  # noqa: ARG002
        return None

    def handed_over(self, answers: Sequence[bytes]) -> bool:  # noqa: ARG002  its answer does not say
        return True
