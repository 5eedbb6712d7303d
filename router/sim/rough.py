"""Step times as a real machine's: what no price formula knows, so that no policy can be exactly right about them.

On top of the noise of single steps (timing.py):

* *tiles*: matrices are multiplied in tiles, so a chunk costs as much as the next whole number of tiles;
* *mixed steps*: attention over a prompt's chunk and over decoding sequences are different kernels, and a step that has
  both takes a little longer than its parts;
* *spells*: clocks, power and neighbours make a replica slow or fast for some hundred steps on end, each for itself.

The sizes are of the order that serving engines show, and not fitted to any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from random import Random

from router.sim.timing import NoisyTiming, Timing

TILE_TOKENS = 128  # rows of a tile in current matrix kernels
MIXED_RATIO = 0.06
SPELL_RATIO, SPELL_STEPS = 0.06, 300.0


class Spells:
    """A factor of mean 1 that wanders: its logarithm forgets itself in some `SPELL_STEPS` steps. Asked, it moves on."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._log = SPELL_RATIO * chance.gauss(0.0, 1.0)

    def pace(self, steps: int) -> float:
        """Of the next steps, all of them alike."""
        kept = math.exp(-steps / SPELL_STEPS)
        self._log = kept * self._log + SPELL_RATIO * math.sqrt(1.0 - kept * kept) * self._chance.gauss(0.0, 1.0)
        return math.exp(self._log - SPELL_RATIO**2 / 2)


@dataclass(frozen=True, slots=True)
class RoughTiming(NoisyTiming):
    """A fit with noise and the effects above."""

    spells: Spells = field(default_factory=lambda: Spells(Random(0)), repr=False, compare=False)

    def step_seconds(self, prefills: Iterable[tuple[int, int]], sequences: int, context_tokens: int) -> float:
        tiled = [(-(-new // TILE_TOKENS) * TILE_TOKENS, context) for new, context in prefills]
        seconds = Timing.step_seconds(self, tiled, sequences, context_tokens)
        return seconds * (1.0 + MIXED_RATIO) if tiled and sequences else seconds

    def pace(self, steps: int) -> float:
        return NoisyTiming.pace(self, steps) * self.spells.pace(steps)


def rough(timing: Timing, noise_ratio: float, chance: Random) -> RoughTiming:
    """This fit with noise of so much a step, and the rest. `chance` belongs to one engine."""
    own = {one.name: getattr(timing, one.name) for one in fields(Timing)}
    return RoughTiming(**own, noise_ratio=noise_ratio, chance=chance, spells=Spells(chance))
