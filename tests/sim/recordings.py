"""Recordings of a real vLLM 0.32.0: reading them, and driving a simulated engine through the same requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any  # recorded JSON

import msgspec

from router.sim.cache import Namespace
from router.sim.engine import Engine, EngineLimits, Job, Output
from router.sim.timing import LLAMA3_70B_H100_TP2
from router.sim.wire import Event

FRAMES = Path(__file__).parents[1] / "frames"
FULL = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "vllm_kv_events"
ADAPTERS = {"lora-a": 1}
ANSWER_TRAVEL_SECONDS = 0.002  # an answer logged this soon after a request had left the engine before it came
FILLER = 299  # a token no recorded prompt of random ids holds: stands for answer tokens that were not recorded


@dataclass(slots=True)
class Exchange:
    """One recorded request, with what the engine announced from then to the next request."""

    scenario: str
    tag: str
    body: dict[str, Any]
    reset: bool
    t: float
    answered_t: float = 0.0
    prompt: list[int] = field(default_factory=list)
    cached_tokens: int | None = None
    completion_tokens: int | None = None  # None: the client hung up
    batches: list[list[dict[str, Any]]] = field(default_factory=list)


def lines(source: Path) -> Iterator[dict[str, Any]]:
    """The lines of a trimmed file, or of all files of a full recording's folder in order."""
    for path in [source] if source.is_file() else sorted(source.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            yield json.loads(text)


def exchanges(source: Path) -> list[Exchange]:
    """All requests to the engine in the order they came."""
    found: list[Exchange] = []
    scenario = ""
    for line in lines(source):
        kind = line["kind"]
        if kind == "scenario":
            scenario = line.get("text") or line["name"]
        elif kind == "request" and line.get("tag"):
            reset = line["path"] == "/reset_prefix_cache"
            found.append(Exchange(scenario, line["tag"], line["body"] or {}, reset, line["t"]))
        elif kind == "event":
            found[-1].batches.append(msgspec.msgpack.decode(bytes.fromhex(line["payload_hex"]))[1])
        elif kind == "response" and line.get("tag"):
            exchange = next(e for e in found[-4:] if e.tag == line["tag"] and not e.answered_t)
            exchange.answered_t = line["t"]
            exchange.prompt = line.get("prompt_token_ids") or []
            exchange.cached_tokens = line.get("cached_tokens")
            exchange.completion_tokens = line.get("completion_tokens") or (line.get("usage") or {}).get(
                "completion_tokens"
            )
    return found


class Reader:
    """Events with the engine's names replaced by what they stand for, so that two engines can be compared.

    A block stands for its parent, its tokens and its extra keys; `numbers` gives each such block one number for both.
    """

    def __init__(self, numbers: dict[object, int]) -> None:
        self._numbers = numbers
        self._names: dict[object, int | None] = {None: None}

    def read(self, event: dict[str, Any]) -> tuple[object, ...]:
        if event["type"] == "AllBlocksCleared":
            return ("cleared",)
        if event["type"] == "BlockRemoved":
            blocks = tuple(self._names[name] for name in event["block_hashes"])
            return ("removed", blocks, event["medium"], event["group_idx"])
        size, parent = event["block_size"], self._names[event["parent_block_hash"]]
        for depth, name in enumerate(event["block_hashes"]):
            tokens = tuple(event["token_ids"][depth * size : (depth + 1) * size])
            key = (parent, tokens, repr(event["extra_keys"][depth]), event["lora_name"])
            parent = self._names[name] = self._numbers.setdefault(key, len(self._numbers))
        plain = {name: value for name, value in event.items() if "hash" not in name}
        first = self._names[event["parent_block_hash"]]
        return (
            "stored",
            tuple(self._names[name] for name in event["block_hashes"]),
            first,
            repr(sorted(plain.items())),
        )


def as_maps(events: Sequence[Event]) -> list[dict[str, Any]]:
    """A simulated engine's events as they decode on the wire."""
    decoded: list[dict[str, Any]] = msgspec.msgpack.decode(msgspec.msgpack.encode(events, enc_hook=list))
    return decoded


class Rerun:
    """A simulated engine driven by recorded requests."""

    def __init__(self, block_count: int, block_size_tokens: int, *, names_as_bytes: bool = False) -> None:
        limits = EngineLimits(block_count, block_size_tokens, max_model_tokens=1024)
        self.engine = Engine(limits, LLAMA3_70B_H100_TP2, b"r" * 32, names_as_bytes=names_as_bytes)
        self._now = 0.0

    def step(self) -> tuple[list[Output], list[dict[str, Any]]]:
        due = self.engine.next_step_at()
        self._now = self._now if due is None else max(self._now, due)
        result = self.engine.step(self._now)
        return result.outputs, as_maps(result.events)

    def run(self, group: Sequence[Exchange]) -> tuple[dict[str, int], list[list[dict[str, Any]]]]:
        """Requests that were in flight together: cached tokens by tag, and the batches announced.

        The first is scheduled before the others come, as recorded. One whose client hung up is cancelled once as many
        batches have come as were recorded: at which token that was, the recording does not tell.
        """
        cached: dict[str, int] = {}
        batches: list[list[dict[str, Any]]] = []
        wanted = sum(len(exchange.batches) for exchange in group)
        for exchange in group:
            self.engine.submit(job(exchange))
            if len(group) > 1 and exchange is group[0]:
                self.step()
        while self.engine.next_step_at() is not None:
            outputs, events = self.step()
            batches += [events] if events else []
            cached.update({output.request_id: output.cached_tokens for output in outputs})
            if group[0].completion_tokens is None and len(batches) == wanted:
                self.engine.cancel(group[0].tag)
        return cached, batches


def job(exchange: Exchange) -> Job:
    body = exchange.body
    adapter = body.get("model") if body.get("model") in ADAPTERS else None
    namespace = Namespace(adapter, ADAPTERS.get(adapter or ""), body.get("cache_salt"))
    full = (body.get("vllm_xargs") or {}).get("kv_cache_report_mode") == "full"
    return Job(exchange.tag, exchange.prompt, answer(exchange), namespace, reports_all_hits=full)


def answer(exchange: Exchange) -> list[int]:
    """As many tokens as were answered; those known from announced blocks, fillers for the rest."""
    count = exchange.completion_tokens or exchange.body["max_tokens"]
    known: list[int] = []
    depth = 0
    for event in (event for batch in exchange.batches for event in batch if event["type"] == "BlockStored"):
        depth = len(event["token_ids"]) + (depth if known or depth else (exchange.cached_tokens or 0))
        known += event["token_ids"][len(event["token_ids"]) - max(0, depth - len(exchange.prompt) - len(known)) :]
    return (known + [FILLER] * count)[:count]


def groups(found: Sequence[Exchange]) -> list[list[Exchange]]:
    """Requests in flight together, in order."""
    out: list[list[Exchange]] = []
    for exchange in found:
        if out and not out[-1][0].reset and exchange.t < out[-1][0].answered_t - ANSWER_TRAVEL_SECONDS:
            out[-1].append(exchange)
        else:
            out.append([exchange])
    return out
