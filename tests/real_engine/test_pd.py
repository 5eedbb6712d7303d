"""Two real vLLM replicas over NIXL behind Homing: KV moves, tokens are one engine's, a dead donor costs nobody.

It needs NIXL beside vLLM (`install.engine_python_with_nixl`), and runs over TCP on loopback, unmodified.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any  # JSON

import httpx
import pytest
import yaml

from tests.real_engine.homing import Homing, homing
from tests.real_engine.install import Unavailable, engine_python_with_nixl
from tests.real_engine.model import make_model
from tests.real_engine.process import until
from tests.real_engine.talks import words
from tests.real_engine.vllm import MODEL, Cache, Replica, vllm

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(1200)]

REQUESTS = 50
AT_ONCE = 4
ANSWER_TOKENS = 12
MOST_WHOLE = 10  # of those, on a machine that others keep busy; on a quiet one none
TOLD_IN_STREAM = 599  # for a stream that began with 200 and told of an error
ALWAYS = {
    "name": "split_always",
    "description": "every request, so that all of them prove something",
    "scorers": {"queue_wait": {}, "prefill": {}},
    "picker": "lowest_cost",
    "split": "always",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What the tests play on."""

    prefill: Replica
    decode: Replica
    homing: Homing


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    try:
        python = engine_python_with_nixl()
    except Unavailable as why:
        pytest.skip(str(why))
    folder = tmp_path_factory.mktemp("pd")
    make_model(folder / "model")
    policy = folder / "split_always.yaml"
    policy.write_text(yaml.safe_dump(ALWAYS))
    roles = ("prefill", "decode")
    replicas = [vllm(python, folder / "model", {}, folder, role, Cache(32, 480), role) for role in roles]
    front = homing(replicas, folder, roles=roles, policy=str(policy))
    try:
        for one in replicas:
            assert one.process is not None
            one.process.start()
        for one in replicas:
            one.await_up()
        front.start()
        until(front.all_heard, 60.0, "every replica's events to be heard")
        until(lambda: "are a pair" in front.process.tail(), 120.0, "the pair to be warm")
        yield Pair(replicas[0], replicas[1], front)
    finally:
        front.process.stop()
        for one in replicas:
            if one.process is not None:
                one.process.stop()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and what came of it."""

    body: dict[str, Any]
    path: str
    name: str

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    token_ids: Sequence[int]
    seconds: float


def requests(count: int, seed: int) -> list[Asked]:
    """Chats and completions, streamed and not, half of them of some blocks that others begin with too."""
    chance = Random(seed)
    common = words(120, chance)
    asked = []
    for number in range(count):
        text = (common if number % 2 else "") + words(chance.randint(5, 200), chance)
        body: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
        body |= {"return_token_ids": True, "stream": number % 4 < 2}
        is_chat = number % 3 == 0
        body |= {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        asked.append(Asked(body, path, f"pd-{seed}-{number}"))
    return asked


def ask(url: str, one: Asked) -> Answered:
    began = time.monotonic()
    with httpx.Client(timeout=120.0) as client:
        answer = client.post(url + one.path, json=one.body, headers={"x-request-id": one.name})
    seconds = time.monotonic() - began
    if answer.status_code != 200:
        return Answered(answer.status_code, (), seconds)
    if not one.streamed:
        return Answered(200, answer.json()["choices"][0]["token_ids"], seconds)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    if any("error" in event for event in events):
        return Answered(TOLD_IN_STREAM, (), seconds)
    assert answer.text.rstrip().endswith("data: [DONE]"), answer.text[-300:]
    found = [token for event in events for choice in event["choices"] for token in choice.get("token_ids") or ()]
    return Answered(200, found, seconds)


def ask_all(url: str, asked: Sequence[Asked]) -> list[Answered]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: ask(url, one), asked))


def was_unwell(receipt: dict[str, Any]) -> bool:
    """Whether the request met a side that did not answer: on a starved machine a real engine can stand still for 20 s.

    Then Homing keeps away from it (its probe fails), or takes a request from it (the watch): either is within R 2.
    """
    kept_away = any(not candidate["allowed"] for candidate in receipt["decision"]["candidates"])
    return kept_away or any("leg: " in attempt["ending"] for attempt in receipt["attempts"])


def test_every_request_is_split_and_says_what_a_single_engine_says(pair: Pair, show: Callable[[str], None]) -> None:
    moved = pair.decode.metric("vllm:nixl_bytes_transferred_sum")
    fetched = pair.decode.metric("vllm:external_prefix_cache_hits_total")
    asked = requests(REQUESTS, seed=11)
    answers = ask_all(pair.homing.url, asked)
    alone = ask_all(pair.prefill.url, asked)  # it computed every prompt itself
    told = pair.homing.receipts()
    refused = [one.name for one, answer in zip(asked, answers, strict=True) if answer.status != 200]
    assert [(told[name]["fault"], told[name]["attempts"]) for name in refused] == []
    assert [list(answer.token_ids) for answer in answers] == [list(answer.token_ids) for answer in alone]
    assert all(len(answer.token_ids) == ANSWER_TOKENS for answer in answers)
    moved = pair.decode.metric("vllm:nixl_bytes_transferred_sum") - moved
    fetched = pair.decode.metric("vllm:external_prefix_cache_hits_total") - fetched
    assert moved > 0
    assert fetched > 0
    receipts = [told[one.name] for one in asked]
    whole = [r for r in receipts if [a["leg"] for a in r["attempts"]] != ["prefill", "decode"]]
    assert [r["attempts"] for r in whole if not was_unwell(r)] == []
    assert len(whole) <= MOST_WHOLE
    judged = [receipt["verdict"] for receipt in receipts if receipt["verdict"]["judged"]]
    exact = sum(verdict["exact"] for verdict in judged)
    assert pair.homing.metric("homing_leases_open{") == 0
    show(
        f"{REQUESTS} requests split over two vLLM replicas, NIXL over TCP: {moved / 1e6:.1f} MB moved, "
        f"{fetched:.0f} prompt tokens fetched, {len(judged)} judged, {exact} predicted exactly; {len(whole)} answered "
        f"whole while a side was unwell, the slowest in {max(answer.seconds for answer in answers):.1f} s"
    )


def test_a_donor_killed_in_the_middle_costs_nobody_an_answer(pair: Pair, show: Callable[[str], None]) -> None:
    asked = requests(40, seed=12)
    answers: list[Answered] = []
    worker = threading.Thread(target=lambda: answers.extend(ask_all(pair.homing.url, asked)))
    worker.start()
    until(lambda: pair.homing.metric('homing_legs_total{leg="prefill",outcome="ok"') >= 8, 60.0, "some to be split")
    assert pair.prefill.process is not None
    pair.prefill.process.kill()
    worker.join(300.0)
    assert not worker.is_alive()
    assert [answer.status for answer in answers] == [200] * len(asked)
    alone = ask_all(pair.decode.url, asked)
    assert [list(answer.token_ids) for answer in answers] == [list(answer.token_ids) for answer in alone]
    told = pair.homing.receipts()
    resent = [r for r in (told[one.name] for one in asked) if len(r["attempts"]) > 2]
    assert pair.homing.metric("homing_leases_open{") == 0
    slowest = max(answer.seconds for answer in answers)
    show(
        f"{len(asked)} requests while the prefill replica is killed: all answered rightly, {len(resent)} sent again "
        f"whole, the slowest in {slowest:.1f} s"
    )
