"""What Homing relies on in an engine and no simulation can vouch for: tokens, hang-ups, a cache emptied behind it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from router.prompt.parity import Verdict
from router.prompt.source import NotLocal, find_tokenizer, load_local
from tests.real_engine.conftest import Stage
from tests.real_engine.process import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1500)]

JSON = {"content-type": "application/json"}
LONG_ANSWER_TOKENS = 1500
STOPS_SECONDS = 1.0
BATCHES = 'homing_kv_events_total{outcome="batch"'
SOME_SECONDS = 20.0


def test_local_token_ids_equal_the_engines_own(stage: Stage) -> None:
    for replica in stage.replicas:
        root = next(m["root"] for m in replica.get("/v1/models").json()["data"] if m["id"] == stage.model)
        folder = find_tokenizer("auto", root)
        if isinstance(folder, NotLocal):
            pytest.skip(f"no tokenizer for {root} here: {folder.reason}")
        local = load_local(folder, time.time)
        assert not isinstance(local, NotLocal), local
        for probe in local.parity.probes:
            answer = httpx.post(
                f"{replica.url}/tokenize", content=probe.tokenize_body(stage.model), headers=JSON, timeout=30.0
            )
            local.judge(probe, answer.json()["tokens"] if answer.status_code == 200 else None)
        assert local.parity.verdict is not Verdict.FAILED, local.parity.divergences
        if stage.own:  # its template has nothing that engines read in their own way
            assert not local.parity.divergences


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_a_client_that_hangs_up_stops_the_generation(stage: Stage, stream: bool, reset: bool) -> None:
    idle, made, news = unfinished_requests(stage), generated_tokens(stage), stage.homing.metric(BATCHES)
    body = {
        "model": stage.model,
        "messages": [{"role": "user", "content": f"Go on and on. {time.time()}"}],
        "stream": stream,
        "max_tokens": LONG_ANSWER_TOKENS,
        "ignore_eos": True,
    }
    with contextlib.closing(HTTPConnection(urlsplit(stage.homing.url).netloc, timeout=SOME_SECONDS)) as client:
        client.request("POST", "/v1/chat/completions", json.dumps(body), JSON)
        assert client.sock is not None
        if stream:
            assert client.sock.recv(65536)
        # Not by the engine's gauges: while it computes on a CPU it may take seconds to answer /metrics.
        until(lambda: stage.homing.metric(BATCHES) > news, SOME_SECONDS, "a block of the answer to be announced")
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: unfinished_requests(stage) <= idle, STOPS_SECONDS, "the engine to stop")
    assert generated_tokens(stage) - made < LONG_ANSWER_TOKENS
    assert [entry["open_requests"] for entry in stage.homing.replicas()] == [0] * len(stage.replicas)


def test_a_cache_emptied_behind_us_costs_one_wrong_prediction_and_no_second(stage: Stage) -> None:
    both_begin = f"{time.time()} {'home and hearth ' * 100}"
    one, other = (both_begin + 200 * word for word in (" bread", " salt"))
    for text in (one, other, one, other):
        warm = ask(stage, text)
    assert warm.reported > 0, "nothing is reported as cached: start vLLM with --enable-prompt-tokens-details"
    for replica in stage.replicas:
        answer = httpx.post(f"{replica.url}/reset_prefix_cache", timeout=10.0)
        if answer.status_code == 404:
            pytest.skip(f"{replica.url} has no /reset_prefix_cache: start vLLM with VLLM_SERVER_DEV_MODE=1")
        assert answer.json().get("success", True), "the engine refused: something runs there"

    # The engine tells of it only with its next batch: until then the prompt goes where it was warm, in vain (R 4.5).
    in_vain = ask(stage, one)
    assert in_vain.replica == warm.replica
    assert in_vain.predicted > in_vain.reported == 0
    until(lambda: held_tokens(stage, warm.replica) <= in_vain.prompt_tokens, SOME_SECONDS, "news of the empty cache")
    begins_alike = ask(stage, other)
    assert begins_alike.replica == warm.replica
    assert 0 < begins_alike.predicted == begins_alike.reported < warm.reported
    assert ask(stage, other) == warm
    for replica in stage.replicas:
        replica.step()
    few = 3 * warm.prompt_tokens
    until(lambda: all(held_tokens(stage, r.id) <= few for r in stage.replicas), SOME_SECONDS, "the others' news")


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: who gave it, and cached tokens as Homing predicted and as the engine reported them."""

    replica: str
    predicted: int
    reported: int
    prompt_tokens: int


def ask(stage: Stage, text: str) -> Told:
    body = {"model": stage.model, "messages": [{"role": "user", "content": text}], "max_tokens": 2}
    headers = {"x-homing-explain": "1"}
    answer = httpx.post(f"{stage.homing.url}/v1/chat/completions", json=body, headers=headers, timeout=60.0)
    answer.raise_for_status()
    usage = answer.json()["usage"]
    return Told(
        answer.headers["x-homing-replica"],
        int(answer.headers["x-homing-predicted-cached-tokens"]),
        usage["prompt_tokens_details"]["cached_tokens"] or 0,
        usage["prompt_tokens"],
    )


def held_tokens(stage: Stage, replica: str) -> int:
    entry = next(entry for entry in stage.homing.replicas() if entry["replica"] == replica)
    return int(entry["held_blocks"] * entry["block_size_tokens"])


def unfinished_requests(stage: Stage) -> float:
    return sum(replica.unfinished_requests() for replica in stage.replicas)


def generated_tokens(stage: Stage) -> float:
    return sum(replica.metric("vllm:generation_tokens_total{") for replica in stage.replicas)
