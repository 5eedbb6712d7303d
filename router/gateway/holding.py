"""Requests that wait at the gateway for a replica to have room (policy/hold.py), each until it is its turn.

Room appears where a first token came or a request ended: whoever tells the books so calls `nudge`. The line moves once
the caller's own stretch is over, once for all nudges of a turn of the loop; and every TICK_SECONDS while anybody waits,
since what others send to a replica, its recovery and the predicted end of a prefill nudge nobody.

A request that waits has a place at the door (admission.py) and no lease. It is charged in the same stretch in which it
is let go, so that the next in line sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.clock import Clock
from router.policy.hold import HoldRule, Line
from router.policy.split import Decision

TICK_SECONDS = 0.1

# Decides and, if there is room or it is forced to, charges: True. False: wait on. What it raises ends the wait.
Goes = Callable[[bool], bool]


@dataclass(slots=True, eq=False)
class _Held:
    goes: Goes
    gone: asyncio.Future[None]


class Holding:
    """The lines of all models. `rule` is the policy's; None: nobody is held."""

    def __init__(self, rule: HoldRule | None, clock: Clock) -> None:
        self.rule = rule
        self._clock = clock
        self._lines: dict[str, Line[_Held]] = {}  # by model; no empty ones
        self._tick: asyncio.TimerHandle | None = None
        self._soon = False

    @property
    def waiting(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def heed(self, rule: HoldRule | None) -> None:
        """Another rule from now on. Whoever waits keeps the turn it has, and goes as soon as the new rule lets it."""
        self.rule = rule
        if rule is not None:
            for line in self._lines.values():
                line.until_at_most(self._clock.now() + rule.most_seconds)
        self.nudge()

    def has_room(self, decision: Decision) -> bool:
        """Whether the request may go where it would go."""
        return self.rule is None or self.rule.has_room(decision)

    async def wait(self, model: str, decision: Decision | None, goes: Goes) -> None:
        """Until `goes` said yes. Raises what it raised. `decision` is the one of now; None: all are busy.

        Only where there is a rule."""
        assert self.rule is not None
        now = self._clock.now()
        loop = asyncio.get_running_loop()
        held = _Held(goes, loop.create_future())
        line = self._lines.setdefault(model, Line())
        turn_seconds = now if decision is None else self.rule.turn_seconds(decision, now)
        ticket = line.join(held, turn_seconds, now + self.rule.most_seconds)
        if self._tick is None:
            self._tick = loop.call_later(TICK_SECONDS, self._ticked)
        try:
            await held.gone
        finally:
            line.leave(ticket)

    def nudge(self) -> None:
        """A replica may have room. Costs one test while nobody waits."""
        if self._lines and not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _ticked(self) -> None:
        self._tick = None
        self._advance()
        if self._lines:
            self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)

    def _advance(self) -> None:
        self._soon = False
        now = self._clock.now()
        for line in self._lines.values():
            line.advance(now, self._goes)
        self._lines = {model: line for model, line in self._lines.items() if len(line)}

    @staticmethod
    def _goes(held: _Held, forced: bool) -> bool:
        if held.gone.done():  # hung up in this very turn of the loop, its task not yet resumed
            return True
        try:
            if not held.goes(forced):
                return False
        except Exception as fault:  # a bug too: it ends its own request, and the line moves on
            held.gone.set_exception(fault)
        else:
            held.gone.set_result(None)
        return True
