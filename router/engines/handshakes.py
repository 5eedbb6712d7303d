"""Every handshake Homing speaks, by the name configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping

from router.engines.handshake import Handshake
from router.engines.sglang_pd import SglangPd
from router.engines.vllm_mooncake import VllmMooncake
from router.engines.vllm_nixl import VllmNixl

HANDSHAKES: Mapping[str, Handshake] = {one.name: one for one in (VllmNixl(), VllmMooncake(), SglangPd())}
# What a replica with a role speaks when its configuration does not say, by the name of its engine.
DEFAULTS: Mapping[str, str] = {"vllm": "nixl", "sglang": "sglang"}
