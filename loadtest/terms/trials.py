"""The default policy with one term more, or another in its place: what is tried, and why it might earn something.

Each trial changes the policy that ships, as it stands: names of its scorers that go, scorers that come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from loadtest.terms.lingering import Lingering
from loadtest.terms.scorers import LAB_SCORERS
from router.index.open_blocks import OpenBlocks
from router.policy.decider import GRAIN_TOKENS, open_blocks_for
from router.policy.pipeline import Policy
from router.policy.reading import parse

OURS = "cache_aware"


@dataclass(frozen=True, slots=True)
class Trial:
    """`add` maps scorers to their parameters, as a policy file does."""

    why: str
    add: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Any: a parameter's value, as YAML has it
    drop: tuple[str, ...] = ()
    lingering_requests: int = 0  # above 0: `used_tokens` counts those that ended too, until so many more have

    def policy(self, text: str) -> Policy:
        """`text` is the YAML of the policy that is changed. Raises ConfigError."""
        content: dict[str, Any] = yaml.safe_load(text)
        kept = {name: given for name, given in content["scorers"].items() if name not in self.drop}
        content["scorers"] = {**kept, **self.add}
        return parse(yaml.safe_dump(content, sort_keys=False), f"a trial of {content['name']}", LAB_SCORERS)

    def open_blocks(self, policies: Iterable[Policy]) -> OpenBlocks | None:
        """What a router keeps of open requests for this."""
        if self.lingering_requests:
            return Lingering(GRAIN_TOKENS, self.lingering_requests)
        return open_blocks_for(policies)


def true_speed(timing: str, first_slower: float = 1.0) -> Trial:
    given = {"timing": timing, "first_slower": first_slower}
    return Trial(
        "the true speeds and the true price of depth: the most that recursive least squares could learn",
        {"true_queue": given, "true_prefill": {**given, "weight": 6}},
        drop=("queue_wait", "prefill"),
    )


TRIALS: Mapping[str, Trial] = {
    "placebo": Trial("nothing but another chance: what the noise of a comparison comes to", {"placebo": {}}),
    "no_cache_in_use": Trial("without the price of a cache in use", drop=("cache_in_use",)),
    "no_waited": Trial("without the price of having waited", drop=("waited",)),
    "no_open_requests": Trial("without the price of open requests", drop=("open_requests",)),
    "believing": Trial(
        "every match taken in full, whatever its trust", {"believing_prefill": {"weight": 6}}, drop=("prefill",)
    ),
    "shadow_price": Trial("prefill priced 2 to 6 times, by utilisation", {"shadow_price": {}}, drop=("prefill",)),
    "shadow_price_12": Trial(
        "prefill priced 6 to 12 times, by utilisation",
        {"shadow_price": {"idle_weight": 6, "full_weight": 12}},
        drop=("prefill",),
    ),
    "evicted_value": Trial(
        "what a placement evicts that is wanted, in place of the cache in use",
        {"evicted_value": {"weight": 3}},
        drop=("cache_in_use",),
        lingering_requests=400,
    ),
    "decode_penalty": Trial("1 s where decoding requests fill the cache", {"decode_penalty": {}}),
    "decode_for_in_use": Trial(
        "3 s where decoding requests fill the cache, in place of the cache in use",
        {"decode_penalty": {"full_seconds": 3}},
        drop=("cache_in_use",),
    ),
    "session_price": Trial("half a second for leaving the session's last replica", {"session_price": {}}),
    "replicate": Trial(
        "prefill at face value while all who hold the prefix have a queue of half a second",
        {"replicate": {}},
        drop=("prefill",),
    ),
}
