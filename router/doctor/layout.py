"""What an engine tells of its event publishers, its ranks and its P/D connector. Reading and judging only.

The dialect says where to listen; this says what was configured, so that a remedy can name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.doctor.flags import flags_of

SOURCES_PATH = "/kv_event_sources"  # vLLM
SERVER_PATH = "/server_info"  # SGLang
METRICS_PATH = "/metrics"
PATHS = (SOURCES_PATH, SERVER_PATH, METRICS_PATH)


@dataclass(frozen=True, slots=True)
class Published:
    """One data-parallel rank's publisher as the engine tells it. `binds`: None where that is not told."""

    rank: int = 0
    publisher: str | None = "zmq"
    endpoint: str = ""
    replay: str | None = None
    topic: str = ""
    buffer_steps: int | None = None
    binds: bool | None = None


class _Source(msgspec.Struct):
    enable_kv_cache_events: bool = True
    publisher: str | None = None
    endpoint: str | None = None
    replay_endpoint: str | None = None
    buffer_steps: int | None = None
    topic: str = ""


class _KvEvents(msgspec.Struct):
    publisher: str | None = None
    endpoint_host: str = "*"
    endpoint_port_base: int | None = None
    replay_endpoint_port_base: int | None = None
    topic: str = ""
    dp_size: int = 1


class _KvEventsConfig(msgspec.Struct):
    """The same as it was given on the command line; releases before 0.5.15 tell only this."""

    publisher: str = "null"
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    topic: str = ""
    buffer_steps: int | None = None
    bind: bool | None = None


class _Server(msgspec.Struct):
    kv_events: _KvEvents | None = None
    kv_events_config: str | None = None
    dp_size: int | None = 1
    disaggregation_mode: str | None = None
    disaggregation_bootstrap_port: int | None = None


def published(answers: Mapping[str, bytes]) -> tuple[Published, ...] | None:
    """Every rank's publisher, () where events are off, None where the engine does not tell."""
    sources = _read(answers.get(SOURCES_PATH), dict[str, _Source])
    if sources is not None:
        ranks = [_vllm(int(rank), source) for rank, source in sources.items() if rank.isdecimal()]
        return tuple(sorted((one for one in ranks if one is not None), key=lambda one: one.rank))
    server = _read(answers.get(SERVER_PATH), _Server)
    if server is None:
        return None
    given = _read((server.kv_events_config or "{}").encode(), _KvEventsConfig) or _KvEventsConfig()
    told = server.kv_events
    if told is None and given.publisher == "null":
        return ()
    return tuple(_sglang(rank, told, given) for rank in range(max(server.dp_size or 1, 1)))


def _vllm(rank: int, source: _Source) -> Published | None:
    endpoint = source.endpoint
    if endpoint is None or not source.enable_kv_cache_events:
        return None
    # vLLM binds these and connects to all others.
    binds = "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))
    return Published(rank, source.publisher, endpoint, source.replay_endpoint, source.topic, source.buffer_steps, binds)


def _sglang(rank: int, told: _KvEvents | None, given: _KvEventsConfig) -> Published:
    endpoint, replay, topic = given.endpoint, given.replay_endpoint, given.topic
    publisher: str | None = given.publisher
    if told is not None:
        host, port, again = told.endpoint_host, told.endpoint_port_base, told.replay_endpoint_port_base
        endpoint = f"tcp://{host}:{port}" if port is not None else endpoint
        replay = None if again is None else f"tcp://{host}:{again}"
        topic, publisher = told.topic, told.publisher
    binds = "*" in endpoint or "::" in endpoint or "0.0.0.0" in endpoint if given.bind is None else given.bind
    return Published(
        rank, publisher, moved(endpoint, rank), replay and moved(replay, rank), topic, given.buffer_steps, binds
    )


def moved(endpoint: str, rank: int) -> str:
    """Where a rank publishes, given rank 0's endpoint: as many ports higher."""
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + rank}" if port.isdecimal() else endpoint


def judge_ranks(count: int | None, layout: Sequence[Published] | None) -> Finding:
    """`count`: data-parallel ranks behind the address, each of which Homing makes a replica; None: not told."""
    if count is None:
        return skipped(Check.RANKS, "the engine does not tell its data-parallel layout")
    if count == 1:
        return passed(Check.RANKS, "one rank")
    silent = sorted(set(range(count)) - {one.rank for one in layout or ()})
    if layout and silent:
        return failed(
            Check.RANKS,
            f"{count} data-parallel ranks, of which {', '.join(map(str, silent))} publish no events",
            "Start every data-parallel rank with the same --kv-events-config: each adds its number to the ports.",
        )
    return passed(Check.RANKS, f"{count} data-parallel ranks, each a replica of its own to Homing, named ID#RANK")


def judge_disaggregation(engine: str, answers: Mapping[str, bytes]) -> Finding:
    """What can be known over HTTP of a P/D connector."""
    server = _read(answers.get(SERVER_PATH), _Server)
    if server is not None and server.disaggregation_mode in ("prefill", "decode"):
        return warned(
            Check.DISAGGREGATION,
            f"runs as a {server.disaggregation_mode} half (bootstrap port {server.disaggregation_bootstrap_port}): "
            "it does not answer whole requests",
            f"Start it without {flags_of(engine).disaggregation}, or keep it out of replicas.",
        )
    metrics = answers.get(METRICS_PATH, b"").decode(errors="replace")
    if any(line.startswith("vllm:nixl_") for line in metrics.splitlines()):
        return passed(Check.DISAGGREGATION, "NIXL connector (its metrics are there)")
    if _value(metrics, "vllm:external_prefix_cache_queries_total") > 0:
        return passed(Check.DISAGGREGATION, "a KV connector that looks for blocks outside (which one is not told)")
    if server is not None or metrics:
        return passed(Check.DISAGGREGATION, "none seen: whole requests")
    return skipped(Check.DISAGGREGATION, "neither /metrics nor /server_info answers")


def is_half(answers: Mapping[str, bytes]) -> bool:
    """Whether it serves only one half of a request, so that a probe sent to it would hang."""
    server = _read(answers.get(SERVER_PATH), _Server)
    return server is not None and server.disaggregation_mode in ("prefill", "decode")


def _value(metrics: str, name: str) -> float:
    total = 0.0
    for line in metrics.splitlines():
        if line.startswith((name + "{", name + " ")):
            try:
                total += float(line.rsplit(" ", 1)[1])
            except ValueError:
                continue
    return total


def _read(body: bytes | None, shape: Any) -> Any:  # Any: a type for msgspec, and its value
    if body is None:
        return None
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, RecursionError):
        return None
