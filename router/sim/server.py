"""A fleet of simulated replicas in one process: `python -m router.sim.server --replicas 4 --port 9001`. Edge.

Replica i takes HTTP on port p+i, publishes KV events on p+i+1000 and answers replays on p+i+2000.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from router.clock import SystemClock
from router.errors import ConfigError
from router.sim.asgi import Scope
from router.sim.engine import EngineLimits
from router.sim.model import Model
from router.sim.publish import EventSettings
from router.sim.replica import Replica, ReplicaSettings
from router.sim.routes import Routes
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, Tokens
from router.sim.timing import LLAMA3_70B_H100_TP2, TIMINGS, Timing
from router.sim.transfers import Patience, Transfers
from router.sim.wires import Wires, WireTiming

PROG = "python -m router.sim.server"
EVENTS_PORT_OFFSET = 1000
REPLAY_PORT_OFFSET = 2000
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: what is unsent is dropped and the peer sees a reset


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """A fleet of equal replicas."""

    replicas: int = 4
    host: str = "127.0.0.1"
    port: int = 9001
    model_names: tuple[str, ...] = ("sim",)
    adapters: tuple[str, ...] = ()
    tokenizer: Path = SHIPPED_TOKENIZER
    limits: EngineLimits = field(default_factory=EngineLimits)
    timing: Timing = LLAMA3_70B_H100_TP2
    events: EventSettings = field(default_factory=EventSettings)
    replays: bool = True
    reports_cached: bool = True  # usage tells cached_tokens; vLLM needs --enable-prompt-tokens-details for it
    seed: int | None = None  # None: other block names in every process
    roles: tuple[str, ...] = ()  # prefill, decode or both, by replica; empty: both
    wires: WireTiming = WireTiming()  # KV from one to another
    patience: Patience = Patience()


class HttpListener:
    """Takes connections for one replica, and can drop them all at once."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._state = ServerState()
        self._state.default_headers = [(b"server", b"uvicorn")]
        self._config: uvicorn.Config | None = None
        self._server: asyncio.Server | None = None

    def serve(self, routes: Routes) -> None:
        """What to serve; call before `start`."""
        self._config = uvicorn.Config(routes, http="httptools", lifespan="off", log_config=None, access_log=False)
        self._config.load()

    async def start(self) -> None:
        config = self._config
        if config is None:
            raise RuntimeError("nothing to serve yet")
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: HttpToolsProtocol(config=config, server_state=self._state, app_state={}),
                self._host,
                self._port,
                backlog=2048,
            )
        except OSError as error:
            fault = f"Cannot listen on {self._host}:{self._port} ({error.strerror}). Choose another first port."
            raise ConfigError([fault]) from error

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._state.connections):
            self._reset(connection)

    def abort(self, scope: Scope) -> None:
        """Reset the connection a request came on."""
        for connection in list(self._state.connections):
            if isinstance(connection, HttpToolsProtocol) and connection.client == scope["client"]:
                self._reset(connection)

    def _reset(self, connection: object) -> None:
        transport = getattr(connection, "transport", None)
        if transport is None or transport.is_closing():
            return
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()


async def serve_replicas(config: FleetConfig, ready: asyncio.Event | None = None) -> None:
    """Serve until cancelled. `ready` is set once every port is open. Raises ConfigError for a port in use."""
    clock = SystemClock()
    model = _model(config)
    replicas = [Replica(_settings(config, i), clock) for i in range(config.replicas)]
    transfers = Transfers(replicas, Wires(config.wires), config.patience, clock)
    opened = [asyncio.Event() for _ in replicas]
    try:
        async with asyncio.TaskGroup() as tasks:
            for replica, is_open in zip(replicas, opened, strict=True):
                listener = HttpListener(config.host, replica.settings.port)
                reports = config.reports_cached
                listener.serve(
                    Routes(replica, replicas, model, clock, listener.abort, reports_cached=reports, transfers=transfers)
                )
                tasks.create_task(replica.run(listener, is_open))
            for is_open in opened:
                await is_open.wait()
            if ready is not None:
                ready.set()
    except ExceptionGroup as group:
        fault: ExceptionGroup[ConfigError] | ConfigError | None = group.subgroup(ConfigError)
        while isinstance(fault, ExceptionGroup):
            fault = fault.exceptions[0]
        raise fault or group from group


def _model(config: FleetConfig) -> Model:
    """The one model all replicas serve. Its root is the tokenizer's directory, as vLLM's is the model's."""
    limits = config.limits
    longest = min(limits.max_model_tokens, (limits.block_count - 1) * limits.block_size_tokens)
    template, tokens = ChatTemplate(config.tokenizer), Tokens(config.tokenizer)
    return Model.load(tokens, template, config.model_names, config.adapters, longest, str(config.tokenizer.resolve()))


