"""Configuration: the one place that reads it. Frozen, each field with its unit, default and reason.

From a YAML file, from command-line flags, or both (flags win). Every fault of a file is told at once, each with the
file, the key and what to do. Nobody else reads files of settings or the environment.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from router.addresses import HttpUrl, RedisUrl, ZmqEndpoint
from router.errors import ConfigError


class UsageProbe(StrEnum):
    """Whether Homing asks for usage on streams whose client did not (R 1.2)."""

    ALWAYS = "always"
    SAMPLED = "sampled"
    NEVER = "never"


class TokenSetting(StrEnum):
    """Where token ids come from (R 3.1). AUTO: local when a tokenizer is found and proven, else the engine."""

    AUTO = "auto"
    ENGINE = "engine"
    NONE = "none"


class Engine(StrEnum):
    """Which engine's language a replica speaks. AUTO: recognised from what it answers."""

    AUTO = "auto"
    VLLM = "vllm"
    SGLANG = "sglang"


class ReplicaRole(StrEnum):
    """What a replica computes: prompts for others, answers to prompts computed elsewhere, or whatever it is sent."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class KvHandshake(StrEnum):
    """How a replica moves KV. AUTO: as its engine does by default, if it has a role; else not at all."""

    AUTO = "auto"
    NIXL = "nixl"
    MOONCAKE = "mooncake"
    SGLANG = "sglang"


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    host: str = "0.0.0.0"
    port: Port = 8080
    admin_host: str = "127.0.0.1"  # metrics and receipts show traffic: loopback unless someone opens it (R 6.2)
    admin_port: Port = 8081


class ReplicaSettings(_Section):
    url: HttpUrl
    id: str | None = None  # default HOST:PORT; with data-parallel ranks each is ID#RANK
    engine: Engine = Engine.AUTO
    events: ZmqEndpoint | None = None  # default: ask the replica; rank r publishes r ports higher
    replay: ZmqEndpoint | None = None
    topic: str = ""
    role: ReplicaRole = ReplicaRole.BOTH
    handshake: KvHandshake = KvHandshake.AUTO
    bootstrap_port: Annotated[int, Field(gt=0, le=65535)] | None = None  # default: the handshake's own, 8998
    labels: dict[str, str] = {}  # where it stands, for policies that price distance: zone, rack, node

    @property
    def name(self) -> str:
        return self.id or urlsplit(self.url).netloc

    @model_validator(mode="after")
    def _replay_needs_events(self) -> ReplicaSettings:
        if self.replay and not self.events:
            raise ValueError("replay is set but events is not; give both, or neither to let the replica tell them")
        return self


class ListedReplica(ReplicaSettings):
    """An entry of a watched file of replicas."""

    draining: bool = False  # sent nothing new; what is under way ends


class KubernetesSettings(_Section):
    """Replicas that are pods. Needs `pip install homing[kubernetes]` and rights to list and watch (k8s/rbac/rbac.yaml).

    Annotations of a pod tell what the engine does not: homing/port, homing/role, homing/engine, homing/event-port,
    homing/replay-port, homing/event-topic, homing/ranks.
    """

    selector: str | None = None  # of pods, as kubectl takes it: app=vllm,tier in (gpu,cpu)
    service: str | None = None  # instead: the endpoints of this Service, whatever pods they are
    namespace: str | None = None  # default: Homing's own in a pod, else the kubeconfig context's
    port: int | str | None = None  # number or name; default: the annotation, else the first port there is
    scheme: Literal["http", "https"] = "http"
    kubeconfig: Path | None = None  # default: the pod's service account, else $KUBECONFIG or ~/.kube/config
    context: str | None = None  # of the kubeconfig; default: its current one

    @model_validator(mode="after")
    def _one_of_both(self) -> KubernetesSettings:
        if (self.selector is None) == (self.service is None):
            raise ValueError("name the pods by selector (app=vllm) or by service (vllm), one of the two")
        if self.selector is not None and not self.selector.strip():
            raise ValueError("selector is empty, which would be every pod; write app=vllm or the like")
        return self


class Discovery(_Section):
    """Where replicas are found that come and go, beside `replicas`, which stay."""

    file: Path | None = None  # a YAML list of what stands under `replicas`; looked at once a second
    kubernetes: KubernetesSettings | None = None


class ModelSettings(_Section):
    name: str
    tokenizer: str | None = None  # DIR, hub id or auto; default: tokens.tokenizer


class Tokens(_Section):
    tokenizer: str = "auto"
    source: TokenSetting = TokenSetting.AUTO
    hash_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0  # one value per fleet, so that routers agree (R 6.5)
    cache_megabytes: Annotated[int, Field(gt=0)] = 256  # segments and block hashes already computed


class Limits(_Section):
    body_megabytes: Seconds = 64.0  # 1M tokens of chat is about 5 MB; images come as base64
    max_in_flight: Annotated[int, Field(gt=0)] = 10_000
    max_in_flight_per_replica: Annotated[int, Field(gt=0)] = 1_024  # engines queue well; this guards against the absurd
    queue_length: Annotated[int, Field(ge=0)] = 1_000
    queue_wait_seconds: Seconds = 30.0
    # Over how long a newcomer's share of the load grows to that of the others: router/fleet/newcomers.py. 0: at once.
    slow_start_seconds: Annotated[float, Field(ge=0)] = 30.0
    # After SIGTERM, how long /ready says no while requests are still taken: a load balancer's probe interval and more.
    notice_seconds: Annotated[float, Field(ge=0)] = 5.0
    drain_seconds: Seconds = 30.0  # how long a stop waits for open streams


class TimeoutSettings(_Section):
    """R 2.2. A long prefill is legal: a hung replica is found by its probe, not by first_byte_seconds."""

    connect_seconds: Seconds = 2.0
    first_byte_seconds: Seconds = 600.0
    idle_seconds: Seconds = 120.0


class ProbeSettings(_Section):
    interval_seconds: Seconds = 2.0
    timeout_seconds: Seconds = 2.0


class ReadinessSettings(_Section):
    """When /ready says yes after a start (R 2.5)."""

    # Of each replica, the share of what it lately stored whose place in the index is known. 0: not waited for. More
    # makes sense where other routers keep the replicas busy: from their traffic a newcomer learns what is cached.
    coverage: Annotated[float, Field(ge=0, le=1)] = 0.0
    # Then traffic may come, whatever is known: a router that routes by load is better than none.
    wait_seconds: Annotated[float, Field(ge=0)] = 10.0


class SessionSettings(_Section):
    headers: tuple[str, ...] = (
        "x-session-affinity",
        "x-session-id",
        "session-id",
        "x-claude-code-session-id",
        "x-dynamo-session-id",
    )
    idle_seconds: Seconds = 3600.0
    max_sessions: Annotated[int, Field(gt=0)] = 100_000


class Auth(_Section):
    api_keys_file: Path | None = None  # one key a line; absent: the endpoint is open
    replica_api_key_env: str | None = None  # the variable that holds the key replicas want
    # The variable that holds the token for changing the fleet at the admin port. Absent: nobody may.
    admin_token_env: str | None = None

    def api_keys(self) -> frozenset[str] | None:
        """The keys clients may use; None when the endpoint is open."""
        if self.api_keys_file is None:
            return None
        lines = self.api_keys_file.read_text().splitlines()
        return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))

    def replica_api_key(self) -> str | None:
        """The key sent to replicas, from the environment."""
        return os.environ.get(self.replica_api_key_env) if self.replica_api_key_env else None

    def admin_token(self) -> str | None:
        """The token that changes the fleet, from the environment."""
        return os.environ.get(self.admin_token_env) if self.admin_token_env else None


class SharedSettings(_Section):
    """Routers before one fleet count each other's load, through Redis or Valkey. Needs `pip install homing[redis]`.

    They must call a replica by the same id, which they do when all read the same `replicas` or discover alike.
    """

    redis_url: RedisUrl | None = None  # absent: this router works alone
    password_env: str | None = None  # the variable that holds the Redis password
    name: Annotated[str, Field(min_length=1)] = "homing"  # of the fleet, where one Redis serves several
    router: Annotated[str, Field(min_length=1)] | None = None  # what this router is called; default HOST:PORT

    def password(self) -> str | None:
        return os.environ.get(self.password_env) if self.password_env else None


class ReloadSettings(_Section):
    """This file, the policies it names and the keys of clients are read again on SIGHUP, on POST /homing/reload, and
    when they change: `homing reload --help`."""

    # How often they are looked at; what has changed is read once it has stood for two looks. 0: not looked at.
    watch_seconds: Annotated[float, Field(ge=0)] = 1.0


class IndexSettings(_Section):
    budget_megabytes: Annotated[int, Field(gt=0)] = 4096  # about 14 million (block, replica) pairs
    guessed_cache_blocks: Annotated[int, Field(gt=0)] = (
        16_384  # of a replica without events that does not tell its size
    )


class Config(_Section):
    listen: Listen = Listen()
    replicas: tuple[ReplicaSettings, ...] = ()
    discovery: Discovery = Discovery()
    models: tuple[ModelSettings, ...] = ()
    policy: str = "cache_aware"
    shadow_policy: str | None = None  # scores every request beside it and never acts
    tokens: Tokens = Tokens()
    limits: Limits = Limits()
    timeouts: TimeoutSettings = TimeoutSettings()
    probe: ProbeSettings = ProbeSettings()
    readiness: ReadinessSettings = ReadinessSettings()
    sessions: SessionSettings = SessionSettings()
    auth: Auth = Auth()
    index: IndexSettings = IndexSettings()
    shared: SharedSettings = SharedSettings()
    reload: ReloadSettings = ReloadSettings()
    usage_probe: UsageProbe = UsageProbe.ALWAYS
    seed: int | None = None  # of every random choice: a number gives the same decisions again

    @model_validator(mode="after")
    def _whole(self) -> Config:
        found = self.discovery.file or self.discovery.kubernetes or self.auth.admin_token_env
        if not self.replicas and not found:
            raise ValueError(
                "replicas is empty; list at least one `- url: http://HOST:PORT`, or pass --replica, "
                "or say under discovery where they are found"
            )
        twice = _twice(self.replicas)
        if twice:
            raise ValueError(f"replicas named twice: {', '.join(twice)}; give each its own id")
        return self


def _twice(replicas: Sequence[ReplicaSettings]) -> list[str]:
    names = [replica.name for replica in replicas]
    return sorted({name for name in names if names.count(name) > 1})


def read(path: Path | None, overrides: Mapping[str, Any]) -> Config:  # Any: values are checked by the model below
    """The configuration of `path` (None: defaults) with `overrides` laid over it, section by section.

    Raises ConfigError with every fault at once.
    """
    settings: dict[str, Any] = {}  # Any: YAML, unchecked until the model has seen it
    source = str(path) if path else "command line"
    if path is not None:
        loaded = _yaml(path, "Give the path of a homing.yaml.")
        if not isinstance(loaded, dict):
            raise ConfigError([f"{path}: holds {type(loaded).__name__}, not a mapping. Begin with `replicas:`."])
        settings = loaded
    for key, value in overrides.items():
        below = settings.get(key)
        settings[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    faults: list[str] = []
    with contextlib.suppress(ValidationError):  # told below
        auth = Auth.model_validate(settings.get("auth") or {})
        faults += _outside_faults(source, auth)
    with contextlib.suppress(ValidationError):
        shared = SharedSettings.model_validate(settings.get("shared") or {})
        faults += _missing_variable(source, "shared.password_env", shared.password_env)
    try:
        config = Config.model_validate(settings)
    except ValidationError as fault:
        raise ConfigError([*(_told(source, error) for error in fault.errors()), *faults]) from None
    if faults:
        raise ConfigError(faults)
    return config


def read_replicas(path: Path) -> tuple[ListedReplica, ...]:
    """The replicas of a watched file. Raises ConfigError with every fault at once. An empty list is an empty fleet."""
    loaded = _yaml(path, "Write a list of `- url: http://HOST:PORT`.")
    if not isinstance(loaded, list):
        raise ConfigError(
            [f"{path}: holds {type(loaded).__name__}, not a list. Write `- url: http://HOST:PORT` lines."]
        )
    try:
        replicas = TypeAdapter(tuple[ListedReplica, ...]).validate_python(loaded)
    except ValidationError as fault:
        raise ConfigError([_told(str(path), error, ListedReplica) for error in fault.errors()]) from None
    twice = _twice(replicas)
    if twice:
        raise ConfigError([f"{path}: replicas named twice: {', '.join(twice)}; give each its own id"])
    return replicas


def _yaml(path: Path, remedy: str) -> Any:  # Any: unchecked until a model has seen it
    try:
        return yaml.safe_load(path.read_text())
    except OSError as fault:
        raise ConfigError([f"{path}: cannot be read: {fault.strerror}. {remedy}"]) from fault
    except UnicodeDecodeError as fault:
        raise ConfigError([f"{path}: is not UTF-8 text: {fault.reason} at byte {fault.start}."]) from fault
    except yaml.YAMLError as fault:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(fault).split())}"]) from fault


def _outside_faults(source: str, auth: Auth) -> list[str]:
    """What only the machine can tell: files and variables the configuration names."""
    faults = []
    keys = auth.api_keys_file
    if keys is not None:
        try:
            auth.api_keys()
        except (OSError, UnicodeDecodeError) as fault:
            faults.append(f"{source}: auth.api_keys_file: {keys} cannot be read ({fault}). Write one key a line.")
    for key in ("replica_api_key_env", "admin_token_env"):
        faults += _missing_variable(source, f"auth.{key}", getattr(auth, key))
    return faults


def _missing_variable(source: str, key: str, variable: str | None) -> list[str]:
    if not variable or os.environ.get(variable):
        return []
    return [f"{source}: {key}: the environment has no {variable}. Export it."]


def _told(source: str, error: Any, top: type[BaseModel] | None = None) -> str:  # Any: pydantic's ErrorDetails
    """One fault as file, key, what was wrong and what to do."""
    where = ".".join(str(part) for part in error["loc"]) or "file"
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1], top or Config)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(sorted(known))}."
        return f"{source}: {where}: no such key. {hint}"
    message = str(error["msg"]).removeprefix("Value error, ")
    read_value = error.get("input")
    is_secret = isinstance(read_value, str) and "://" in read_value and "@" in read_value  # the message says enough
    shown = f" (read {read_value!r})" if isinstance(read_value, str | int | float | bool) and not is_secret else ""
    return f"{source}: {where}: {message}{shown}"


def _keys_at(loc: tuple[str | int, ...], section: type[BaseModel]) -> list[str]:
    lists: dict[str, type[BaseModel]] = {"replicas": ReplicaSettings, "models": ModelSettings}
    for part in loc:
        if isinstance(part, int):
            continue
        if part in lists:
            section = lists[part]
            continue
        kind = section.model_fields[part].annotation if part in section.model_fields else None
        for one in (kind, *get_args(kind)):  # `Section | None` too
            if isinstance(one, type) and issubclass(one, BaseModel):
                section = one
    return list(section.model_fields)
