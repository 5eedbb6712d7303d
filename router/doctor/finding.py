"""What a check found: one sentence, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PASS = "pass"
    WARN = "warn"  # Homing works, but less well than it could
    FAIL = "fail"  # predictions cannot be exact here, or requests fail
    SKIPPED = "skipped"  # not asked: an earlier check failed, or the user does not want it asked


class Check(StrEnum):
    """Every check, in the order in which they are shown. The values stand in the JSON form and keep their meaning."""

    REACHABLE = "reachable"  # a name that resolves, a port that takes connections, TLS, an HTTP answer
    API_KEY = "api_key"  # the replica takes the key we send
    ENGINE = "engine"  # which engine it is
    VERSION = "version"  # a release this Homing knows
    MODELS = "models"  # what it serves, and how long a prompt may be
    ONE_PROCESS = "one_process"  # the same process answers each time
    CLOCK = "clock"
    BLOCK_SIZE = "block_size"  # known, and the events agree with what the engine says
    PREFIX_CACHING = "prefix_caching"
    USAGE = "usage"  # answers tell cached_tokens
    RANKS = "ranks"  # data-parallel layout
    EVENTS = "events"  # KV events are configured
    PUBLISHER = "publisher"  # it binds, so that others can connect
    EVENT_PORT = "event_port"  # reachable from here, for each rank
    TOPIC = "topic"
    FLOW = "flow"  # a prompt was computed and its event came
    NUMBERING = "numbering"  # no batch missing
    REPLAY = "replay"  # missed batches can be asked for
    TOKEN_SOURCE = "token_source"  # where Homing takes token ids from
    PARITY = "parity"  # our token ids equal the engine's own
    PROBE_TOKENS = "probe_tokens"  # the probe's event carries exactly our tokens
    PROBE_HIT = "probe_hit"  # the second time the hit comes, as our hashes predict
    SALT = "salt"  # a salted prompt is kept apart, by the cache and by its events
    DISAGGREGATION = "disaggregation"  # P/D connector
    HOMING = "homing"  # what a running Homing has seen of it

    # Over several replicas
    POLICY = "policy"
    SHARED = "shared"  # the Redis between routers answers
    SAME_MODEL = "same_model"
    SAME_VERSION = "same_version"
    SAME_BLOCK_SIZE = "same_block_size"
    DISTINCT = "distinct"  # no two replicas are one process
    PAIRS = "pairs"  # where replicas have roles: who can hand KV to whom


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is the exact flag or key that mends it; None only for what passed or was skipped."""

    check: Check
    status: Status
    found: str
    mend: str | None = None


UNREACHED = "an earlier check failed"  # why a check was skipped that builds on another


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """All findings of one replica, in the order of `Check`."""

    replica: str
    url: str
    engine: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Report:
    replicas: tuple[ReplicaReport, ...]
    fleet: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for replica in self.replicas for finding in replica.findings) + self.fleet

    def count(self, status: Status) -> int:
        return sum(finding.status is status for finding in self.findings)


def passed(check: Check, found: str) -> Finding:
    return Finding(check, Status.PASS, found)


def warned(check: Check, found: str, mend: str) -> Finding:
    return Finding(check, Status.WARN, found, mend)


def failed(check: Check, found: str, mend: str) -> Finding:
    return Finding(check, Status.FAIL, found, mend)


def skipped(check: Check, why: str) -> Finding:
    return Finding(check, Status.SKIPPED, why)


_ORDER = {check: place for place, check in enumerate(Check)}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.check]))
