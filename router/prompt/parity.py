"""Does a local token source give the engine's own ids? Proven before it is believed (R 3.2).

Whoever does the HTTP posts each probe's body to the engine's /tokenize and brings the answer here. The basic probes
decide whether the source is used at all; a probe of one feature decides only whether requests that use it are read here
or by the engine. Engine versions differ in features, and one odd corner should not cost the whole model its fast path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from router.prompt.blocks import TokenIds, unpack_tokens
from router.prompt.probes import PROBES, Probe
from router.prompt.prompt import Feature


class Verdict(Enum):
    UNPROVEN = "unproven"  # probes are outstanding
    PASSED = "passed"
    FAILED = "failed"


UNPROVEN, PASSED, FAILED = Verdict  # by names of their own, as each prompt asks (see `request.Endpoint`)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a probe's ids part: the first differing place, and a few ids of each side from there."""

    probe: str
    place: int
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"probe '{self.probe}': {self.note}"
        return f"probe '{self.probe}' differs from token {self.place}: ours {self.ours}, the engine's {self.theirs}"


def compare(probe: str, ours: TokenIds | None, theirs: Sequence[int] | None) -> Divergence | None:
    """The first divergence, or None where both agree. None for ids: that side refused the probe."""
    if ours is None or theirs is None:
        if ours is None and theirs is None:
            return None
        return Divergence(probe, 0, (), (), "only the engine renders it" if ours is None else "the engine refuses it")
    mine, other = list(unpack_tokens(ours)), list(theirs)
    if mine == other:
        return None
    shorter = min(len(mine), len(other))
    place = next((i for i in range(shorter) if mine[i] != other[i]), shorter)
    return Divergence(probe, place, tuple(mine[place : place + 4]), tuple(other[place : place + 4]))


class Parity:
    """The state of one model's proof. Changed only by `judge` and `restart`, from the event loop's thread."""

    def __init__(self, probes: Sequence[Probe] = PROBES) -> None:
        self._probes = tuple(probes)
        self._outstanding: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Forget all answers: another engine, or the same after a restart, has to prove itself again."""
        self._outstanding = {probe.name for probe in self._probes}
        self.broken: frozenset[Feature] = frozenset()  # features left to the engine
        self.divergences: tuple[Divergence, ...] = ()
        self._basic_failed = False

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The probes to ask, all of them."""
        return self._probes

    @property
    def verdict(self) -> Verdict:
        if self._basic_failed:
            return FAILED
        return UNPROVEN if self._outstanding else PASSED

    def judge(self, probe: Probe, ours: TokenIds | None, theirs: Sequence[int] | None) -> None:
        """Take one answer. A probe not answered at all (no connection, 5xx) must not be brought here."""
        self._outstanding.discard(probe.name)
        divergence = compare(probe.name, ours, theirs)
        if divergence is None:
            return
        self.divergences += (divergence,)
        if probe.feature is None:
            self._basic_failed = True
        else:
            self.broken |= {probe.feature}
