"""What a vLLM server answers over HTTP, read into our own types. No sockets: whoever asks brings the bytes.

Facts of vLLM 0.32; older releases lack some of it (no `/kv_event_sources`, fewer metrics), which reads as "did not
say", never as a fault. A body that is not what its path should give raises WireFault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import msgspec

from router.engines import vllm_wire
from router.engines.answers import LABEL, NoEvents, endpoint_at, read_json, samples
from router.engines.base import EngineLoad
from router.events.kinds import Wire, WireFault
from router.fleet.replica import EventAddress, Facts, ServedModel
from router.prompt.ask import tokenize_body
from router.prompt.request import InferenceRequest

T = TypeVar("T")

NAME: Literal["vllm"] = "vllm"


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


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str | None = None


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
    models = _models(body)
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


def parse_metrics(text: str, rank: int = 0) -> Metrics:
    """Answer of GET /metrics, in Prometheus' text form; the cache is that of one data-parallel rank."""
    sums: dict[str, float] = {}
    caches: dict[int, dict[str, str]] = {}
    for name, labels, value in samples(text, _WANTED):
        if name == _CACHE:
            told = dict(LABEL.findall(labels))
            caches.setdefault(_engine(told), told)
        else:
            sums[name] = sums.get(name, 0.0) + value
    cache = caches.get(_local(caches, rank), {})
    caching = cache.get("enable_prefix_caching")
    return Metrics(
        block_size_tokens=_count(cache.get("block_size")),
        cache_blocks=_count(cache.get("num_gpu_blocks")),
        prefix_caching=None if caching not in ("True", "False") else caching == "True",
        process_start_time=sums.get("process_start_time_seconds"),
        running_requests=_whole(sums.get(_RUNNING)),
        waiting_requests=_whole(sums.get(_WAITING)),
        prefix_queries_tokens=_whole(sums.get(_QUERIES)),
        prefix_hits_tokens=_whole(sums.get(_HITS)),
    )


def parse_loads(text: str) -> dict[int, EngineLoad]:
    """Of GET /metrics the load, by data-parallel rank."""
    loads: dict[int, EngineLoad] = {}
    for name, labels, value in samples(text, _LOADS):
        engine, count = _engine(dict(LABEL.findall(labels))), _whole(value)
        if count is None:
            continue
        load = loads.get(engine, EngineLoad())
        if name == _RUNNING:
            load = replace(load, running_requests=(load.running_requests or 0) + count)
        elif name == _WAITING:
            load = replace(load, waiting_requests=(load.waiting_requests or 0) + count)
        elif name == _QUERIES:
            load = replace(load, prefix_queries_tokens=(load.prefix_queries_tokens or 0) + count)
        elif name == _HITS:
            load = replace(load, prefix_hits_tokens=(load.prefix_hits_tokens or 0) + count)
        elif name == _MOVED:
            load = replace(load, transfer_bytes=(load.transfer_bytes or 0) + count)
        elif name == _MOVING:
            load = replace(load, transfer_seconds=(load.transfer_seconds or 0.0) + value)
        else:
            load = replace(load, used_ratio=value)
        loads[engine] = load
    return {rank: loads[engine] for rank, engine in enumerate(sorted(loads))}


def parse_event_sources(body: bytes, replica_url: str, rank: int = 0) -> EventAddress | NoEvents:
    """Answer of GET /kv_event_sources: where this data-parallel rank publishes, as seen from here (R 6.4)."""
    sources = _event_sources(body)
    source = sources.get(_local(sources, rank))
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
        endpoint=_seen_at(source.endpoint, replica_url),
        replay=None if replay is None or not replay.startswith("tcp://") else _seen_at(replay, replica_url),
        topic=source.topic,
    )


def parse_version(body: bytes) -> str:
    """Answer of GET /version."""
    return read_json(body, _Version, "vLLM: the answer of /version").version


def parse_tokenize(body: bytes) -> list[int]:
    """Answer of POST /tokenize: token ids."""
    return read_json(body, _Tokenized, "vLLM: the answer of /tokenize").tokens


