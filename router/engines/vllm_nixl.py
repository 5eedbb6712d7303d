"""vLLM's NixlConnector, the pulling form: the taker reads the donor's blocks. vLLM 0.32, transcripts recorded.

Strictly one after the other: the donor computes the prompt and answers with the parameters of the transfer, which go
whole to the taker. A donor whose answer ended by itself (a stop token as its first) gives none: the taker then computes
the prompt alone, and answers the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from router.engines.handshake import Donor, HandshakeFault, Legs
from router.engines.vllm_prefill import PARAMS, prefill_body, takes
from router.prompt.request import InferenceRequest
from router.prompt.splices import Pieces, begun_with

# The nulls are not needed by 0.32; vLLM's own proxies send them, and older releases looked for them.
_WANTED = (
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,'
    b'"remote_host":null,"remote_port":null}'
)


class _Answer(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_ANSWER = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class VllmNixl:
    """The handshake. Donor and taker must be of one vLLM version."""

    name: Literal["nixl"] = "nixl"
    at_once: bool = False
    answers_whole: bool = True
    counts_whole_prompt: bool = False  # the taker reports the donor's hits
    watch_path: str | None = "/health"

    def takes(self, request: InferenceRequest) -> bool:
        return takes(request)

    def bootstrap_url(self, donor: Donor) -> str | None:  # noqa: ARG002  the donor's answer tells all
        return None

    def legs(self, request: InferenceRequest, body: Pieces, donor: Donor, transfer: int) -> Legs:  # noqa: ARG002
        return Legs(prefill_body(request, _WANTED), None)

    def hand_over(self, request: InferenceRequest, body: Pieces, answer: bytes) -> Pieces | None:
        try:
            params = bytes(_ANSWER.decode(answer).kv_transfer_params)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HandshakeFault(f"The answer of a prefill leg cannot be read: {error}") from error
        if params == b"null":
            return None
        if not params.startswith(b"{"):
            raise HandshakeFault(f"A prefill leg answered with {PARAMS} that are no object.")
        return begun_with(body, request.members.opening, {PARAMS: params})

    def handed_over(self, answers: Sequence[bytes]) -> bool:
        return any(bytes(_ANSWER.decode(answer).kv_transfer_params).startswith(b"{") for answer in answers)
