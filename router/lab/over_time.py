"""How a run went from its beginning to its end: hits and open requests, a stretch of time at a time, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.sim.virtual import Story

STRETCHES = 60


@dataclass(frozen=True, slots=True)
class OverTime:
    """`STRETCHES` equal stretches from the first arrival to the last; one value each."""

    stretch_seconds: float
    hit_ratio: list[float | None]  # of the prompts that arrived then; None where nobody came
    open_mean: list[float]  # requests a replica has open, the mean over replicas at the stretch's middle
    open_most: list[int]  # those of the busiest then


def over_time(stories: Sequence[Story], replicas: int) -> OverTime:
    """Of the requests that were answered; at least one must have been."""
    good = sorted((story for story in stories if story.finished), key=lambda story: story.arrival_seconds)
    began = good[0].arrival_seconds
    stretch = max(good[-1].arrival_seconds - began, 1e-9) / STRETCHES
    prompts, cached = [0] * STRETCHES, [0] * STRETCHES
    # An array per replica of what changes at each middle, summed up afterwards: a request is open at a few hundred.
    changes = [[0] * (STRETCHES + 1) for _ in range(replicas)]
    for story in good:
        at = min(STRETCHES - 1, int((story.arrival_seconds - began) / stretch))
        prompts[at] += story.prompt_tokens
        cached[at] += story.cached_tokens
        changes[story.replica][_middles_before(story.sent_seconds - began, stretch)] += 1
        changes[story.replica][_middles_before(story.last_token_seconds - began, stretch)] -= 1
    open_now, mean, most = [0] * replicas, [], []
    for at in range(STRETCHES):
        open_now = [now + change[at] for now, change in zip(open_now, changes, strict=True)]
        mean.append(sum(open_now) / replicas)
        most.append(max(open_now))
    hits = [hit / prompt if prompt else None for hit, prompt in zip(cached, prompts, strict=True)]
    return OverTime(stretch, hits, mean, most)


def _middles_before(seconds: float, stretch: float) -> int:
    """The first stretch whose middle is not before this moment; STRETCHES where there is none."""
    return min(STRETCHES, max(0, int(seconds / stretch + 0.5)))


def unevenness(stories: Sequence[Story], replicas: int) -> float:
    """In-flight prompt tokens of the fullest replica over the mean replica's, over time: 1 is even. A request is in
    flight from when it was sent to its last token; one that was not answered is left out, one at least must have been.
    """
    changes: list[tuple[float, int, int]] = []
    for story in stories:
        if story.finished:
            changes.append((story.sent_seconds, story.replica, story.prompt_tokens))
            changes.append((story.last_token_seconds, story.replica, -story.prompt_tokens))
    tokens = [0] * replicas
    fullest = total = last = 0.0
    for now, replica, more in sorted(changes):
        fullest += max(tokens) * (now - last)
        total += sum(tokens) * (now - last)
        tokens[replica] += more
        last = now
    return fullest * replicas / total
