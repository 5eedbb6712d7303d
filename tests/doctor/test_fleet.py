from __future__ import annotations

from router.doctor.finding import Check, Status
from router.doctor.fleet import Known, judge_fleet
from router.fleet.replica import Facts, ServedModel


def known(
    name: str = "a", *, root: str = "/m", start: float = 1.0, version: str = "0.32.0", block: int = 16, port: int = 5557
) -> Known:
    facts = Facts(
        models=(ServedModel("m", "m", root=root),),
        block_size_tokens=block,
        process_start_time=start,
        version=version,
    )
    return Known(name, "vllm", facts, frozenset({("10.0.0.1", port)}))


def statuses(*replicas: Known) -> dict[Check, Status]:
    return {finding.check: finding.status for finding in judge_fleet(replicas)}


def test_alike_and_apart_passes_and_one_alone_has_no_fleet() -> None:
    assert set(statuses(known(), known("b", start=2.0, port=5558)).values()) == {Status.PASS}
    assert set(statuses(known()).values()) == {Status.SKIPPED}


def test_each_difference_is_a_warning_of_its_own() -> None:
    for changes, check in (
        ({"root": "/other"}, Check.SAME_MODEL),
        ({"version": "0.31.0"}, Check.SAME_VERSION),
        ({"block": 32}, Check.SAME_BLOCK_SIZE),
    ):
        found = statuses(known(), known("b", start=2.0, port=1, **changes))
        assert [one for one, status in found.items() if status is not Status.PASS] == [check]


def test_one_process_is_told_by_start_and_publisher_or_by_the_same_batches() -> None:
    assert statuses(known(), known("b"))[Check.DISTINCT] is Status.FAIL
    assert statuses(known(), known("b", start=2.0))[Check.DISTINCT] is Status.PASS  # the same port after a restart
    assert statuses(known(), known("b", port=5558))[Check.DISTINCT] is Status.PASS  # two ranks of one process
    batch = frozenset({(7, b"payload")})
    same = [Known(name, "vllm", Facts(), batches=batch) for name in "ab"]
    assert statuses(*same)[Check.DISTINCT] is Status.FAIL
