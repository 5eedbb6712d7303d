"""vLLM's MooncakeConnector: the donor pushes to the taker that knows the transfer's name. vLLM 0.32, recorded.

Both legs leave at once, matched by a transfer id of ours. The donor's engine id changes with each start of it, so its
bootstrap server is asked for every request. The donor's one token must not be a stop token, or its blocks are not sent,
hence `min_tokens` 1. The taker reports the whole prompt as cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from router.engines.handshake import Donor, HandshakeFault, Legs, shown_host
from router.engines.vllm_prefill import PARAMS, prefill_body, takes
from router.prompt.request import InferenceRequest
from router.prompt.splices import Pieces, begun_with

BOOTSTRAP_PORT = 8998  # vLLM's default for VLLM_MOONCAKE_BOOTSTRAP_PORT


class _Engine(msgspec.Struct):
    engine_id: str


_ENGINES = msgspec.json.Decoder(dict[str, _Engine])


@dataclass(frozen=True, slots=True)
class VllmMooncake:
    """The handshake."""

    name: Literal["mooncake"] = "mooncake"
    at_once: bool = True
    answers_whole: bool = True
    counts_whole_prompt: bool = True
    watch_path: str | None = "/health"

    def takes(self, request: InferenceRequest) -> bool:
        return takes(request)

    def bootstrap_url(self, donor: Donor) -> str | None:
        return f"{_address(donor)}/query"

    def legs(self, request: InferenceRequest, body: Pieces, donor: Donor, transfer: int) -> Legs:
        name = f"xfer-{transfer:016x}"
        given = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": name}
        wanted = {
            "do_remote_decode": False,
            "do_remote_prefill": True,
            "remote_bootstrap_addr": _address(donor),
            "remote_engine_id": _engine_id(donor),
            "transfer_id": name,
        }
        encode = msgspec.json.encode
        return Legs(
            prefill_body(request, encode(given), min_tokens=b"1"),
            begun_with(body, request.members.opening, {PARAMS: encode(wanted)}),
        )

    def hand_over(self, request: InferenceRequest, body: Pieces, answer: bytes) -> Pieces | None:  # noqa: ARG002
        return None

    def handed_over(self, answers: Sequence[bytes]) -> bool:  # noqa: ARG002  its answer does not say
        return True


def _address(donor: Donor) -> str:
    return f"http://{shown_host(donor.host)}:{donor.bootstrap_port or BOOTSTRAP_PORT}"


def _engine_id(donor: Donor) -> str:
    try:
        engines = _ENGINES.decode(donor.bootstrap or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HandshakeFault(f"The bootstrap server of {donor.host} answered what cannot be read: {error}") from error
    engine = engines.get(str(donor.rank or 0))
    if engine is None:
        raise HandshakeFault(f"The bootstrap server of {donor.host} knows no engine of rank {donor.rank or 0}.")
    return engine.engine_id
