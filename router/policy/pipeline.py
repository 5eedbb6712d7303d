"""A policy: filters narrow, scorers price, a picker chooses. Pure: the same columns and turn give the same choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from router.fleet.replica import FloatArray, IntArray
from router.policy.candidate import Candidates
from router.policy.filters import Filter, SessionHome
from router.policy.hold import HoldRule
from router.policy.pickers import Picker, Turn
from router.policy.rivals import CacheUse, DynamoBlocks
from router.policy.scorers import CacheInUse, OpenRequests, Scorer
from router.policy.splitters import Splitter


class IndexSource(Enum):
    """What a policy's matches come from, by its authors' design. A gateway gives every policy the best it has."""

    EVENTS = "events"
    APPROXIMATE = "approximate"  # from the requests that were sent, as if nothing else happened there


@dataclass(frozen=True, slots=True)
class NamedFilter:
    name: str
    filter: Filter


@dataclass(frozen=True, slots=True)
class Term:
    """One scorer's part of the price, with its weight."""

    name: str
    scorer: Scorer
    weight: float = 1.0

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        """Seconds per candidate, as weighted."""
        seconds = self.scorer.cost_seconds(candidates)
        return seconds if self.weight == 1.0 else seconds * self.weight

    @property
    def label(self) -> str:
        """The name in receipts; a price that is not the bare expectation says so."""
        return self.name if self.weight == 1.0 else f"{self.name} x{self.weight:g}"


class Choice(NamedTuple):
    row: int
    rule: str  # what each filter and the picker had to say, in order, joined by "+"
    cost_seconds: FloatArray  # per candidate, those filtered away included


@dataclass(frozen=True, slots=True)
class Policy:
    """A named composition of parts. `description` is one line: when to choose it."""

    name: str
    description: str
    filters: tuple[NamedFilter, ...]
    terms: tuple[Term, ...]
    picker: Picker
    index: IndexSource = IndexSource.EVENTS
    hold: HoldRule | None = None  # None: every request is sent at once
    splitter: Splitter | None = None  # None: every request stays whole

    @property
    def reads_sessions(self) -> bool:
        """Whether any part asks where the session's last request went: else nobody needs to know the session."""
        return any(isinstance(part.filter, SessionHome) for part in self.filters)

    @property
    def reads_open_blocks(self) -> bool:
        """Whether any part asks how much of a cache open requests use: else nobody needs to keep their blocks."""
        return any(isinstance(term.scorer, DynamoBlocks | CacheUse | CacheInUse) for term in self.terms)

    @property
    def reads_shared_blocks(self) -> bool:
        """Whether any part asks which of a prompt's blocks open requests use: then each is kept, not every so many."""
        return any(isinstance(term.scorer, DynamoBlocks) for term in self.terms)

    def choose(self, candidates: Candidates, rows: IntArray, turn: Turn) -> Choice:
        """One of `rows`, the rows of the replicas that may be chosen at all: ascending, not empty."""
        said: list[str] = []
        for part in self.filters:
            kept, rule = part.filter.keep(candidates, rows)
            if not len(kept):
                said.append(f"{part.name}_ignored")
                continue
            rows = kept
            if rule:
                said.append(rule)
        total = self.price(candidates)
        row, rule = self.picker.pick(candidates, total, rows, turn)
        if said:
            rule = "+".join((*said, rule))
        return Choice(row, rule, total)

    def price(self, candidates: Candidates) -> FloatArray:
        """Seconds per candidate, all terms together."""
        return self._sum(self.terms, candidates)

    def answering_seconds(self, candidates: Candidates) -> FloatArray:
        """The part of the price that whoever answers a request costs, wherever its prompt was computed."""
        terms = [term for term in self.terms if isinstance(term.scorer, OpenRequests | CacheInUse)]
        return self._sum(terms, candidates)

    def _sum(self, terms: Sequence[Term], candidates: Candidates) -> FloatArray:
        total: FloatArray | None = None
        for term in terms:
            seconds = term.cost_seconds(candidates)
            total = seconds if total is None else total + seconds
        return np.zeros(len(candidates)) if total is None else total

    def price_terms(self, candidates: Candidates) -> Mapping[str, FloatArray]:
        """Seconds per candidate by term, as weighted, in the policy's order: what `choose` added up."""
        return {term.label: term.cost_seconds(candidates) for term in self.terms}
