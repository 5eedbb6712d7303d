"""How far a match counts in a price (R 5.2).

EXACT counts in full. CATCHING_UP too: what the index misses can only add to the match, so it is a lower bound.
GUESSED counts for the share of predicted tokens that the replica's responses lately confirmed; LOAD_ONLY for nothing.
"""

from __future__ import annotations

import numpy as np

from router.fleet.replica import FloatArray
from router.index.base import Trust

# The share of a guess that is believed while no response has confirmed or refuted any. Without events nobody tells us
# of evictions, so guesses err high. Below 1, a sure match beats an equal guess; well above a half, a guess of some
# thousand tokens still beats an idle replica that certainly has none.
GUESS_BELIEF = 0.7


def _belief_by_trust() -> FloatArray:
    belief = np.ones(len(Trust), dtype=np.float64)
    belief[Trust.LOAD_ONLY] = 0.0
    belief[Trust.GUESSED] = GUESS_BELIEF
    belief.setflags(write=False)
    return belief


BELIEF_BY_TRUST = _belief_by_trust()  # indexed by Trust
