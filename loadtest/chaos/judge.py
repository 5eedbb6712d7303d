"""Holds each request that failed against R 2: was it allowed to, given what had been done to whom, and when? Pure.

A request may fail only in these ways:

* its router was killed or ended meanwhile: the client is cut off, or told that Homing stops (R 2.1, R 2.5);
* a replica died after commitment: a stream ends with an error and without `[DONE]`, any other answer is a 502;
* no first byte, or no next one, came within the limits of R 2.2, from a replica that was made silent;
* two attempts met two replicas that were ill (R 2.1: at most two);
* one attempt met an ill replica, and there was nobody else, or the retry budget was spent;
* nobody was healthy: 503 with Retry-After.

Every attempt that failed must be explained by a trouble of that very replica, as that very router sees it. A failure
before commitment while a replica was *spared* (nothing had been done to it for GRACE_SECONDS) and was not tried is a
fault, and so is whatever is not in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from loadtest.chaos.schedule import Ask
from loadtest.chaos.troubles import Effect, Sort

SHUNNED_SECONDS = 20.0  # a breaker is open for no longer once its replica is well and asked again
GRACE_SECONDS = 12.0  # a replica that was struck is tried again, and found well, within
AFTER_SECONDS = 1.5  # what a trouble did may be met so much later: a connection that it broke is used again
MAX_ATTEMPTS = 2
RETRIES_RESERVED = 99  # fewer retries than this cannot have spent the budget


class End(Enum):
    """How a request ended, as its client saw it."""

    ANSWERED = "answered whole"
    HUNG_UP = "hung up by its client"
    TOLD_OFF = "rubbish, and told so"
    BROKEN = "stream ended by an error"
    REFUSED = "error status"
    CUT = "connection lost"
    MUTE = "ended without an end"  # a 200 that is neither whole nor tells of an error
    STUCK = "no end within the limits"


FAILURES = (End.BROKEN, End.REFUSED, End.CUT, End.MUTE, End.STUCK)


@dataclass(frozen=True, slots=True)
class Window:
    """A trouble as it really was. Seconds on the driver's clock; `end_seconds` is infinite while it lasts."""

    sort: Sort
    replica: int | None
    router: int | None
    begin_seconds: float
    end_seconds: float

    def overlaps(self, begin_seconds: float, end_seconds: float) -> bool:
        return self.begin_seconds <= end_seconds and begin_seconds <= self.end_seconds


@dataclass(frozen=True, slots=True)
class Shunned:
    """A moment at which a router sent a replica nothing, because it held it for ill (R 2.4)."""

    at_seconds: float
    router: int
    replica: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One replica tried, as the receipt tells. `ending`: "ok", or what went wrong."""

    replica: str
    ending: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as its client saw it, and, where it failed, as its router explained it."""

    ask: Ask
    sent_seconds: float
    ended_seconds: float
    end: End
    status: int | None = None
    message: str = ""
    code: str | None = None
    retry_after: bool = False
    request_id: str | None = None
    attempts: tuple[Attempt, ...] | None = None  # None: no receipt
    retries_before: int = 0  # of its router, since that process began


@dataclass(frozen=True, slots=True)
class Finding:
    """`cause` is a line of the report. `fault`: what is against the rules; None: nothing."""

    cause: str
    fault: str | None = None


def judge(seen: Seen, windows: Sequence[Window], replicas: int) -> Finding | None:
    """None: it did not fail."""
    if seen.end not in FAILURES:
        return None
    if seen.end is End.STUCK:
        return Finding("no end within the limits", "no byte came for longer than all limits of R 2.2 together")
    near = [one for one in windows if one.overlaps(seen.sent_seconds - AFTER_SECONDS, seen.ended_seconds)]
    router_went = any(one.router == seen.ask.router and Effect.ROUTER_CUT in one.sort.effects for one in near)
    if seen.end is End.CUT:
        fault = None if router_went else f"the router cut the client off, though nothing was done to it: {seen.message}"
        return Finding("its router was killed or ended", fault)
    if seen.code == "stopping":
        fault = None if router_went else "the router says that it stops, and was not told to"
        return Finding("its router was ended: told so", fault)
    if seen.end is End.MUTE:
        return Finding("a 200 without end or error", f"R 2.1: {seen.message}")
    if seen.attempts is None:
        fault = None if router_went else f"no receipt of {seen.request_id}: {seen.status} {seen.message}"
        return Finding("its router was killed before it explained", fault)
    return _by_attempts(seen, seen.attempts, near, windows, replicas, router_went=router_went)


