"""Receipts: bounded, found by id, told in full (R 6.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from router.fleet.replica import ReplicaId
from router.gateway.receipts import Receipt, Receipts, Tried
from router.index.accuracy import Unjudged, Verdict
from router.metrics import Outcome
from router.policy.shadow import Opinion


@dataclass(frozen=True)
class Decided:
    """A decision of a given size."""

    byte_size: int = 1000
    replica: ReplicaId = ReplicaId("a")
    policy: str = "cache_aware"
    reason: str = "lowest cost: 0.13 s prefill here"
    predicted_cached_tokens: int = 320
    expected_cached_tokens: int = 352
    handover: None = None

    def explain(self) -> Sequence[Mapping[str, object]]:
        return [{"replica": "a", "chosen": True}, {"replica": "b", "chosen": False}]


def receipt(
    request_id: str = "r",
    *,
    decision: Decided | None = None,
    attempts: tuple[Tried, ...] = (),
    verdict: Verdict | None = None,
) -> Receipt:
    return Receipt(
        request_id=request_id,
        client_request_id="mine",
        endpoint="/v1/chat/completions",
        model="qwen",
        received_at_wall_seconds=1_700_000_000.25,
        outcome=Outcome.OK,
        status=200,
        total_seconds=1.5,
        ttft_seconds=0.2,
        prompt_tokens=400,
        token_source="local",
        decision=decision,
        attempts=attempts,
        reported_cached_tokens=320,
        verdict=verdict,
    )


def test_a_receipt_tells_the_whole_story() -> None:
    told = receipt(
        decision=Decided(),
        attempts=(Tried(ReplicaId("b"), "connection refused", 0.01), Tried(ReplicaId("a"), "ok", 1.4)),
        verdict=Verdict(None, 320, 320, 0, False),
    ).as_json()
    assert told["received_at"] == "2023-11-14T22:13:20.250+00:00"
    assert told["outcome"] == "ok"
    assert told["decision"] == {
        "policy": "cache_aware",
        "reason": "lowest cost: 0.13 s prefill here",
        "predicted_cached_tokens": 320,
        "expected_cached_tokens": 352,
        "split": None,
        "candidates": [{"replica": "a", "chosen": True}, {"replica": "b", "chosen": False}],
    }
    assert told["attempts"] == [
        {"replica": "b", "leg": None, "ending": "connection refused", "seconds": 0.01},
        {"replica": "a", "leg": None, "ending": "ok", "seconds": 1.4},
    ]
    assert told["verdict"] == {
        "judged": True,
        "exact": True,
        "predicted_cached_tokens": 320,
        "reported_cached_tokens": 320,
        "error_blocks": 0,
        "missed": False,
        "cause": None,
    }
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_what_did_not_come_to_be_is_null() -> None:
    told = receipt().as_json()
    assert told["decision"] is None
    assert told["verdict"] is None
    assert told["attempts"] == []


def test_an_unjudged_request_says_why() -> None:
    told = receipt(verdict=Verdict(Unjudged.NO_REPORT)).as_json()
    assert told["verdict"] == {"judged": False, "cause": "no_report"}


def test_only_the_newest_are_kept() -> None:
    receipts = Receipts(most_receipts=3)
    for number in range(5):
        receipts.add(receipt(str(number)))
    assert len(receipts) == 3
    assert receipts.get("1") is None
    assert receipts.get("2") == receipt("2")
    assert [kept.request_id for kept in receipts.latest(2)] == ["4", "3"]


def test_a_shadows_opinion_is_told_and_counted() -> None:
    opinion = Opinion("mine", ReplicaId("b"), "lowest_cost", False, 0.25, None)
    with_opinion = msgspec.structs.replace(receipt(decision=Decided()), opinion=opinion)
    assert with_opinion.as_json()["shadow"] == {
        "policy": "mine",
        "replica": "b",
        "rule": "lowest_cost",
        "agrees": False,
        "dearer_seconds": 0.25,
        "missed_seconds": None,
    }
    assert with_opinion.byte_size > receipt(decision=Decided()).byte_size
    assert receipt().as_json()["shadow"] is None


def test_bytes_are_bounded_and_the_decisions_count() -> None:
    receipts = Receipts(most_bytes=100_000)
    for number in range(50):
        receipts.add(receipt(str(number), decision=Decided(byte_size=9_000)))
    assert receipts.used_bytes <= 100_000
    assert len(receipts) == 10
    receipts.add(receipt("huge", decision=Decided(byte_size=100_000)))
    assert receipts.get("huge") is None
    assert receipts.used_bytes == 0


def test_one_id_has_one_receipt() -> None:
    receipts = Receipts()
    receipts.add(receipt("r"))
    once = receipts.used_bytes
    receipts.add(receipt("r", decision=Decided(byte_size=10)))
    assert len(receipts) == 1
    assert receipts.used_bytes == once + 10
