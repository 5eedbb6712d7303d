"""Which keys two configurations differ in, and which of them a running process can take up. Pure.

The rule: what runs is always one whole configuration as it was read. So a change that needs a restart is named, and the
others beside it wait for that restart too; half of a file never runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from router.gateway.in_force import Configuration

# By key, or by section for all of it. Whatever is not here needs a restart.
LIVE = frozenset(
    {
        "auth.api_keys_file",
        "limits",
        "policy",
        "probe",
        "readiness",
        "reload",
        "replicas",
        "sessions",
        "shadow_policy",
        "timeouts",
        "usage_probe",
    }
)


def changed(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """The keys, in the file's order. A policy or a file of keys that is named as before may say something else."""
    found = list(_differing(before.config.model_dump(), after.config.model_dump()))
    for key, is_other in (
        ("policy", before.policy != after.policy),
        ("shadow_policy", before.shadow != after.shadow),
        ("auth.api_keys_file", before.client_keys != after.client_keys),
    ):
        if is_other and key not in found:
            found.append(key)
    return tuple(found)


def needing_restart(keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that only a new process takes up."""
    return tuple(key for key in keys if key not in LIVE and key.partition(".")[0] not in LIVE)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[str]:  # Any: settings
    for key, value in after.items():
        was, name = before.get(key), f"{path}{key}"
        if isinstance(was, dict) and isinstance(value, dict):
            yield from _differing(was, value, f"{name}.")
        elif was != value:
            yield name
