"""The open-loop driver: sends a workload to an OpenAI endpoint, each turn at its moment, and notes what came back.

A turn is sent when its time has come, however many replies are owed. The one bound is `max_open`: past it a turn is
not sent but recorded as an error, for waiting would turn the run into closed-loop load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.sim.caller import Caller, CallFailed
from router.sim.record import Record
from router.sim.watch import Watch
from router.sim.workload import Turn, Workload

MAX_OPEN = 2_000
TIMEOUT_SECONDS = 120.0


async def drive(
    workload: Workload,
    base_url: str,
    *,
    model: str,
    on_record: Callable[[Record], None] = lambda _: None,
    max_open: int = MAX_OPEN,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Record]:
    """Run the whole workload and wait for its last reply. Records come in order of completion. A turn never raises."""
    caller = Caller(base_url)
    records: list[Record] = []
    loop = asyncio.get_running_loop()
    opened = 0

    async def take(turn: Turn, body: bytes, late_seconds: float) -> None:
        nonlocal opened
        try:
            record = await _send(caller, turn, body, late_seconds, timeout_seconds)
        finally:
            opened -= 1
        records.append(record)
        on_record(record)

    begin_seconds = loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            for turn in workload.turns:
                body = turn.body(model)  # before its moment: 100K tokens take some milliseconds to write down
                wait_seconds = begin_seconds + turn.at_seconds - loop.time()
                if wait_seconds > 0:
                    await asyncio.sleep(wait_seconds)
                late_seconds = loop.time() - begin_seconds - turn.at_seconds
                if opened < max_open:
                    opened += 1  # here, not in the task: a task begins only when this loop waits
                    group.create_task(take(turn, body, late_seconds))
                else:
                    record = _unsent(turn, late_seconds, f"not sent: {max_open} requests were open")
                    records.append(record)
                    on_record(record)
    finally:
        caller.close()
    return records


async def _send(caller: Caller, turn: Turn, body: bytes, late_seconds: float, timeout_seconds: float) -> Record:
    loop = asyncio.get_running_loop()
    watch = Watch(loop.time)
    status: int | None = None
    replica: str | None = None
    error: str | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            reply = await caller.post(turn.path, body, [(b"x-homing-explain", b"1")], watch.feed)
        status = reply.status
        replica = reply.headers.get(b"x-homing-replica", b"").decode() or None
        error = watch.fault(status)
    except CallFailed as fault:
        error = str(fault)
    except TimeoutError:
        error = f"no end within {timeout_seconds:g} s"
    usage = watch.usage
    return Record(
        conversation=turn.conversation,
        turn=turn.number,
        at_seconds=turn.at_seconds,
        late_seconds=late_seconds,
        status=status,
        error=error,
        first_token_seconds=watch.first_token_seconds,
        total_seconds=loop.time() - watch.begin_seconds,
        inter_token_seconds=watch.inter_token_seconds,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        replica=replica,
    )


def _unsent(turn: Turn, late_seconds: float, error: str) -> Record:
    return Record(
        conversation=turn.conversation,
        turn=turn.number,
        at_seconds=turn.at_seconds,
        late_seconds=late_seconds,
        status=None,
        error=error,
        first_token_seconds=None,
        total_seconds=0.0,
        inter_token_seconds=None,
        prompt_tokens=None,
        cached_tokens=None,
        completion_tokens=None,
        replica=None,
    )
