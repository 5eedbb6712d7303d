"""The live probe, judged: its event carries our tokens, its hit comes as predicted, its salt is kept apart."""

from __future__ import annotations

from collections.abc import Callable

from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.doctor.flags import flags_of
from router.doctor.trial import Placed, Trial, first_difference, most_alike, place, predicted_tokens, stored_runs
from router.events.kinds import Stored
from router.prompt.blocks import TokenIds, count_tokens, unpack_tokens

SHOWN_TOKENS = 4

Texts = Callable[[list[int]], str]  # token ids in words, as far as our tokenizer knows them


def judge_tokens(engine: str, trial: Trial, placed: Placed | None, texts: Texts) -> Finding:
    """Whether the engine read the probe as we did: by what its event carries, and by how many tokens it counted."""
    ours = trial.tokens
    if ours is None:
        return skipped(Check.PROBE_TOKENS, "nobody could tell the probe's tokens beforehand")
    if trial.first.fault is not None:
        return failed(
            Check.PROBE_TOKENS,
            f"the probe was not answered: {trial.first.fault}",
            "Ask it yourself with curl -X POST .../v1/chat/completions, and look into its log for why it refuses.",
        )
    mend = (
        f"Let tokens.tokenizer (or models[].tokenizer) name the folder {flags_of(engine).title} itself runs with; look "
        f"at its {flags_of(engine).tokenizer}."
    )
    if trial.read_by == "engine":
        mend = "Put no proxy that rewrites prompts before the engine; else report this engine's /tokenize as faulty."
    if placed is not None and placed.complete:
        return passed(Check.PROBE_TOKENS, f"{len(placed.ours)} blocks announced with exactly our tokens")
    run = most_alike(ours, trial.heard)
    at = None if run is None else _difference(ours, run, trial)
    if run is not None and at is not None:
        place_in_prompt, theirs = at
        told = (
            f"its event differs from our tokens at token {place_in_prompt}: ours "
            f"{_shown(ours, place_in_prompt, texts)}, the engine's {texts(theirs)}: it reads prompts otherwise than "
            f"{'our template or tokenizer' if trial.read_by == 'local' else 'its own /tokenize says'}"
        )
        return failed(Check.PROBE_TOKENS, told, mend)
    counted = trial.first.prompt_tokens
    if counted is not None and counted != count_tokens(ours):
        told = f"we read {count_tokens(ours)} tokens, the engine {counted}: it reads prompts otherwise"
        return failed(Check.PROBE_TOKENS, told, mend)
    if placed is None or not placed.held_blocks:
        return skipped(Check.PROBE_TOKENS, "no event of the probe was heard")
    return warned(
        Check.PROBE_TOKENS,
        f"{placed.held_blocks} of {len(placed.ours)} blocks were announced with our tokens; the rest did not come",
        "See the numbering and flow checks: events are lost, or the cache is too full to keep a short prompt.",
    )


def judge_hit(trial: Trial, placed: Placed | None) -> Finding:
    """Whether the second time was found what our hash chain predicts."""
    ours, reported = trial.tokens, trial.second.cached_tokens
    if trial.second.fault is not None:
        return skipped(Check.PROBE_HIT, f"the second probe was not answered: {trial.second.fault}")
    if reported is None:
        return skipped(Check.PROBE_HIT, "the engine does not tell cached_tokens")
    if ours is None or placed is None or not placed.held_blocks:
        if reported > 0:
            return passed(Check.PROBE_HIT, f"{reported} tokens were found again; nothing was heard to predict them by")
        return failed(
            Check.PROBE_HIT,
            "the same prompt sent twice was not found the second time",
            "Switch prefix caching on, and let the address lead to one engine only.",
        )
    predicted, size = predicted_tokens(placed, ours), placed.block_size_tokens
    if reported == predicted:
        return passed(Check.PROBE_HIT, f"{reported} tokens found, exactly as predicted")
    if abs(reported - predicted) == size:
        return warned(
            Check.PROBE_HIT,
            f"{predicted} tokens predicted, {reported} found: one block's difference, as speculative decoding makes",
            "Nothing needs doing: Homing learns a constant difference of one block (index.accuracy).",
        )
    if reported == 0:
        return failed(
            Check.PROBE_HIT,
            f"{predicted} tokens predicted, none found: what was announced is not in the cache that answered",
            "Let the address lead to one engine only (no load balancer; a rank for each data-parallel entry), "
            "and give it a cache larger than a moment's traffic.",
        )
    return failed(
        Check.PROBE_HIT,
        f"{predicted} tokens predicted, {reported} found",
        "See the block size check: engine and events must use one block size; else a cache evicts too fast to predict.",
    )


def judge_salt(engine: str, trial: Trial, plain: Placed | None, salted: Placed | None) -> Finding:
    """`plain` and `salted`: where the probe's blocks stand under no salt and under the probe's."""
    answer, ours = trial.salted, trial.tokens
    if answer.fault is not None or ours is None:
        return skipped(Check.SALT, "no salted probe was answered")
    if plain is None or salted is None or not plain.complete or len(plain.ours) < 2:
        return skipped(Check.SALT, "the events of the plain probe were not understood")
    if (answer.cached_tokens or 0) >= plain.block_size_tokens:
        return warned(
            Check.SALT,
            f"a salted prompt found {answer.cached_tokens} tokens of the unsalted one: the engine ignores cache_salt",
            "Send no cache_salt to this engine: it does not keep tenants apart.",
        )
    if salted.complete:
        return passed(Check.SALT, "a salted prompt is cached and announced apart")
    # The plain probe began a chain of its own unless its beginning was cached before; one more is the salted one's.
    expected = 0 if plain.skipped_blocks else 1
    if sum(_begins_alike(ours, run) for run in stored_runs(trial.heard)) > expected:
        flags = flags_of(engine)
        return failed(
            Check.SALT,
            "the event of a salted prompt does not show its salt: salted traffic is credited to the unsalted cache",
            f"Run {flags.title} {flags.salted_events_since} or later, and put nothing before its publisher that "
            "rewrites events; until then clients should send no cache_salt.",
        )
    return warned(
        Check.SALT,
        "no event came for a salted prompt: what is cached under a salt cannot be known",
        "See flow and numbering; if those pass, clients should send no cache_salt.",
    )


def placed_plain(trial: Trial) -> Placed | None:
    if trial.tokens is None:
        return None
    cached = trial.first.cached_tokens or 0
    return place(trial.tokens, trial.heard, trial.model, trial.hash_seed, cached_tokens=cached)


def placed_salted(trial: Trial) -> Placed | None:
    if trial.tokens is None:
        return None
    return place(trial.tokens, trial.heard, trial.model, trial.hash_seed, salt=trial.salt)


def _difference(ours: TokenIds, run: Stored, trial: Trial) -> tuple[int, list[int]] | None:
    """Where the run parts from our tokens, and some of its tokens from there; None where it does not."""
    skipped = 0 if run.parent is None else trial.first.cached_tokens or 0
    behind = TokenIds(ours[4 * skipped :])
    at = first_difference(behind, run.tokens)
    if at is None:
        return None
    return skipped + at, list(unpack_tokens(run.tokens)[at : at + SHOWN_TOKENS])


def _shown(tokens: TokenIds, at: int, texts: Texts) -> str:
    return texts(list(unpack_tokens(tokens)[at : at + SHOWN_TOKENS]))


def _begins_alike(ours: TokenIds, run: Stored) -> bool:
    """Whether the run begins a prompt with our first block, under no salt."""
    size = 4 * run.block_size_tokens
    return run.parent is None and run.salt is None and run.tokens[:size] == ours[:size]
