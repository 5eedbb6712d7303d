"""Two rivals that follow whoever holds most of the prompt: Preble's E2, and LMCache's first holder.

As in rivals.py, a match counts in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.fleet.replica import IntArray
from router.policy.candidate import Candidates
from router.policy.filters import Kept
from router.policy.params import param
from router.policy.pickers import mixed_keys


@dataclass(frozen=True, slots=True)
class ExploitOrExplore:
    """Preble: the holders of the longest prefix while more of the prompt is held than is not, else everyone."""

    min_held_ratio: float = param(0.5, least=0.0, most=1.0)  # of the prompt; it must be more

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        held = candidates.expected_tokens[rows]
        longest = held.max()
        if longest <= self.min_held_ratio * candidates.prompt_tokens:
            return Kept(rows, "explore")
        return Kept(rows[held == longest], "exploit")


@dataclass(frozen=True, slots=True)
class FirstHolder:
    """LMCache's controller as vLLM's production stack asks it: the first that ever stored the prompt's beginning.

    It goes there, however busy that one is, while all but `threshold_tokens` of the prompt are there; else to everyone.
    Who was first nobody here remembers: a hash of replica and beginning stands in, which like it never changes while
    the same ones hold it.
    """

    threshold_tokens: int = param(2_000, least=0)
    chunk_tokens: int = param(256, least=1)  # LMCache knows whole chunks

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        held = candidates.expected_tokens[rows] // self.chunk_tokens * self.chunk_tokens
        holders = (held > 0).nonzero()[0]
        if not len(holders):
            return Kept(rows, "no_holder")
        keys = mixed_keys(candidates.id_keys[rows[holders]], candidates.prefix_key)
        first = holders.item(keys.argmax())
        if held.item(first) < candidates.prompt_tokens - self.threshold_tokens:
            return Kept(rows, "short_match")
        return Kept(np.array([rows.item(first)]), "first_holder")
