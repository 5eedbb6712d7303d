from __future__ import annotations

from typing import Any

import pytest

from router.doctor.finding import Finding, Status
from router.doctor.homing import CAUSES, judge_homing
from router.index.causes import Cause

URL = "http://a:8000"
CALM = {"replica": "a", "url": URL, "trust": "EXACT", "judged": 100, "exact": 99, "remarks": [], "silence": None}


def judged(*entries: dict[str, Any]) -> Finding:
    return judge_homing("vllm", URL, entries, "http://h:8081")


def test_a_trusted_replica_passes() -> None:
    assert judged(CALM).found == "trust EXACT, 99 of 100 judged requests exact"


def test_every_cause_of_the_router_has_a_remedy() -> None:
    assert {cause.value for cause in Cause} - {"unknown"} <= set(CAUSES)


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_a_suspicion_is_a_failure_in_the_routers_own_words(cause: str) -> None:
    suspicion = {"cause": cause, "misses": 7, "judged": 50, "says": "7 of 50 predicted 4 blocks and hit 0"}
    finding = judged({**CALM, "trust": "LOAD_ONLY", "suspicion": suspicion})
    assert finding.status is Status.FAIL
    assert f"suspects {cause.replace('_', ' ')}: 7 of 50" in finding.found
    assert finding.mend
    assert "{" not in finding.mend


def test_what_it_does_not_know_is_told_as_it_stands_and_odd_shapes_are_passed_over() -> None:
    assert "gremlins" in judged({**CALM, "causes": ["gremlins"]}).found
    assert judged({**CALM, "suspicion": None, "causes": ["unproven"]}).status is Status.PASS
    assert judged({**CALM, "suspicion": 7, "causes": {"salt": 3}, "judged": "many"}).status is Status.PASS


@pytest.mark.parametrize(
    ("changes", "status", "found"),
    [
        ({"trust": "CATCHING_UP"}, Status.WARN, "CATCHING_UP"),
        ({"trust": "GUESSED", "remarks": ["KV events are off"]}, Status.WARN, "KV events are off"),
        ({"silence": "no connection"}, Status.FAIL, "no connection"),
        ({"exact": 80}, Status.WARN, "80 of 100"),
        ({"judged": 3, "exact": 2}, Status.PASS, "2 of 3"),
    ],
)
def test_less_than_full_trust_is_told(changes: dict[str, Any], status: Status, found: str) -> None:
    finding = judged({**CALM, **changes})
    assert finding.status is status
    assert found in finding.found


def test_of_several_ranks_the_worst_is_told() -> None:
    finding = judged({**CALM, "replica": "a#0"}, {**CALM, "replica": "a#1", "trust": "GUESSED"})
    assert finding.found.startswith("a#1: trust GUESSED")
