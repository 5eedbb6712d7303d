"""Reads the configuration again and puts it in force: when asked, and when its files have changed.

    read (off the event loop) -> every fault: refused -> a key that needs a restart: refused, named -> swap, or back

One at a time. Whatever happens, a whole configuration is in force: the new one or the one before.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable

from router.clock import Clock
from router.errors import ConfigError
from router.gateway.in_force import Configuration, InForce, Reloaded, ReloadOutcome
from router.metrics import Metrics
from router.reload.changes import changed, needing_restart
from router.reload.source import ConfigSource


class Reload:
    """One per process. `swap` puts a configuration in force, the new one or again the old one."""

    def __init__(
        self,
        source: ConfigSource,
        in_force: InForce,
        swap: Callable[[Configuration], None],
        *,
        metrics: Metrics,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._source = source
        self._in_force = in_force
        self._swap = swap
        self._counts = metrics.reloads
        self._clock = clock
        self._say = say
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """For ever: when it is asked for, and when the files have changed and stay as they are.

        What is being written, or swapped file by file, is not read half: two looks must see the same.
        """
        asked, seen = self._in_force.asked, self._source.read_at
        while True:
            every_seconds = self._in_force.config.reload.watch_seconds
            try:
                async with asyncio.timeout(every_seconds or None):
                    await asked.wait()
            except TimeoutError:
                before, seen = seen, await asyncio.to_thread(self._source.look)
                if seen == before and seen != self._source.read_at:
                    await self.now("its files have changed")
            else:
                asked.clear()
                await self.now("SIGHUP")

    async def now(self, why: str) -> Reloaded:
        """Raises nothing: what went wrong is in the answer, in the log and in the metrics."""
        async with self._one_at_a_time:
            try:
                configuration = await asyncio.to_thread(self._source.read)
            except ConfigError as fault:
                return self._ended(why, ReloadOutcome.REFUSED, faults=tuple(fault.faults))
            except Exception as bug:
                traceback.print_exc()
                return self._ended(why, ReloadOutcome.REFUSED, faults=(f"reading it failed: {bug!r}",))
            return self._take_up(why, configuration)

    def _take_up(self, why: str, configuration: Configuration) -> Reloaded:
        before = self._in_force.configuration
        keys = changed(before, configuration)
        if not keys:
            return self._ended(why, ReloadOutcome.UNCHANGED)
        bound = needing_restart(keys)
        if bound:
            return self._ended(why, ReloadOutcome.NEEDS_RESTART, changed=keys, needs_restart=bound)
        try:
            self._swap(configuration)
        except Exception as fault:
            if not isinstance(fault, ConfigError):
                traceback.print_exc()
            self._swap(before)
            told = fault.faults if isinstance(fault, ConfigError) else [f"putting it in force failed: {fault!r}"]
            return self._ended(why, ReloadOutcome.REFUSED, changed=keys, faults=tuple(told))
        return self._ended(why, ReloadOutcome.APPLIED, changed=keys)

    def _ended(
        self,
        why: str,
        outcome: ReloadOutcome,
        *,
        changed: tuple[str, ...] = (),
        needs_restart: tuple[str, ...] = (),
        faults: tuple[str, ...] = (),
    ) -> Reloaded:
        in_force = self._in_force
        ended = Reloaded(why, outcome, self._clock.wall(), in_force.hash, changed, needs_restart, faults)
        in_force.last = ended
        self._counts.add(outcome.value)
        self._say(told(ended))
        return ended


def told(ended: Reloaded) -> str:
    """What became of a reload, for people."""
    begin = f"configuration reloaded ({ended.why})"
    match ended.outcome:
        case ReloadOutcome.APPLIED:
            return f"{begin}: {ended.hash} in force; changed: {', '.join(ended.changed)}"
        case ReloadOutcome.UNCHANGED:
            return f"{begin}: nothing has changed; {ended.hash} in force"
        case ReloadOutcome.NEEDS_RESTART:
            return (
                f"{begin}: NOT in force, for {', '.join(ended.needs_restart)} needs a restart; nothing was changed, "
                f"{ended.hash} stays. Restart, or put back what needs it."
            )
        case ReloadOutcome.REFUSED:
            return "\n".join((f"{begin}: REFUSED, {ended.hash} stays in force:", *ended.faults))
