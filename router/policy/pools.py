"""Who of a model's replicas may answer alone, who may compute for others, and who may take over from whom.

All of it follows from roles, handshakes and labels, so it changes only with the roster. A fleet in which nobody has a
role and nobody is configured to move KV has no pools, and nothing of this is read for it.

A decode replica answers whole requests too where its handshake allows: it is an engine like others. A prefill replica
does so only when nobody else is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.fleet.pairs import PairBools
from router.fleet.replica import BoolArray, Facts, IntArray, Replica, Role


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Rows of the model's candidates. `matched` has a row for each donor and a column for each taker."""

    whole: BoolArray  # by row: may answer alone
    spare: BoolArray  # by row: may answer alone when no other can
    donors: IntArray
    takers: IntArray
    matched: PairBools  # both speak one handshake in one release, and are not the same replica
    labels: tuple[Mapping[str, str], ...]  # by row
    speech: tuple[str | None, ...]  # by row: its handshake
    handshakes: frozenset[str]  # all there are

    def able_alone(self, allowed: BoolArray) -> BoolArray:
        """Who may be sent a whole request, of those allowed."""
        able: BoolArray = allowed & self.whole
        return able if able.any() else allowed & self.spare

    def eased(self, allowed: BoolArray, ease: Callable[[BoolArray], BoolArray]) -> BoolArray:
        """Who should be sent a leg, of those allowed: donors and takers are each compared with their like, by `ease`
        (fleet/newcomers.py). The very `allowed` where that spares nobody."""
        eased = np.zeros_like(allowed)
        for rows in (self.donors, self.takers):
            side = np.zeros_like(allowed)
            side[rows] = allowed[rows]
            eased |= ease(side)
        spared = allowed & ~eased
        return eased if spared[self.donors].any() or spared[self.takers].any() else allowed

    def alike(self, label: str) -> PairBools:
        """Which pairs have the same value of a label. Without a value nobody is known to be near."""
        values = [labels.get(label) for labels in self.labels]
        donors, takers = ([values[row] for row in rows.tolist()] for rows in (self.donors, self.takers))
        return np.array(
            [[donor is not None and donor == taker for taker in takers] for donor in donors], dtype=np.bool_
        ).reshape(len(donors), len(takers))


def handshake_of(replica: Replica, facts: Facts) -> str | None:
    """How it moves KV; None: it does not, or nothing is known of its engine yet."""
    if replica.handshake is not None:
        return replica.handshake
    return facts.handshake if replica.role is not Role.BOTH else None


def pools_of(replicas: Sequence[Replica], told: Sequence[Facts], answering_whole: frozenset[str]) -> Pools | None:
    """`answering_whole`: the handshakes whose engines can answer alone. None: nobody has a role."""
    speech = [handshake_of(replica, facts) for replica, facts in zip(replicas, told, strict=True)]
    if all(replica.role is Role.BOTH and one is None for replica, one in zip(replicas, speech, strict=True)):
        return None
    alone = np.array([one is None or one in answering_whole for one in speech], dtype=np.bool_)
    is_prefill = np.array([replica.role is Role.PREFILL for replica in replicas], dtype=np.bool_)
    speaks = np.array([one is not None for one in speech], dtype=np.bool_)
    is_decode = np.array([replica.role is Role.DECODE for replica in replicas], dtype=np.bool_)
    donors, takers = (speaks & ~is_decode).nonzero()[0], (speaks & ~is_prefill).nonzero()[0]
    matched = np.array(
        [
            [
                donor != taker and speech[donor] == speech[taker] and told[donor].version == told[taker].version
                for taker in takers.tolist()
            ]
            for donor in donors.tolist()
        ],
        dtype=np.bool_,
    ).reshape(len(donors), len(takers))
    return Pools(
        whole=alone & ~is_prefill,
        spare=alone & is_prefill,
        donors=donors,
        takers=takers,
        matched=matched,
        labels=tuple(replica.labels for replica in replicas),
        speech=tuple(speech),
        handshakes=frozenset(filter(None, speech)),
    )
