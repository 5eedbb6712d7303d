"""The flags of each engine that a remedy names, and the releases its dialect is known to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flags:
    """One engine's words for what Homing needs. `known` are the first release whose events are read and the last tried.

    `events` is written with the ports 5557 and 5558, which need to be free on the replica's machine.
    """

    title: str
    events: str
    usage: str
    caching_off: str  # the flag that must not be there
    block_size: str
    metrics: str  # what has to be there for block size and load to be told
    tokenizer: str  # what to look at when the engine reads with another tokenizer or template
    disaggregation: str
    known: tuple[tuple[int, ...], tuple[int, ...]]
    salted_events_since: str


VLLM = Flags(
    title="vLLM",
    events='--kv-events-config \'{"enable_kv_cache_events":true,"publisher":"zmq",'
    '"endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}\'',
    usage="--enable-prompt-tokens-details",
    caching_off="--no-enable-prefix-caching",
    block_size="--block-size",
    metrics="no --disable-log-stats",
    tokenizer="--tokenizer, --tokenizer-mode or --chat-template",
    disaggregation="--kv-transfer-config",
    known=((0, 16), (0, 32)),
    salted_events_since="0.18.1",
)
SGLANG = Flags(
    title="SGLang",
    events='--kv-events-config \'{"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}\'',
    usage="--enable-cache-report",
    caching_off="--disable-radix-cache",
    block_size="--page-size",
    metrics="--enable-metrics",
    tokenizer="--tokenizer-path or --chat-template",
    disaggregation="--disaggregation-mode",
    known=((0, 5, 5), (0, 5, 23)),
    salted_events_since="0.5.23",
)

# By the name of the dialect. An engine without a line here is judged all the same; its remedies are vLLM's.
FLAGS: Mapping[str, Flags] = {"vllm": VLLM, "sglang": SGLANG}


def flags_of(engine: str | None) -> Flags:
    return FLAGS.get(engine or "", VLLM)
