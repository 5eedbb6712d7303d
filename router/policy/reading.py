"""A policy from the text of its YAML file, read to the end: every fault is told at once, with file, key and remedy.

    name: cache_aware
    description: one line, when to choose it
    filters: [not_overloaded, bounded_load: {factor: 1.5}]     # optional
    scorers: {queue_wait: {}, prefill: {weight: 2}}            # optional for pickers that compare no costs
    picker: lowest_cost                                        # or lowest_cost: {near_seconds: 0.001}
    index: events                                              # optional; or approximate: what its matches come from
    hold: {patience: 10}                                       # optional: who waits for room, in whose turn
    split: joint                                               # optional; or joint: {least_tokens: 512}

The parts that may be named, and their parameters, are what the tables FILTERS, SCORERS, PICKERS and SPLITTERS hold,
those of our own and those of rivals.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import Field
from typing import Any, TypeVar

import yaml

from router.errors import ConfigError
from router.policy.filters import FILTERS as OWN_FILTERS
from router.policy.filters import Filter
from router.policy.hold import HoldRule
from router.policy.params import fault_of, params_of
from router.policy.pickers import PICKERS as OWN_PICKERS
from router.policy.pickers import Picker
from router.policy.pipeline import IndexSource, NamedFilter, Policy, Term
from router.policy.rivals import RIVAL_FILTERS, RIVAL_PICKERS, RIVAL_SCORERS
from router.policy.scorers import SCORERS as OWN_SCORERS
from router.policy.scorers import Scorer
from router.policy.splitters import SPLITTERS, Splitter

KEYS = ("name", "description", "filters", "scorers", "picker", "index", "hold", "split")
FILTERS = {**OWN_FILTERS, **RIVAL_FILTERS}
SCORERS = {**OWN_SCORERS, **RIVAL_SCORERS}
PICKERS = {**OWN_PICKERS, **RIVAL_PICKERS}
NO_SCORERS: Mapping[str, type[Scorer]] = {}

P = TypeVar("P", Filter, Scorer, Picker, Splitter)


def parse(text: str, source: str, also: Mapping[str, type[Scorer]] = NO_SCORERS) -> Policy:
    """A policy from the text of a file; `source` names it in faults. `also`: scorers that may be named beside those of
    the tables. Raises ConfigError with every fault."""
    return _Reading(source, {**SCORERS, **also}).policy(text)


class _Reading:
    """One file being read. Only its own methods add to `faults`."""

    def __init__(self, source: str, scorers: Mapping[str, type[Scorer]]) -> None:
        self._source = source
        self._scorers = scorers
        self.faults: list[str] = []
        self._visited: set[int] = set()  # nodes by identity: anchors let one node stand in many places, even in itself

    def policy(self, text: str) -> Policy:
        content = self._content(text)
        for key in content:
            if key not in KEYS:
                self._fault(str(key), f"is not a key of a policy. {known(str(key), KEYS)}")
        name, description = self._text(content, "name"), self._text(content, "description")
        filters = self._filters(content.get("filters"))
        terms = self._terms(content.get("scorers"))
        picker = self._picker(content.get("picker"))
        index = self._index(content.get("index", IndexSource.EVENTS.value))
        hold = self._hold(content["hold"]) if "hold" in content else None
        splitter = self._splitter(content.get("split"))
        if picker is not None and picker.compares_costs and not content.get("scorers"):
            self._fault("scorers", f"has nothing for the picker to compare. Add at least one of: {', '.join(SCORERS)}.")
        if self.faults or picker is None:
            raise ConfigError(self.faults)
        return Policy(name, description, filters, terms, picker, index, hold, splitter)

    def _content(self, text: str) -> Mapping[object, object]:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                self._find_duplicates(root, "")
            content = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
            raise ConfigError(
                [f"{self._source}: not YAML{where}: {error.problem}. Correct the syntax there."]
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError([f"{self._source}: not YAML: {error}. Correct the syntax."]) from error
        if not isinstance(content, dict):
            self.faults.append(f"{self._source}: must be a mapping with the keys {', '.join(KEYS)}.")
            raise ConfigError(self.faults)
        return content

    def _find_duplicates(self, node: yaml.Node, path: str) -> None:
        """YAML keeps the last of two equal keys in silence, which would drop a scorer its author believes in."""
        if id(node) in self._visited:
            return
        self._visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._find_duplicates(item, path)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = f"{path}{key.value}"
                if name in seen:
                    self._fault(name, f"stands twice, again at line {key.start_mark.line + 1}. Remove one of them.")
                seen.add(name)
                self._find_duplicates(value, f"{name}.")

    def _text(self, content: Mapping[object, object], key: str) -> str:
        value = content.get(key)
        if not isinstance(value, str) or not value.strip():
            self._fault(key, f"is {value!r}, but must be a text of at least one letter. Add `{key}: ...`.")
            return ""
        return value.strip()

    def _filters(self, value: object) -> tuple[NamedFilter, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self._fault("filters", "must be a list. Write `filters: [NAME, NAME: {PARAMETER: VALUE}]`.")
            return ()
        filters = []
        for position, item in enumerate(value):
            path = f"filters[{position}]"
            name, params = self._named(path, item)
            if name is not None:
                part = self._part(path, name, params, FILTERS, "filter")
                if part is not None:
                    filters.append(NamedFilter(name, part))
        return tuple(filters)

    def _terms(self, value: object) -> tuple[Term, ...]:
        if value is None:
            return ()
        if not isinstance(value, dict):
            self._fault("scorers", "must map scorers to their parameters. Write `scorers: {NAME: {}}`.")
            return ()
        terms = []
        for name, params in value.items():
            path = f"scorers.{name}"
            params = self._params(path, params)
            weight = self._weight(path, params.get("weight", 1.0))
            rest = {key: param for key, param in params.items() if key != "weight"}
            part = self._part(path, str(name), rest, self._scorers, "scorer", also="weight")
            if part is not None and weight != 0.0:
                terms.append(Term(str(name), part, weight))
        return tuple(terms)

    def _weight(self, path: str, weight: object) -> float:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            self._fault(f"{path}.weight", f"is {weight!r}, but must be a number. The default is 1.")
            return 1.0
        if weight < 0:
            self._fault(f"{path}.weight", f"is {weight}, but cannot be negative. Use 0 to switch the scorer off.")
            return 1.0
        return float(weight)

    def _picker(self, value: object) -> Picker | None:
        if value is None:
            self._fault("picker", f"is missing. Add `picker: NAME`, one of: {', '.join(PICKERS)}.")
            return None
        name, params = self._named("picker", value)
        return None if name is None else self._part("picker", name, params, PICKERS, "picker")

    def _splitter(self, value: object) -> Splitter | None:
        if value is None:
            return None
        name, params = self._named("split", value)
        return None if name is None else self._part("split", name, params, SPLITTERS, "splitter")

    def _index(self, value: object) -> IndexSource:
        names = [source.value for source in IndexSource]
        if value not in names:
            self._fault("index", f"is {value!r}, but must be one of: {', '.join(names)}. The default is events.")
            return IndexSource.EVENTS
        return IndexSource(value)

    def _hold(self, value: object) -> HoldRule | None:
        params = self._read("hold", "hold", self._params("hold", value), HoldRule)
        return None if params is None else HoldRule(**params)

    def _named(self, path: str, value: object) -> tuple[str | None, Mapping[object, object]]:
        """`NAME` or `{NAME: PARAMETERS}`."""
        if isinstance(value, str):
            return value, {}
        if isinstance(value, dict) and len(value) == 1:
            name, params = next(iter(value.items()))
            return str(name), self._params(f"{path}.{name}", params)
        self._fault(path, f"is {value!r}, but must be NAME or {{NAME: {{PARAMETER: VALUE}}}}.")
        return None, {}

    def _params(self, path: str, value: object) -> Mapping[object, object]:
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self._fault(path, f"is {value!r}, but must map parameters to values, or be {{}}.")
        return {}

    def _part(
        self,
        path: str,
        name: str,
        params: Mapping[object, object],
        table: Mapping[str, type[P]],
        kind: str,
        also: str = "",
    ) -> P | None:
        part = table.get(name)
        if part is None:
            self._fault(path, f"{name!r} is not a {kind}. {known(name, table)}")
            return None
        read = self._read(path, name, params, part, also)
        return None if read is None else part(**read)

    def _read(
        self, path: str, name: str, params: Mapping[object, object], part: type, also: str = ""
    ) -> Mapping[str, Any] | None:
        """The parameters as the part takes them, each of its own type; None where any is at fault."""
        declared: Mapping[str, Field[Any]] = params_of(part)  # Any: each field has its own type
        before = len(self.faults)
        for key, value in params.items():
            if key not in declared:
                allowed = [*declared, also] if also else list(declared)
                self._fault(f"{path}.{key}", f"is not a parameter of {name}. {known(str(key), allowed)}")
            elif (fault := fault_of(declared[str(key)], value)) is not None:
                self._fault(f"{path}.{key}", fault)
        if len(self.faults) > before:
            return None
        return {str(key): value for key, value in params.items()}

    def _fault(self, key: str, what: str) -> None:
        self.faults.append(f"{self._source}: {key}: {what}")


def known(name: str, names: Iterable[str]) -> str:
    """The remedy for a name that is not known: the nearest one, and all there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    listed = f"Known: {', '.join(names)}." if names else "It has none."
    return f"Did you mean {near[0]!r}? {listed}" if near else listed