@dataclass(frozen=True, slots=True)
class Vllm:
    """The dialect: which path tells what, and how it is read."""

    name: Literal["vllm"] = NAME
    health_path: str = "/health"
    models_path: str = "/v1/models"
    metrics_path: str = "/metrics"
    event_sources_path: str = "/kv_event_sources"
    version_path: str = "/version"
    tokenize_path: str = "/tokenize"
    wire: Wire = vllm_wire

    @property
    def paths(self) -> tuple[str, ...]:
        """What a replica is asked to know what it is, each with GET."""
        return (self.models_path, self.metrics_path, self.event_sources_path, self.version_path)

    @property
    def load_path(self) -> str:
        return self.metrics_path

    def recognises(self, answers: Mapping[str, bytes]) -> bool:
        """Whether it is vLLM, or speaks as vLLM does: by its metrics, the path only it has, or who owns the models."""
        if b"vllm:" in answers.get(self.metrics_path, b"") or self.event_sources_path in answers:
            return True
        try:
            models = _models(answers.get(self.models_path, b""))
        except WireFault:
            return False
        return any(model.owned_by == NAME for model in models)

    def learned(self, replica_url: str, answers: Mapping[str, bytes], rank: int = 0) -> tuple[Facts, tuple[str, ...]]:
        """What the answers (by path; those not had are missing) come to together, and remarks for the operator."""
        remarks: list[str] = []

        def read(path: str, parse: Callable[[bytes], T]) -> T | None:
            try:
                return parse(answers[path]) if path in answers else None
            except WireFault as fault:
                remarks.append(fault.message)
                return None

        metrics = read(self.metrics_path, lambda body: parse_metrics(body.decode(errors="replace"), rank)) or Metrics()
        events = read(self.event_sources_path, lambda body: parse_event_sources(body, replica_url, rank))
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
            ranks=self._ranks(answers),
            engine=NAME,
            handshake="nixl",  # Mooncake does not show: it has to be configured
        )
        return facts, tuple(remarks)

    def loads(self, answers: Mapping[str, bytes]) -> Mapping[int, EngineLoad]:
        return parse_loads(answers.get(self.metrics_path, b"").decode(errors="replace"))

    def tokenize_body(self, request: InferenceRequest, prompt: str | None = None) -> bytes:
        return tokenize_body(request, prompt)

    def tokens(self, body: bytes) -> list[int]:
        return parse_tokenize(body)

    def rank_headers(self, rank: int) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"x-data-parallel-rank", b"%d" % rank),)

    def _ranks(self, answers: Mapping[str, bytes]) -> int | None:
        """One publisher a rank where events are on; else each rank shows in the metrics."""
        try:
            sources = _event_sources(answers.get(self.event_sources_path, b"{}"))
        except WireFault:
            sources = {}
        return len(sources or self.loads(answers)) or None


_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_CACHE = "vllm:cache_config_info"
_QUERIES = "vllm:prefix_cache_queries_total"
_HITS = "vllm:prefix_cache_hits_total"
_MOVED = "vllm:nixl_bytes_transferred_sum"
_MOVING = "vllm:nixl_xfer_time_seconds_sum"
_LOADS = frozenset({_RUNNING, _WAITING, _QUERIES, _HITS, _MOVED, _MOVING, "vllm:kv_cache_usage_perc"})
_WANTED = frozenset({"process_start_time_seconds", _RUNNING, _WAITING, _QUERIES, _HITS, _CACHE})


def _models(body: bytes) -> list[_Model]:
    return read_json(body, _Models, "vLLM: the answer of /v1/models").data


def _event_sources(body: bytes) -> dict[int, _EventSource]:
    return read_json(body, dict[int, _EventSource], "vLLM: the answer of /kv_event_sources")


def _engine(labels: Mapping[str, str]) -> int:
    number = labels.get("engine", "")
    return int(number) if number.isascii() and number.isdigit() else 0


def _local(by_rank: Mapping[int, object], rank: int) -> int:
    """The number vLLM gives to the rank which is number `rank` behind this address.

    The two differ where the ranks of one deployment have servers of their own (--data-parallel-external-lb and
    --data-parallel-hybrid-lb): numbers run through the deployment, and the header counts from each server's first.
    """
    numbers = sorted(by_rank)
    return numbers[rank] if rank < len(numbers) else rank


def _seen_at(endpoint: str, replica_url: str) -> str:
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return endpoint_at(host, port, replica_url)


def _count(text: str | None) -> int | None:
    """A positive number in a label; vLLM writes what it does not know as "None"."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text) > 0 else None


def _whole(value: float | None) -> int | None:
    try:
        return None if value is None else int(value)
    except (ValueError, OverflowError):  # NaN and infinities are legal in the format
        return None
