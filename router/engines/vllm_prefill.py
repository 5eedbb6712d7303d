"""The prefill leg of a vLLM donor: the client's request, cut to one token and not streamed.

It must not ask for what only a stream or a longer answer has: `stream_options`, `min_tokens` above one.
"""

from __future__ import annotations

from router.prompt.members import read_members
from router.prompt.request import REPORT_MODE, Endpoint, InferenceRequest, engine_body
from router.prompt.splices import Pieces, rewritten

PARAMS = "kv_transfer_params"


def takes(request: InferenceRequest) -> bool:
    """Whether vLLM can split it: an OpenAI request, whose client plays no handshake of its own."""
    return request.endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS) and PARAMS not in request.members.spans


def prefill_body(request: InferenceRequest, params: bytes, min_tokens: bytes | None = None) -> Pieces:
    """The donor's body with these transfer parameters, as JSON."""
    members = request.members
    plain, splices = engine_body(request, ask_usage=False)
    if REPORT_MODE in splices:
        members = read_members(b"".join(plain))
    changes = {
        "stream": b"false",
        "stream_options": None,
        "max_tokens": b"1",
        "min_tokens": min_tokens,
        PARAMS: params,
    }
    if "max_completion_tokens" in members.spans:
        changes["max_completion_tokens"] = b"1"
    return rewritten(members, changes)
