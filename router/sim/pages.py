"""Pages on which a simulated replica tells of itself: models, event sources, metrics."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from router.sim.model import Model
from router.sim.replica import Replica, ReplicaSettings


def models_page(model: Model, created_seconds: float) -> bytes:
    """`GET /v1/models`: the served names, then the adapters with the first name as their parent."""
    cards = [_card(name, model.root, None, model.max_model_tokens, int(created_seconds)) for name in model.names]
    cards += [_card(name, name, model.names[0], None, int(created_seconds)) for name in model.adapters]
    return msgspec.json.encode({"object": "list", "data": cards})


def _card(name: str, root: str, parent: str | None, max_model_len: int | None, created: int) -> dict[str, object]:
    permission = {
        "id": f"modelperm-{sha256(name.encode()).hexdigest()[:16]}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


def sources(settings: ReplicaSettings) -> bytes:
    """`GET /kv_event_sources`, by data parallel rank. Addresses are wildcards, as a publisher that binds has them."""
    replay = f"tcp://*:{settings.replay_port}" if settings.replay_port else None
    return msgspec.json.encode(
        {
            "0": {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": f"tcp://*:{settings.events_port}",
                "replay_endpoint": replay,
                "buffer_steps": settings.events.buffer_steps,
                "hwm": 100_000,
                "max_queue_size": 100_000,
                "topic": settings.events.topic,
            }
        }
    )


def metrics(replica: Replica, model_name: str) -> bytes:
    """`GET /metrics`: what a router may read, under vLLM's names."""
    engine, limits = replica.engine, replica.settings.limits
    counters = engine.counters
    labels = f'engine="0",model_name="{model_name}"'
    block_size = replica.failures.announced_block_size or limits.block_size_tokens
    config = f'block_size="{block_size}",enable_prefix_caching="True",engine="0",'
    config += f'num_gpu_blocks="{limits.block_count}",prefix_caching_hash_algo="sha256"'
    computed = counters.prompt_tokens - counters.hit_tokens
    rows: list[tuple[str, str, str, float]] = [
        ("process_start_time_seconds", "gauge", "", replica.process_start_time),
        ("vllm:num_requests_running", "gauge", labels, engine.running),
        ("vllm:num_requests_waiting", "gauge", labels, engine.waiting),
        ("vllm:kv_cache_usage_perc", "gauge", labels, engine.usage_ratio),
        ("vllm:engine_sleep_state", "gauge", f'{labels},sleep_state="awake"', 1),
        ("vllm:prefix_cache_queries_total", "counter", labels, counters.queried_tokens),
        ("vllm:prefix_cache_hits_total", "counter", labels, counters.hit_tokens),
        ("vllm:nixl_bytes_transferred_sum", "counter", labels, replica.fetched_bytes),
        ("vllm:nixl_xfer_time_seconds_sum", "counter", labels, replica.fetched_seconds),
        ("vllm:nixl_num_kv_expired_reqs_total", "counter", labels, replica.expired_transfers),
        ("vllm:external_prefix_cache_queries_total", "counter", labels, 0),
        ("vllm:external_prefix_cache_hits_total", "counter", labels, 0),
        ("vllm:num_preemptions_total", "counter", labels, counters.preemptions),
        ("vllm:prompt_tokens_total", "counter", labels, counters.prompt_tokens),
        ("vllm:prompt_tokens_by_source_total", "counter", f'{labels},source="local_compute"', computed),
        ("vllm:prompt_tokens_by_source_total", "counter", f'{labels},source="local_cache_hit"', counters.hit_tokens),
        ("vllm:prompt_tokens_cached_total", "counter", labels, counters.hit_tokens),
        ("vllm:generation_tokens_total", "counter", labels, counters.generated_tokens),
        ("vllm:request_success_total", "counter", f'{labels},finished_reason="length"', counters.finished),
        ("vllm:request_success_total", "counter", f'{labels},finished_reason="abort"', counters.aborted),
        ("vllm:cache_config_info", "gauge", config, 1),
    ]
    lines: list[str] = []
    for name, kind, marks, value in rows:
        family = f"# TYPE {name} {kind}"
        if family not in lines:
            lines.append(family)
        lines.append(f"{name}{{{marks}}} {float(value)!r}" if marks else f"{name} {float(value)!r}")
    return ("\n".join(lines) + "\n").encode()