def _settings(config: FleetConfig, index: int) -> ReplicaSettings:
    port = config.port + index
    return ReplicaSettings(
        host=config.host,
        port=port,
        events_port=port + EVENTS_PORT_OFFSET,
        replay_port=port + REPLAY_PORT_OFFSET if config.replays else 0,
        limits=config.limits,
        timing=config.timing,
        events=config.events,
        seed=config.seed,
        role=config.roles[index] if config.roles else "both",
    )


def roles_of(pools: str) -> tuple[str, ...]:
    """The roles in `2p2d`: so many for prefill, then so many for decode. Raises ConfigError."""
    found = re.fullmatch(r"([1-9][0-9]?)p([1-9][0-9]?)d", pools)
    if found is None:
        raise ConfigError([f"--pools is {pools!r}. Write NpMd: so many prefill and so many decode replicas, as 2p2d."])
    return ("prefill",) * int(found[1]) + ("decode",) * int(found[2])


def parse_arguments(arguments: Sequence[str] | None = None, prog: str = PROG) -> FleetConfig:
    limits, events = EngineLimits(), EventSettings()
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Simulated vLLM replicas in one process: OpenAI HTTP, KV events with replay, prefix caches that "
        "evict, timing from published fits. Replica i takes HTTP on PORT+i, publishes events on PORT+i+1000 and "
        "answers replays on PORT+i+2000. POST /sim/failures makes one fail.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--replicas", type=int, default=4, help="how many")
    parser.add_argument("--pools", metavar="NpMd", help="prefill and decode replicas, as 2p2d; instead of --replicas")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=9001, help="HTTP port of the first replica")
    parser.add_argument("--model", action="append", help="served model name, sim if none is given; again for aliases")
    parser.add_argument("--adapter", action="append", default=[], help="LoRA name; may be repeated")
    parser.add_argument("--tokenizer", type=Path, default=SHIPPED_TOKENIZER, help="directory with tokenizer.json")
    parser.add_argument("--blocks", type=int, default=limits.block_count, help="KV blocks of each replica")
    parser.add_argument("--block-size", type=int, default=limits.block_size_tokens, help="tokens")
    parser.add_argument("--max-sequences", type=int, default=limits.max_sequences, help="most requests in a batch")
    parser.add_argument("--step-tokens", type=int, default=limits.step_tokens, help="token budget of a step")
    parser.add_argument("--max-model-len", type=int, default=limits.max_model_tokens, help="tokens")
    parser.add_argument("--timing", choices=sorted(TIMINGS), default="llama3_70b_h100", help="which published fit")
    parser.add_argument("--speedup", type=float, default=1.0, help="so many times as fast")
    parser.add_argument("--topic", default=events.topic, help="of the event stream")
    parser.add_argument("--buffer-steps", type=int, default=events.buffer_steps, help="batches kept for replay")
    parser.add_argument("--no-replay", action="store_true", help="missed events cannot be asked for")
    parser.add_argument("--byte-hashes", action="store_true", help="block hashes as 32 bytes instead of integers")
    parser.add_argument("--no-cached-tokens", action="store_true", help="usage does not tell cached tokens")
    parser.add_argument("--seed", type=int, default=None, help="repeatable block names and failures")
    given = parser.parse_args(arguments)
    roles: tuple[str, ...] = ()
    if given.pools:
        try:
            roles = roles_of(given.pools)
        except ConfigError as fault:
            parser.error(fault.message)
        given.replicas = len(roles)
    last = given.port + given.replicas - 1 + REPLAY_PORT_OFFSET
    if not (given.port > 0 and given.replicas > 0 and last < 65536):
        parser.error(
            f"--port {given.port} --replicas {given.replicas} needs ports up to {last}; choose a lower first port"
        )
    return FleetConfig(
        replicas=given.replicas,
        host=given.host,
        port=given.port,
        model_names=tuple(given.model or FleetConfig().model_names),
        adapters=tuple(given.adapter),
        tokenizer=given.tokenizer,
        limits=EngineLimits(
            given.blocks, given.block_size, given.max_sequences, given.step_tokens, given.max_model_len
        ),
        timing=TIMINGS[given.timing].faster(given.speedup),
        events=EventSettings(given.topic, given.buffer_steps, names_as_bytes=given.byte_hashes),
        replays=not given.no_replay,
        reports_cached=not given.no_cached_tokens,
        seed=given.seed,
        roles=roles,
        wires=WireTiming().faster(given.speedup),
    )


async def _until_told(config: FleetConfig) -> None:
    """Serve until SIGINT or SIGTERM, and say when the ports are open."""
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve_replicas(config, ready))
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, serving.cancel)
        opening = tasks.create_task(ready.wait())
        await asyncio.wait((serving, opening), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        if ready.is_set():
            last = config.port + config.replicas - 1
            print(f"{config.replicas} simulated replicas on http://{config.host}:{config.port} to {last}", flush=True)


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> None:
    try:
        uvloop.run(_until_told(parse_arguments(arguments, prog)))
    except ExceptionGroup as group:
        faults = group.subgroup(ConfigError)
        if faults is None:
            raise
        raise SystemExit(str(faults.exceptions[0])) from group


if __name__ == "__main__":
    main()
