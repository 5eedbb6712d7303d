from __future__ import annotations

import numpy as np

from router.events.ingest import Ingest
from router.fleet.replica import Seat
from router.gateway.trust import EffectiveTrust
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.budget import Budget
from router.index.memory import MemoryIndex

SEAT = Seat(0)


def test_the_lowest_cap_holds_until_its_cause_is_gone() -> None:
    changes: list[tuple[Trust, Trust]] = []
    accuracy, ingest = Accuracy(), Ingest(MemoryIndex(Budget(1 << 20)), hash_seed=0)
    accuracy.join(SEAT)
    ingest.join(SEAT, "m")
    ingest.begin(SEAT, whole=True)
    ingest.stream(SEAT, up=True)
    trust = EffectiveTrust(ingest, accuracy, lambda _seat, before, now: changes.append((before, now)))
    trust.join(SEAT)
    assert trust.of(SEAT) is Trust.EXACT
    trust.cap(SEAT, "unproven", Trust.GUESSED)
    trust.cap(SEAT, "template_drift", Trust.LOAD_ONLY)
    assert (trust.of(SEAT), trust.causes(SEAT)) == (Trust.LOAD_ONLY, ("unproven", "template_drift"))
    assert trust.belief(np.array([0])).tolist() == [0.0]
    trust.cap(SEAT, "template_drift", None)
    assert trust.of(SEAT) is Trust.GUESSED
    trust.cap(SEAT, "unproven", None)
    trust.cap(SEAT, "unproven", None)
    assert changes[-1] == (Trust.GUESSED, Trust.EXACT)
    trust.cap(SEAT, "unproven", Trust.GUESSED)
    trust.leave(SEAT)
    trust.join(SEAT)
    assert (trust.of(SEAT), trust.causes(SEAT)) == (Trust.EXACT, ())
