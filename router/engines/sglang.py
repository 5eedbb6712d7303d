"""What an SGLang server answers over HTTP, read into our own types. No sockets: whoever asks brings the bytes.

Facts of SGLang 0.5.23, with what was seen in the sources of 0.5.5 to 0.5.22; what an older release lacks reads as "did
not say". A body that is not what its path should give raises WireFault. Four things to know:

* **Health must not make a token.** `/health` and `/health_generate` do on an idle server, and can even store a block.
  `/ready` (0.5.20 and later) only looks; releases without it are asked for `/v1/models`.
* **A model name is not checked**: whatever stands in `model` is served, with 200. So only what the server lists is
  offered. An adapter is chosen as `base:adapter`; its bare name, under which it is listed, would get the base model.
* `/v1/models` gives the served name for a root. Where the files are, `/server_info` tells.
* Chats can be tokenized by POST /tokenize (0.5.15 and later), which takes most fields of a chat and reads them as the
  chat endpoint does. Two it reads otherwise: `add_generation_prompt` and `add_special_tokens`, of which the chat
  endpoint knows nothing. Before 0.5.15 a chat is refused: its prompt is then counted as `tokenize_failed`.

A data-parallel rank is pinned by `X-Data-Parallel-Rank` on the OpenAI endpoints. Native `/generate` follows
`x-override-routed-dp-rank`, and only with SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES=1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from router.engines import sglang_wire
from router.engines.answers import NoEvents, endpoint_at, process_start_time, read_json
from router.engines.base import EngineLoad
from router.events.kinds import Wire, WireFault
from router.fleet.replica import EventAddress, Facts, ServedModel
from router.prompt.request import Endpoint, InferenceRequest

NAME: Literal["sglang"] = "sglang"

# The first release seen with GET /ready.
READY_SINCE = (0, 5, 20)
# The first release seen to tell an adapter with its blocks; before, they are told as the base model's.
ADAPTER_TOLD_SINCE = (0, 5, 22)

EVENTS_FLAG = (
    '--kv-events-config \'{"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"}\''
)

# The fields of a chat that decide on its prompt, and that POST /tokenize hands to the chat endpoint's own code.
_CHAT_FIELDS = (
    "messages", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "reasoning_effort",
    "continue_final_message", "chat_template_kwargs", "documents", "response_format",
)  # fmt: skip

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _KvEvents(msgspec.Struct):
    """The publisher as SGLang describes it (0.5.15 and later)."""

    publisher: str
    endpoint_host: str
    endpoint_port_base: int
    topic: str = ""
    block_size: int | None = None
    dp_size: int = 1
    replay_endpoint_port_base: int | None = None


class _KvEventsConfig(msgspec.Struct):
    """The same as it was given on the command line, a JSON text."""

    publisher: str = "null"
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    topic: str = ""
    bind: bool | None = None


class _ServerInfo(msgspec.Struct):
    version: str | None = None
    model_path: str | None = None
    tokenizer_path: str | None = None
    page_size: int | None = None
    max_total_num_tokens: int | None = None
    dp_size: int | None = None
    disable_radix_cache: bool | None = None
    enable_cache_report: bool | None = None
    enable_metrics: bool | None = None
    enable_lora: bool | None = None
    kv_events: _KvEvents | None = None
    kv_events_config: str | None = None


class _Load(msgspec.Struct):
    dp_rank: int = 0
    num_running_reqs: int | None = None
    num_waiting_reqs: int | None = None
    num_waiting_uncached_tokens: int | None = None
    token_usage: float | None = None


class _Loads(msgspec.Struct):
    loads: list[_Load]


class _Tokenized(msgspec.Struct):
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Sglang:
    """The dialect: which path tells what, and how it is read."""

    name: Literal["sglang"] = NAME
    health_path: str = "/ready"
    models_path: str = "/v1/models"
    server_info_path: str = "/server_info"
    metrics_path: str = "/metrics"
    load_path: str = "/v1/loads?include=core"
    tokenize_path: str = "/tokenize"
    wire: Wire = sglang_wire

    @property
    def paths(self) -> tuple[str, ...]:
        """What a replica is asked to know what it is, each with GET."""
        return (self.models_path, self.server_info_path, self.metrics_path)

    def recognises(self, answers: Mapping[str, bytes]) -> bool:
        """Whether it is SGLang, of a release with this health path."""
        try:
            models = self._models(answers)
            told = self._server_info(answers)
        except WireFault:
            return False
        ours = any(model.owned_by == NAME for model in models) or b"sglang:" in answers.get(self.metrics_path, b"")
        return ours and (_release(told.version) >= READY_SINCE) == (self.health_path == "/ready")

    def learned(self, replica_url: str, answers: Mapping[str, bytes], rank: int = 0) -> tuple[Facts, tuple[str, ...]]:
        """What the answers (by path; those not had are missing) come to together, and remarks for the operator."""
        remarks: list[str] = []
        told, models = _ServerInfo(), []
        try:
            told = self._server_info(answers)
        except WireFault as fault:
            remarks.append(fault.message)
        try:
            models = self._models(answers)
        except WireFault as fault:
            remarks.append(fault.message)
        events: EventAddress | NoEvents | None = None
        if self.server_info_path in answers and told.version is not None:
            events = _events(told, replica_url, rank)
            remarks += _remarks(told, any(model.parent for model in models))
        if isinstance(events, NoEvents):
            remarks.append(events.reason)
        page, capacity = told.page_size, told.max_total_num_tokens
        if told.kv_events is not None and told.kv_events.block_size:
            page = told.kv_events.block_size
        facts = Facts(
            models=_served(models, told),
            block_size_tokens=page if page and page > 0 else None,
            cache_blocks=capacity // page if capacity and page and page > 0 else None,
            prefix_caching=None if told.disable_radix_cache is None else not told.disable_radix_cache,
            events=events if isinstance(events, EventAddress) else None,
            process_start_time=process_start_time(answers.get(self.metrics_path, b"")),
            version=told.version,
            ranks=told.kv_events.dp_size if told.kv_events is not None else told.dp_size,
            engine=NAME,
            handshake=NAME,
        )
        return facts, tuple(remarks)

    def loads(self, answers: Mapping[str, bytes]) -> Mapping[int, EngineLoad]:
        """Answer of GET /v1/loads, by rank."""
        if self.load_path not in answers:
            return {}
        try:
            loads = read_json(answers[self.load_path], _Loads, f"SGLang: the answer of {self.load_path}").loads
        except WireFault:
            return {}
        return {
            load.dp_rank: EngineLoad(
                running_requests=load.num_running_reqs,
                waiting_requests=load.num_waiting_reqs,
                waiting_tokens=load.num_waiting_uncached_tokens,
                used_ratio=load.token_usage,
            )
            for load in loads
        }

    def tokenize_body(self, request: InferenceRequest, prompt: str | None = None) -> bytes:
        """The body of POST /tokenize; `prompt` is the one text to ask about, for anything but a chat."""
        if request.endpoint is not Endpoint.CHAT:
            return msgspec.json.encode({"model": request.model, "prompt": prompt})
        asked: dict[str, str | msgspec.Raw] = {"model": request.model}
        for name in _CHAT_FIELDS:
            if request.members.is_present(name):
                asked[name] = msgspec.Raw(request.members.raw(name) or b"")
        return msgspec.json.encode(asked)

    def tokens(self, body: bytes) -> list[int]:
        return read_json(body, _Tokenized, "SGLang: the answer of /tokenize").tokens

    def rank_headers(self, rank: int) -> tuple[tuple[bytes, bytes], ...]:
        value = b"%d" % rank
        return (b"x-data-parallel-rank", value), (b"x-override-routed-dp-rank", value)

    def _models(self, answers: Mapping[str, bytes]) -> list[_Model]:
        if self.models_path not in answers:
            return []
        return read_json(answers[self.models_path], _Models, f"SGLang: the answer of {self.models_path}").data

    def _server_info(self, answers: Mapping[str, bytes]) -> _ServerInfo:
        if self.server_info_path not in answers:
            return _ServerInfo()
        path = self.server_info_path
        return read_json(answers[path], _ServerInfo, f"SGLang: the answer of {path}")


# One of them recognises any SGLang.
RELEASES: tuple[Sglang, ...] = (Sglang(), Sglang(health_path="/v1/models"))


def _release(version: str | None) -> tuple[int, ...]:
    """The first three numbers of a version. One that cannot be read counts as new: a build of its own."""
    found = _VERSION.match(version or "")
    return tuple(map(int, found.groups())) if found else READY_SINCE


def _served(models: list[_Model], told: _ServerInfo) -> tuple[ServedModel, ...]:
    root = told.tokenizer_path or told.model_path
    return tuple(
        ServedModel(model.id, base=model.id, root=root or model.root, max_model_len=model.max_model_len)
        if model.parent is None
        else ServedModel(f"{model.parent}:{model.id}", base=model.parent, adapter=model.id, root=model.root)
        for model in models
    )


def _remarks(told: _ServerInfo, has_adapters: bool) -> list[str]:
    remarks = []
    if told.enable_cache_report is False:
        remarks.append("cached tokens are not reported: start SGLang with --enable-cache-report")
    if told.enable_metrics is False:
        remarks.append("its hit counters cannot be read: start SGLang with --enable-metrics")
    if (told.enable_lora or has_adapters) and _release(told.version) < ADAPTER_TOLD_SINCE:
        remarks.append("its KV events do not tell adapters apart: use SGLang 0.5.22 or later, or no adapters")
    return remarks


def _events(told: _ServerInfo, replica_url: str, rank: int) -> EventAddress | NoEvents:
    """Where this rank publishes, as seen from here (R 6.4): each rank's ports follow the first one's."""
    config = _KvEventsConfig()
    if told.kv_events_config:
        config = read_json(told.kv_events_config.encode(), _KvEventsConfig, "SGLang: kv_events_config")
    described = told.kv_events
    if described is None:
        if config.publisher != "zmq":
            return NoEvents(f"KV events are off: start SGLang with {EVENTS_FLAG}.")
        if not config.endpoint.startswith("tcp://"):
            return NoEvents(f"KV events are published at {config.endpoint}, which is reached on its own machine only.")
        host, port = _host_and_port(config.endpoint)
        replay = _host_and_port(config.replay_endpoint)[1] if config.replay_endpoint else None
        described = _KvEvents("zmq", host, port, config.topic, replay_endpoint_port_base=replay)
    if described.publisher != "zmq":
        return NoEvents(f"KV events are published by {described.publisher!r}; only 'zmq' can be heard.")
    host, port = described.endpoint_host, described.endpoint_port_base
    binds = "*" in host or "::" in host or host == "0.0.0.0"  # as the publisher decides it, unless it is told
    if not (binds if config.bind is None else config.bind):
        # To such an address the publisher connects, and so do we: nobody meets.
        return NoEvents(
            f'The KV event publisher connects to tcp://{host}:{port}; let it bind: "endpoint": "tcp://*:{port}", '
            'or add "bind": true.'
        )
    replay_port = described.replay_endpoint_port_base
    return EventAddress(
        endpoint=endpoint_at(host, port + rank, replica_url),
        replay=None if replay_port is None else endpoint_at(host, replay_port + rank, replica_url),
        topic=described.topic,
    )


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit():
        raise WireFault(f"SGLang: kv_events_config has an endpoint without a port: {endpoint}")
    return host, int(port)
