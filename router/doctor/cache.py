"""Block size, prefix caching, usage: what the hit rule stands on. Judging only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.doctor.flags import flags_of
from router.fleet.replica import Facts


def judge_block_size(engine: str, facts: Facts, carried: Sequence[int]) -> Finding:
    """`carried`: the block size of each stored run heard, in tokens."""
    flags, told = flags_of(engine), facts.block_size_tokens
    heard = Counter(carried).most_common(1)[0][0] if carried else None
    if told is None and heard is None:
        return failed(
            Check.BLOCK_SIZE,
            "neither told nor heard: nothing can be matched there",
            f"Let GET /metrics through to the engine ({flags.metrics}), or have it publish KV events.",
        )
    if told is None:
        return passed(Check.BLOCK_SIZE, f"{heard} tokens, as its events carry them")
    if heard is None:
        return passed(Check.BLOCK_SIZE, f"{told} tokens, as the engine tells; no event heard to compare with")
    if told != heard:
        return failed(
            Check.BLOCK_SIZE,
            f"the engine says {told} tokens, its events carry blocks of {heard}: every prediction is wrong",
            f"Let events and HTTP come from one engine: replicas[].events of this very replica, "
            f"and {flags.block_size} {heard} where the engine is started.",
        )
    return passed(Check.BLOCK_SIZE, f"{told} tokens, and its events agree")


def judge_caching(engine: str, facts: Facts, hit_tokens: int | None) -> Finding:
    """`hit_tokens`: what the engine reported cached when it was asked the same thing again; None if not known."""
    flags = flags_of(engine)
    if facts.prefix_caching is False:
        return failed(
            Check.PREFIX_CACHING,
            "off: nothing can be warm there",
            f"Start {flags.title} without {flags.caching_off}.",
        )
    if hit_tokens:
        return passed(Check.PREFIX_CACHING, "on: a prompt sent again was found")
    if facts.prefix_caching:
        return passed(Check.PREFIX_CACHING, "on, as the engine tells")
    if hit_tokens == 0:
        return failed(
            Check.PREFIX_CACHING,
            "a prompt sent again was not found: off, as it seems",
            f"Start {flags.title} without {flags.caching_off}.",
        )
    return skipped(Check.PREFIX_CACHING, "the engine does not tell, and no probe was answered")


def judge_usage(
    engine: str, prompt_tokens: int | None, cached_tokens: int | None, second_cached_tokens: int | None
) -> Finding:
    """What `usage` of two tiny completions held; cached_tokens None where null or absent."""
    flags = flags_of(engine)
    if prompt_tokens is None:
        return failed(
            Check.USAGE,
            "answers carry no usage",
            "Let the engine's answers through unchanged: Homing reads usage.prompt_tokens_details.cached_tokens.",
        )
    if cached_tokens is None and second_cached_tokens is None:
        return failed(
            Check.USAGE,
            "usage.prompt_tokens_details.cached_tokens is missing: Homing cannot tell whether it predicts rightly",
            f"Start {flags.title} with {flags.usage}.",
        )
    if cached_tokens is None or second_cached_tokens is None:
        return warned(
            Check.USAGE,
            "cached_tokens comes only with some answers: a zero is left out, or not every process tells it",
            f"Upgrade {flags.title}, and start every process behind this address with {flags.usage}.",
        )
    return passed(Check.USAGE, "answers tell cached_tokens")
