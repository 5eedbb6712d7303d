"""Every handshake Homing speaks, by the name configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping

from router.engines.handshake import Handshake
from router.engines.sglang_pd import SglangPd
from router.engines.vllm_mooncake import VllmMooncake
from router.engines.vllm_nixl import VllmNixl

HANDSHAKES: Mapping[str, Handshake] = {one.name: one for one in (VllmNixl(), VllmMooncake(), SglangPd())}
ANSWERING_WHOLE = frozenset(name for name, one in HANDSHAKES.items() if one.answers_whole)
