"""The configuration in force: what runs now, since when, and what became of the last reload."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from prometheus_client.metrics_core import Metric

from router.clock import Clock
from router.config import Config
from router.metrics import gauge_family
from router.policy.pipeline import Policy

HASH_DIGITS = 12  # of 64: it tells two configurations apart, and is no proof of anything


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration and all that it names, read and found good."""

    config: Config
    policy: Policy
    shadow: Policy | None
    client_keys: frozenset[str] | None  # None: the endpoint is open

    @property
    def policies(self) -> tuple[Policy, ...]:
        return (self.policy,) if self.shadow is None else (self.policy, self.shadow)

    @property
    def hash(self) -> str:
        """Of every setting, flags and defaults included, and of what the policies say; not of keys. Two processes of
        one version with the same settings have the same."""
        said = f"{self.config.model_dump_json()}{self.policy!r}{self.shadow!r}"
        return hashlib.sha256(said.encode()).hexdigest()[:HASH_DIGITS]


class ReloadOutcome(StrEnum):
    APPLIED = "applied"
    UNCHANGED = "unchanged"
    NEEDS_RESTART = "needs_restart"  # good, but with a change that only a new process can make: nothing was changed
    REFUSED = "refused"  # at fault: nothing was changed


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of one reload."""

    why: str  # who asked for it
    outcome: ReloadOutcome
    at_wall_seconds: float
    hash: str  # of what is in force after it
    changed: tuple[str, ...] = ()  # keys in which what was read differs from what was in force
    needs_restart: tuple[str, ...] = ()  # those of them that only a new process takes up
    faults: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """What is in force is what the files say."""
        return self.outcome in (ReloadOutcome.APPLIED, ReloadOutcome.UNCHANGED)

    def as_json(self) -> Mapping[str, object]:
        return asdict(self)


class InForce:
    """Changed by the reload only; `asked` is set by whoever wants one."""

    def __init__(self, configuration: Configuration, clock: Clock) -> None:
        self._clock = clock
        self.configuration = configuration
        self.hash = configuration.hash
        self.since_wall_seconds = clock.wall()
        self.last: Reloaded | None = None
        self.asked = asyncio.Event()

    @property
    def config(self) -> Config:
        return self.configuration.config

    def put(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.hash = configuration.hash
        self.since_wall_seconds = self._clock.wall()

    def as_json(self) -> Mapping[str, object]:
        shadow = self.configuration.shadow
        return {
            "hash": self.hash,
            "since_wall_seconds": self.since_wall_seconds,
            "policy": self.configuration.policy.name,
            "shadow_policy": None if shadow is None else shadow.name,
            "last_reload": None if self.last is None else self.last.as_json(),
        }

    def families(self) -> Iterable[Metric]:
        info = gauge_family("homing_config_info", "1 for the configuration in force.", ("hash", "policy"))
        info.add_metric([self.hash, self.configuration.policy.name], 1.0)
        since = gauge_family("homing_config_loaded_timestamp_seconds", "When it came into force, in Unix time.", ())
        since.add_metric([], self.since_wall_seconds)
        good = gauge_family(
            "homing_config_last_reload_successful", "0 while what the files say is not what is in force.", ()
        )
        good.add_metric([], float(self.last is None or self.last.is_good))
        yield from (info, since, good)
