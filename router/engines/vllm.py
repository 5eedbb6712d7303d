"""What a vLLM server answers over HTTP, read into our own types. No sockets: whoever asks brings the bytes.

Facts of vLLM 0.32; older releases lack some of it (no `/kv_event_sources`, fewer metrics), which reads as "did not
say", never as a fault. A body that is not what its path should give raises WireFault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from router.events.kinds import WireFault
from router.fleet.replica import EventAddress, Facts, ServedModel

T = TypeVar("T")

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Hosts under which a publisher is found only from its own machine, or not at all.
_LOCAL_HOSTS = frozenset({"*", "0.0.0.0", "::", "127.0.0.1", "localhost", "::1", ""})


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of `/metrics` what routing needs. Counters are summed over the server's engines; None: not there."""

    block_size_tokens: int | None = None
    cache_blocks: int | None = None
    prefix_caching: bool | None = None
    process_start_time: float | None = None  # Unix seconds
    running_requests: int | None = None
    waiting_requests: int | None = None
    prefix_queries_tokens: int | None = None
    prefix_hits_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class NoEvents:
    """Why a replica's events cannot be heard, in words for the operator."""

    reason: str


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _EventSource(msgspec.Struct):
    enable_kv_cache_events: bool = True
    publisher: str | None = None
    endpoint: str | None = None
    replay_endpoint: str | None = None
    topic: str = ""


class _Version(msgspec.Struct):
    version: str


class _Tokenized(msgspec.Struct):
    tokens: list[int]


def parse_models(body: bytes) -> tuple[ServedModel, ...]:
    """Answer of GET /v1/models, in its order."""
    models = _json(body, _Models, "/v1/models").data
    by_root: dict[str, str] = {}
    for model in models:
        if model.parent is None and model.root is not None:
            by_root[model.root] = min(model.id, by_root.get(model.root, model.id))
    bases = {m.id: by_root[m.root] if m.root is not None else m.id for m in models if m.parent is None}
    return tuple(
        ServedModel(
            name=model.id,
            base=bases.get(model.id, model.id) if model.parent is None else bases.get(model.parent, model.parent),
            adapter=None if model.parent is None else model.id,
            root=model.root,
            max_model_len=model.max_model_len,
        )
        for model in models
    )


def parse_metrics(text: str) -> Metrics:
    """Answer of GET /metrics, in Prometheus' text form. Lines it cannot read are passed over."""
    sums: dict[str, float] = {}
    cache: Mapping[str, str] = {}
    for line in text.splitlines():
        if line.startswith("vllm:cache_config_info{"):
            cache = cache or dict(_LABEL.findall(line))
        elif line.startswith(_WANTED):
            name = line.split("{", 1)[0].split(" ", 1)[0]
            if name in _WANTED:
                try:
                    sums[name] = sums.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
                except (IndexError, ValueError):
                    continue
    caching = cache.get("enable_prefix_caching")
    return Metrics(
        block_size_tokens=_count(cache.get("block_size")),
        cache_blocks=_count(cache.get("num_gpu_blocks")),
        prefix_caching=None if caching not in ("True", "False") else caching == "True",
        process_start_time=sums.get("process_start_time_seconds"),
        running_requests=_whole(sums.get("vllm:num_requests_running")),
        waiting_requests=_whole(sums.get("vllm:num_requests_waiting")),
        prefix_queries_tokens=_whole(sums.get("vllm:prefix_cache_queries_total")),
        prefix_hits_tokens=_whole(sums.get("vllm:prefix_cache_hits_total")),
    )


