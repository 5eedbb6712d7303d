"""Sessions in a closed loop: a turn is asked when the one before it was answered and a think time has passed.

A session is a script, fixed before the run: what each turn asks, how long its answer is, how long the client thinks
before it. Only when things happen depends on the fleet, so two policies answer the same requests, paired by id.
(Replaying recorded times instead made the p90 of whole answers 40 % worse in a published comparison:
a slow fleet would be asked what nobody had time to ask.)

A turn may spawn sub-agents: scripts that begin when it is answered. The turn after it waits for all of them.

Sessions begin in one of two ways: as a Poisson process, at the rate that gives so many requests a second on average;
or so many at a time, each followed by another when it ends, until so many requests have been asked: what sessions still
had to ask is cut off there, or a run would end with a long stretch in which ever fewer are left.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from router.lab.token_ids import tokens_from
from router.sim.virtual import Arrival

RAMP_SECONDS = 30.0  # in which sessions at a time begin


@dataclass(frozen=True, slots=True)
class Span:
    """A run of made-up token ids: `first`, `first + 1`, and so on."""

    first: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session. Its prompt is its spans, one after another."""

    prompt: tuple[Span, ...]
    answer: Span
    think_seconds: float = 0.0  # before it, from the answer it waits for
    spawns: tuple[Script, ...] = ()  # sub-agents that begin with its answer


@dataclass(frozen=True, slots=True)
class Script:
    """What a session will ask. A sub-agent is a session too: clients give its calls a session id of their own."""

    name: str
    turns: tuple[Turn, ...]

    @property
    def requests(self) -> int:
        """Turns of its sub-agents included."""
        return sum(1 + sum(child.requests for child in turn.spawns) for turn in self.turns)


@dataclass(slots=True, eq=False)
class _Live:
    """A session that is being played. Changed by `Sessions` alone."""

    script: Script
    parent: _Live | None = None
    turn: int = 0  # the one asked last
    awaited: int = 0  # sub-agents that have not ended


@dataclass(slots=True)
class Sessions:
    """Plays scripts. One object plays one run. Exactly one of the two ways to begin is given."""

    scripts: Sequence[Script]
    seed: int
    sessions_per_second: float | None = None
    at_a_time: int | None = None
    most_requests: int | None = None
    _asked_count: int = field(default=0, init=False)
    _asked: dict[str, _Live] = field(default_factory=dict, init=False)
    _following: int = field(default=0, init=False)  # script, where they follow each other

    def begin(self) -> Iterator[Arrival]:
        chance = Random(self.seed)
        if self.at_a_time is None:
            now = 0.0
            for script in self.scripts:
                now += chance.expovariate(self.sessions_per_second or 1.0)
                yield self._ask(_Live(script), now)
            return
        self._following = min(self.at_a_time, len(self.scripts))
        # Not all in one moment: that would be a burst of first prompts that no fleet of users brings.
        starts = sorted(RAMP_SECONDS * chance.random() for _ in range(self._following))
        for start_seconds, script in zip(starts, self.scripts, strict=False):
            if self._left() > 0:
                yield self._ask(_Live(script), start_seconds)

    def after(self, arrival: Arrival, now: float) -> Sequence[Arrival]:
        live = self._asked.pop(arrival.request_id)
        left = self._left()
        if left <= 0:
            return ()
        spawned = [_Live(script, live) for script in live.script.turns[live.turn].spawns]
        live.awaited = len(spawned)
        if spawned:
            return [self._ask(child, now + child.script.turns[0].think_seconds) for child in spawned[:left]]
        return self._next(live, now)

    def _next(self, live: _Live, now: float) -> Sequence[Arrival]:
        live.turn += 1
        if live.turn < len(live.script.turns):
            return [self._ask(live, now + live.script.turns[live.turn].think_seconds)]
        if live.parent is not None:
            live.parent.awaited -= 1
            return self._next(live.parent, now) if not live.parent.awaited else ()
        if self.at_a_time is not None and self._following < len(self.scripts):
            self._following += 1
            return [self._ask(_Live(self.scripts[self._following - 1]), now)]
        return ()

    def _left(self) -> int:
        """Requests that may still be asked."""
        return sys.maxsize if self.most_requests is None else self.most_requests - self._asked_count

    def _ask(self, live: _Live, at_seconds: float) -> Arrival:
        turn = live.script.turns[live.turn]
        self._asked_count += 1
        request_id = f"{live.script.name}.{live.turn}"
        self._asked[request_id] = live
        prompt = array("I")
        for span in turn.prompt:
            prompt += tokens_from(span.first, span.tokens)
        answer = range(turn.answer.first, turn.answer.first + max(1, turn.answer.tokens))
        return Arrival(request_id, at_seconds, prompt, answer, live.script.name)


def enough(scripts: Iterator[Script], requests: int, sessions: int = 1) -> list[Script]:
    """At least so many scripts, until they hold so many requests; the last may bring a few more."""
    taken: list[Script] = []
    missing = requests
    while missing > 0 or len(taken) < sessions:
        script = next(scripts)
        taken.append(script)
        missing -= script.requests
    return taken


def clipped(spans: Sequence[Span], tokens: int) -> tuple[Span, ...]:
    """The first `tokens` tokens of the spans."""
    kept: list[Span] = []
    for span in spans:
        if tokens <= 0:
            break
        kept.append(Span(span.first, min(span.tokens, tokens)))
        tokens -= span.tokens
    return tuple(kept)
