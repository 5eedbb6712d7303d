"""Why a prediction missed: what evidence each cause leaves, and in which order the causes are told apart.

A prediction says that the replica's cache holds the first p blocks of a prompt; the answer says r. By the time it is
asked why they differ, the request has left its own mark: an engine announces every full block it computes, so once the
news has come the index must hold *all* full blocks of the prompt, under our names, unless they were removed again. This
echo is the best witness there is. The others: what the stream did since the request was sent (`Evidence` has them all).

A contradiction that needs no theory goes first:

* BLOCK_SIZE: the events are cut into blocks of another size than the one we hash by, or the answer is no whole number
  of our blocks. Nothing else can be read from such numbers.
* RESTART, proven: between sending and now the story began anew, or a counter that only grows has fallen.

*Too much was predicted* (p > r): the engine had lost blocks that the index still held.

* ENGINE_HABIT: one block, and most of this replica's hits show the same one.
* EVICTION_RACE: the removal was announced after we had decided. Nobody lied. (Without events every eviction is seen
  only like this.)
* SALT: the replica is known to hide what keeps caches apart, so the blocks were another tenant's.
* EVENT_LOSS: the stream itself is known to have lost something.
* TEMPLATE_DRIFT: the echo is missing although the engine did announce blocks since: it reads other tokens than we do.
  What we predicted is there, and this prompt does not begin with it.
* RESTART: nothing at all was left, of a prompt that the index held by more than a block. Evictions go tail first and
  spare what is used; a process that ends takes everything. Where nothing was announced since either, a counter that was
  read since and had grown speaks for the same process, and so for lost events.
* EVENT_LOSS: what remains. Part of the prompt is gone and no event said so.

*Too little was predicted* (p < r): the engine had blocks that the index did not hold.

* ENGINE_HABIT: as above.
* SALT: the index holds them under the root without the request's salt (or adapter): events do not tell it.
* EVENT_LOSS: the stream is known to have lost something. (Answers are taken for proof then: the index is no witness.)
* EVENT_IN_FLIGHT: the index holds them by now. A hit is not announced, so that news was on its way when we decided.
* EVENT_LOSS: nothing at all was announced since, though blocks were computed. If the replica is known to be another
  process than the one we hear, the same is RESTART.
* TEMPLATE_DRIFT: the stream is whole and speaks, and yet neither the hit nor the echo is there under our names: the
  engine reads other tokens than we do.

What fits none of these is UNKNOWN, and so is an error of a single block without hard evidence: one block is not worth a
theory. UNREPORTED is the cause of what the engine's counters show where answers tell nothing (`counters`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """The values are the names in metrics and in `GET /homing/replicas`."""

    EVENT_LOSS = "event_loss"
    RESTART = "restart"
    EVICTION_RACE = "eviction_race"
    EVENT_IN_FLIGHT = "event_in_flight"
    BLOCK_SIZE = "block_size"
    TEMPLATE_DRIFT = "template_drift"
    SALT = "salt"
    ENGINE_HABIT = "engine_habit"
    UNREPORTED = "unreported"
    UNKNOWN = "unknown"


# What each cause means, for the operator's eye.
MEANINGS = {
    Cause.EVENT_LOSS: "KV events were lost",
    Cause.RESTART: "another process answers here than the one whose blocks are known: a restart nobody told of, or "
    "another engine behind the same address",
    Cause.EVICTION_RACE: "blocks were evicted between decision and arrival: the cache is under pressure",
    Cause.EVENT_IN_FLIGHT: "the engine's news came after the decision",
    Cause.BLOCK_SIZE: "the engine's blocks have another size than it tells",
    Cause.TEMPLATE_DRIFT: "the engine reads other tokens than Homing: another chat template, tokenizer or model",
    Cause.SALT: "caches are kept apart by something the events do not tell: a cache salt or an extra key",
    Cause.ENGINE_HABIT: "the engine is constantly off by one block",
    Cause.UNREPORTED: "answers do not tell cached tokens, and the engine's own counters differ from the predictions",
    Cause.UNKNOWN: "no known cause fits",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one judged miss, when it is asked why. Counts are blocks of `block_size_tokens`."""

    block_size_tokens: int
    reported_tokens: int
    error_blocks: int  # reported less predicted, never 0
    full_blocks: int  # of the prompt
    heard: bool = True  # the replica's events are heard
    told_block_size_tokens: int | None = None  # as its events are cut
    held_blocks: int = 0  # leading blocks of the prompt that the index holds now
    begun_anew: bool = False  # a story of its events began since the request was sent
    counters_fell: bool = False  # lately: a counter of the engine that only grows
    counters_grew: bool = False  # read since the request was sent, and none had fallen
    removed: bool = False  # one of the blocks predicted but not found, or of its own, was removed since
    announced: bool = True  # anything was stored since
    lossy: bool = False  # the stream is known to have lost something
    usual: bool = False  # most of the replica's hits show this very error
    plain_blocks: int = 0  # held under the root without salt and adapter; 0 where the request has neither
    hides_salts: bool = False  # proven of this replica lately
    restarted: bool = False  # likewise, without that the events told

    @property
    def echoed(self) -> bool:
        """The request's own blocks came back as events under our names."""
        return self.held_blocks >= self.full_blocks

    @property
    def missed(self) -> bool:
        return abs(self.error_blocks) > 1


def cause_of(evidence: Evidence) -> Cause:
    """The one cause of a miss."""
    size = evidence.block_size_tokens
    if evidence.told_block_size_tokens not in (None, size) or evidence.reported_tokens % size:
        return Cause.BLOCK_SIZE
    if evidence.begun_anew:
        return Cause.EVENT_LOSS if evidence.lossy else Cause.RESTART
    if evidence.counters_fell:
        return Cause.RESTART
    return _of_too_much(evidence) if evidence.error_blocks < 0 else _of_too_little(evidence)


def _of_too_much(evidence: Evidence) -> Cause:
    if evidence.usual and not evidence.missed:
        return Cause.ENGINE_HABIT
    if evidence.removed or not evidence.heard:
        return Cause.EVICTION_RACE
    if not evidence.missed:
        return Cause.UNKNOWN
    if evidence.hides_salts:
        return Cause.SALT
    if evidence.lossy:
        return Cause.EVENT_LOSS
    if not evidence.echoed and evidence.announced:
        return Cause.TEMPLATE_DRIFT
    if evidence.restarted:
        return Cause.RESTART
    all_gone = not evidence.reported_tokens and (evidence.announced or not evidence.counters_grew)
    return Cause.RESTART if all_gone else Cause.EVENT_LOSS


def _of_too_little(evidence: Evidence) -> Cause:
    if evidence.usual and not evidence.missed:
        return Cause.ENGINE_HABIT
    if not evidence.heard:
        return Cause.UNKNOWN
    if evidence.plain_blocks > evidence.held_blocks:
        return Cause.SALT
    if evidence.lossy:
        return Cause.EVENT_LOSS
    if evidence.held_blocks * evidence.block_size_tokens >= evidence.reported_tokens:
        return Cause.EVENT_IN_FLIGHT
    if not evidence.missed:
        return Cause.UNKNOWN
    if not evidence.announced:
        return Cause.RESTART if evidence.restarted else Cause.EVENT_LOSS
    return Cause.UNKNOWN if evidence.removed else Cause.TEMPLATE_DRIFT