def parse_event_sources(body: bytes, replica_url: str, rank: int = 0) -> EventAddress | NoEvents:
    """Answer of GET /kv_event_sources: where this data-parallel rank publishes, as seen from here (R 6.4)."""
    sources = _json(body, dict[str, _EventSource], "/kv_event_sources")
    source = sources.get(str(rank))
    if source is None or not source.enable_kv_cache_events or source.endpoint is None:
        return NoEvents(
            "KV events are off: start vLLM with --kv-events-config '{\"enable_kv_cache_events\": true, ...}'."
        )
    if source.publisher not in (None, "zmq"):
        return NoEvents(f"KV events are published by {source.publisher!r}; only 'zmq' can be heard.")
    if not source.endpoint.startswith("tcp://"):
        return NoEvents(f"KV events are published at {source.endpoint}, which is reached on its own machine only.")
    # vLLM binds only an address with a wildcard; to any other its publisher connects, and so do we: nobody meets.
    if "*" not in source.endpoint and "::" not in source.endpoint:
        port = source.endpoint.rsplit(":", 1)[-1]
        return NoEvents(f"The KV event publisher connects to {source.endpoint}; let it bind: 'tcp://*:{port}'.")
    replay = source.replay_endpoint
    return EventAddress(
        endpoint=_reachable(source.endpoint, replica_url),
        replay=None if replay is None or not replay.startswith("tcp://") else _reachable(replay, replica_url),
        topic=source.topic,
    )


def parse_version(body: bytes) -> str:
    """Answer of GET /version."""
    return _json(body, _Version, "/version").version


def parse_tokenize(body: bytes) -> list[int]:
    """Answer of POST /tokenize: token ids."""
    return _json(body, _Tokenized, "/tokenize").tokens


@dataclass(frozen=True, slots=True)
class Vllm:
    """The dialect: which path tells what, and how it is read."""

    name: Literal["vllm"] = "vllm"
    health_path: str = "/health"
    models_path: str = "/v1/models"
    metrics_path: str = "/metrics"
    event_sources_path: str = "/kv_event_sources"
    version_path: str = "/version"
    tokenize_path: str = "/tokenize"

    @property
    def paths(self) -> tuple[str, ...]:
        """What a replica is asked to know what it is, each with GET."""
        return (self.models_path, self.metrics_path, self.event_sources_path, self.version_path)

    def learned(self, replica_url: str, answers: Mapping[str, bytes]) -> tuple[Facts, tuple[str, ...]]:
        """What the answers (by path; those not had are missing) come to together, and remarks for the operator."""
        remarks: list[str] = []

        def read(path: str, parse: Callable[[bytes], T]) -> T | None:
            try:
                return parse(answers[path]) if path in answers else None
            except WireFault as fault:
                remarks.append(fault.message)
                return None

        metrics = read(self.metrics_path, lambda body: parse_metrics(body.decode(errors="replace"))) or Metrics()
        events = read(self.event_sources_path, lambda body: parse_event_sources(body, replica_url))
        if isinstance(events, NoEvents):
            remarks.append(events.reason)
        facts = Facts(
            models=read(self.models_path, parse_models) or (),
            block_size_tokens=metrics.block_size_tokens,
            cache_blocks=metrics.cache_blocks,
            prefix_caching=metrics.prefix_caching,
            events=events if isinstance(events, EventAddress) else None,
            process_start_time=metrics.process_start_time,
            version=read(self.version_path, parse_version),
        )
        return facts, tuple(remarks)

    def tokens(self, body: bytes) -> list[int]:
        return parse_tokenize(body)


_WANTED = (
    "process_start_time_seconds",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
)


def _reachable(endpoint: str, replica_url: str) -> str:
    """The endpoint, under the replica's host where its own means the machine it runs on."""
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    if host.strip("[]") in _LOCAL_HOSTS:
        host = urlsplit(replica_url).hostname or host
        if ":" in host:
            host = f"[{host}]"
    return f"tcp://{host}:{port}"


def _json(body: bytes, shape: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise WireFault(f"vLLM: the answer of {path} cannot be read: {fault}") from fault


def _count(text: str | None) -> int | None:
    """A positive number in a label; vLLM writes what it does not know as "None"."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text) > 0 else None


def _whole(value: float | None) -> int | None:
    try:
        return None if value is None else int(value)
    except (ValueError, OverflowError):  # NaN and infinities are legal in the format
        return None
