"""Carries out the troubles at their moments, and notes when each really began and was over. Edge."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from loadtest.chaos.child import Child
from loadtest.chaos.fleet import Fleet
from loadtest.chaos.judge import Window
from loadtest.chaos.schedule import Struck, Trouble
from loadtest.chaos.troubles import Act, Victim
from loadtest.chaos.wires import CARRIES, Carries, Wire


class Storm:
    """`windows` grows as troubles begin. A trouble waits until the one before has let go of its victim."""

    def __init__(self, fleet: Fleet, now: Callable[[], float], note: Callable[[Trouble], None]) -> None:
        self._fleet = fleet
        self._now = now
        self._note = note
        self._busy: dict[Struck, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.windows: list[Window] = []

    async def rage(self, troubles: Sequence[Trouble]) -> None:
        """Returns when all is whole again."""
        async with asyncio.TaskGroup() as tasks:
            for trouble in troubles:
                await asyncio.sleep(max(0.0, trouble.at_seconds - self._now()))
                tasks.create_task(self._strike(trouble))

    async def _strike(self, trouble: Trouble) -> None:
        async with AsyncExitStack() as held:
            for struck in sorted(trouble.struck(len(self._fleet.replicas)), key=repr):
                await held.enter_async_context(self._busy[struck])
            self._note(trouble)
            window = Window(trouble.sort, trouble.replica, trouble.router, self._now(), float("inf"))
            self.windows.append(window)
            await self._carry_out(trouble)
            self.windows.remove(window)
            self.windows.append(
                Window(trouble.sort, trouble.replica, trouble.router, window.begin_seconds, self._now())
            )

    async def _carry_out(self, trouble: Trouble) -> None:
        sort = trouble.sort
        if sort.victim in (Victim.WIRES, Victim.ALL_WIRES, Victim.REDIS_WIRE):
            wires = self._wires(trouble)
            for wire in wires:
                await wire.change(CARRIES[sort.act])
            await asyncio.sleep(trouble.seconds)
            for wire in wires:
                await wire.change(Carries.ALL)
            return
        if sort.act is Act.SWITCH:
            assert trouble.replica is not None
            await self._fleet.order(trouble.replica, sort.on)
            await asyncio.sleep(trouble.seconds)
            while sort.off and not await self._fleet.order(trouble.replica, sort.off):  # noqa: ASYNC110 - asked anew
                await asyncio.sleep(0.2)
            return
        child = self._child(trouble)
        if child is None:
            return
        if sort.act is Act.STUTTER:
            await child.stutter(trouble.seconds)
        elif sort.act is Act.PAUSE:
            child.pause()
            await asyncio.sleep(trouble.seconds)
            child.go_on()
        else:
            await (child.kill() if sort.act is Act.KILL else child.end())
            await asyncio.sleep(trouble.seconds)
            await child.start()

    def _wires(self, trouble: Trouble) -> list[Wire]:
        if trouble.sort.victim is Victim.ALL_WIRES:
            return self._fleet.all_wires()
        assert trouble.router is not None
        if trouble.sort.victim is Victim.REDIS_WIRE:
            return [self._fleet.redis_wires[trouble.router]]
        assert trouble.replica is not None
        return list(self._fleet.wires[trouble.router][trouble.replica])

    def _child(self, trouble: Trouble) -> Child | None:
        """None: there is no Redis here."""
        if trouble.sort.victim is Victim.REDIS:
            return self._fleet.redis
        if trouble.sort.victim is Victim.ROUTER:
            assert trouble.router is not None
            return self._fleet.routers[trouble.router].child
        assert trouble.replica is not None
        return self._fleet.replicas[trouble.replica]
