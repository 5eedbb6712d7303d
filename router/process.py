"""One process: it runs the house until it is told to stop, then lets open requests end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import IO

from router.app import running
from router.gateway.garbage import keep_out_of_the_way
from router.keeper import Say
from router.reload.source import ConfigSource


async def serve(source: ConfigSource, *, log: IO[bytes] | None, say: Say | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then drain. SIGHUP reads the configuration again. Raises ConfigError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    told: list[signal.Signals] = []

    def on_signal(which: signal.Signals) -> None:
        if told:  # a second one: somebody is in a hurry
            os._exit(130)
        told.append(which)
        stop.set()

    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, on_signal, which)
    tell = say or (lambda line: print(line, file=sys.stderr, flush=True))
    async with running(source, log=log, say=tell) as house:
        in_force, config = house.in_force, house.in_force.config
        loop.add_signal_handler(signal.SIGHUP, in_force.asked.set)
        shadow = "" if config.shadow_policy is None else f", shadow policy {config.shadow_policy}"
        tell(
            f"Homing listens on {house.url}; metrics and /homing/* on {house.admin_url}; policy {config.policy}{shadow}"
        )
        collector = asyncio.ensure_future(keep_out_of_the_way())
        await stop.wait()
        house.readiness.draining = True
        if told == [signal.SIGTERM]:
            # Whoever balances before us sees it at /ready and sends elsewhere; until then we go on serving.
            await asyncio.sleep(in_force.config.limits.notice_seconds)
        collector.cancel()
        tell("stopping: open requests may end, new ones are refused; a second signal ends at once")
