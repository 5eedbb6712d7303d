"""A policy with other settings: its YAML with some parameters changed, for a grid of them.

A setting is named `part.parameter`: `prefix_affinity.max_penalty_seconds`, or `prefill.weight`. Parts are the filters,
scorers and picker that stand in the policy, by the names they have there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import yaml

from router.errors import ConfigError

Value = float | str | bool
Parts = dict[str, Any]  # Any: names to the mapping of a part's parameters, as YAML gives it


def grid(settings: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """Every combination, the first values first: one without settings where there are none."""
    for values in product(*settings.values()):
        yield dict(zip(settings, values, strict=True))


def varied(text: str, settings: Mapping[str, Value]) -> str:
    """The policy of this YAML with these settings. Raises ConfigError for a part that it does not have."""
    policy: Parts = yaml.safe_load(text)
    parts = _parts(policy)
    missing = [key for key in settings if key.rpartition(".")[0] not in parts]
    if missing:
        raise ConfigError(
            [f"{policy.get('name')} has no such part: {key}. It has: {', '.join(parts)}." for key in missing]
        )
    for key, value in settings.items():
        part, _, parameter = key.rpartition(".")
        parts[part][parameter] = value
    return yaml.safe_dump(policy, sort_keys=False)


def told(settings: Mapping[str, Value]) -> str:
    """For people: `max_penalty_seconds 6, prefill.weight 3`; empty for a policy as it stands."""
    said = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        shown = key if name == "weight" else name  # every scorer has one
        said.append(f"{shown} {value}" if isinstance(value, bool | str) else f"{shown} {value:g}")
    return ", ".join(said)


def _parts(policy: Parts) -> dict[str, Parts]:
    """The parameters of each part, by its name: changed in place."""
    found: dict[str, Parts] = {}
    for number, one in enumerate(policy.get("filters") or ()):
        if isinstance(one, str):
            policy["filters"][number] = one = {one: {}}
        for name, given in one.items():
            found[name] = one[name] = dict(given or {})
    scorers = policy.get("scorers") or {}
    for name, given in scorers.items():
        found[name] = scorers[name] = dict(given or {})
    picker = policy.get("picker")
    if isinstance(picker, str):
        policy["picker"] = picker = {picker: {}}
    if isinstance(picker, dict):
        for name, given in picker.items():
            found[name] = picker[name] = dict(given or {})
    return found