def _by_attempts(
    seen: Seen,
    attempts: tuple[Attempt, ...],
    near: Sequence[Window],
    windows: Sequence[Window],
    replicas: int,
    *,
    router_went: bool,
) -> Finding:
    for one in attempts:
        effect = effect_of(one.ending)
        if effect is None:
            return Finding("unknown", f"{one.replica} ended an attempt as no rule tells: {one.ending}")
        if not any(_explains(window, one.replica, seen.ask.router, effect) for window in near):
            return Finding(
                "an attempt failed", f"{one.replica} failed an attempt, and nothing was done to it: {one.ending}"
            )
    tried = {one.replica for one in attempts}
    others = spared(seen, windows, replicas) - tried
    if seen.code == "no_replica":
        if not seen.retry_after:
            return Finding("no healthy replica", "R 2.1: a 503 without Retry-After")
        well = f"{', '.join(sorted(others))} had been well for {GRACE_SECONDS:g} s. {seen.message}"
        fault = well if others and not router_went else None
        return Finding("no healthy replica: 503 with Retry-After", fault)
    if not attempts:
        return Finding("refused", f"{seen.status} {seen.code} {seen.message}, before any replica was asked")
    if is_committed(seen, attempts[-1]):
        if seen.end is End.REFUSED and seen.status not in (502, 504):
            return Finding("death after commitment", f"R 2.1 asks for a 502, not {seen.status}")
        told = "a stream's error, no [DONE]" if seen.end is End.BROKEN else str(seen.status)
        return Finding(f"a replica failed after commitment: {told}")
    if effect_of(attempts[-1].ending) is Effect.SILENCE and seen.status == 504:
        return Finding("no first byte in time from a silenced replica: 504")
    if len(attempts) >= MAX_ATTEMPTS:
        return Finding(f"two replicas in a row were ill: {seen.status}")
    if not others:
        return Finding(f"one replica was ill and nobody else was well: {seen.status}")
    if seen.retries_before >= RETRIES_RESERVED:
        return Finding("the retry budget may have been spent")
    return Finding(
        "could have been retried", f"{', '.join(sorted(others))} had been well and was not tried: {attempts[0].ending}"
    )


def spared(seen: Seen, windows: Sequence[Window], replicas: int) -> set[str]:
    """The replicas to which nothing that matters was done for a while before the request, nor during it."""
    since, until = seen.sent_seconds - GRACE_SECONDS, seen.ended_seconds
    well = (number for number in range(replicas) if not _struck(windows, number, seen.ask.router, since, until))
    return {f"r{number}" for number in well}


def wrongly(shunned: Sequence[Shunned], windows: Sequence[Window]) -> list[Shunned]:
    """Those moments at which nothing had been done to the replica for long."""
    return [
        one
        for one in shunned
        if not _struck(windows, one.replica, one.router, one.at_seconds - SHUNNED_SECONDS, one.at_seconds)
    ]


def _struck(windows: Sequence[Window], replica: int, router: int, since: float, until: float) -> bool:
    return any(
        window.sort.effects
        and Effect.ROUTER_CUT not in window.sort.effects
        and window.replica in (None, replica)
        and window.router in (None, router)
        and window.overlaps(since, until)
        for window in windows
    )


def effect_of(ending: str) -> Effect | None:
    """What kind of end an attempt came to, by the words of its receipt (gateway/failures.py, gateway/http1.py)."""
    if "sent nothing for" in ending or "within" in ending:
        return Effect.SILENCE
    if ending.startswith("status "):
        return Effect.STATUS
    cut = (
        "no connection to",
        "inside the body",
        "before the body",
        "before it answered",
        "was closed",
        "in its stream",
    )
    return Effect.CUT if any(words in ending for words in cut) else None


def is_committed(seen: Seen, last: Attempt) -> bool:
    return seen.end is End.BROKEN or "inside the body" in last.ending


def _explains(window: Window, replica: str, router: int, effect: Effect) -> bool:
    is_struck = effect in window.sort.effects and window.router in (None, router)
    return is_struck and (window.replica is None or f"r{window.replica}" == replica)
