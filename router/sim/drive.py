"""The open-loop driver: sends a workload to an OpenAI endpoint, each turn at its moment, and notes what came back.

A turn is sent when its time has come, however many replies are owed. The one bound is `max_open`: past it a turn is
not sent but recorded as an error, for waiting would turn the run into closed-loop load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from router.sim.caller import Caller, CallFailed
from router.sim.record import Record
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

    async def take(turn: Turn, late_seconds: float) -> None:
        nonlocal opened
        try:
            record = await _send(caller, turn, model, late_seconds, timeout_seconds)
        finally:
            opened -= 1
        records.append(record)
        on_record(record)

    begin_seconds = loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            for turn in workload.turns:
                wait_seconds = begin_seconds + turn.at_seconds - loop.time()
                if wait_seconds > 0:
                    await asyncio.sleep(wait_seconds)
                late_seconds = loop.time() - begin_seconds - turn.at_seconds
                if opened < max_open:
                    opened += 1  # here, not in the task: a task begins only when this loop waits
                    group.create_task(take(turn, late_seconds))
                else:
                    record = _unsent(turn, late_seconds, f"not sent: {max_open} requests were open")
                    records.append(record)
                    on_record(record)
    finally:
        caller.close()
    return records


async def _send(caller: Caller, turn: Turn, model: str, late_seconds: float, timeout_seconds: float) -> Record:
    loop = asyncio.get_running_loop()
    watch = _Watch(loop.time)
    status: int | None = None
    replica: str | None = None
    error: str | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            reply = await caller.post(turn.path, turn.body(model), [(b"x-homing-explain", b"1")], watch.feed)
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


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None

    @property
    def carries_output(self) -> bool:
        return bool(self.content or self.reasoning or self.reasoning_content or self.tool_calls)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def carries_output(self) -> bool:
        return any(choice.text or (choice.delta is not None and choice.delta.carries_output) for choice in self.choices)


class _Watch:
    """Reads one reply as its bytes come: when output came, and what the usage says."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.begin_seconds = now()
        self._rest = b""
        self._outputs = 0
        self._first_at = self._last_at = 0.0
        self._ended = False
        self._error: str | None = None
        self.usage: _Usage | None = None

    @property
    def first_token_seconds(self) -> float | None:
        return self._first_at - self.begin_seconds if self._outputs else None

    @property
    def inter_token_seconds(self) -> float | None:
        return (self._last_at - self._first_at) / (self._outputs - 1) if self._outputs > 1 else None

    def feed(self, piece: bytes) -> None:
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        for event in events:
            self._take(event)

    def fault(self, status: int) -> str | None:
        """Why the reply is no good, after its end. None: it is."""
        if status != 200:
            return f"status {status}: {self._rest[:200].decode(errors='replace')}"
        return self._error or (None if self._ended else "the stream ended without [DONE]")

    def _take(self, event: bytes) -> None:
        if not event.startswith(b"data: "):
            return
        if event == b"data: [DONE]":
            self._ended = True
            return
        try:
            read = msgspec.json.decode(event[6:], type=_Event)
        except msgspec.DecodeError as fault:
            self._error = f"an event is not JSON: {fault}"
            return
        if read.error:
            self._error = f"error in the stream: {bytes(read.error)[:200].decode(errors='replace')}"
        if read.usage is not None:
            self.usage = read.usage
        if read.carries_output:
            self._last_at = self._now()
            if not self._outputs:
                self._first_at = self._last_at
            self._outputs += 1
