"""What is told of several routers: differences to a single one."""

from __future__ import annotations

from dataclasses import replace

from loadtest.several import arm, table
from router.lab.run import Fleet, Run, play
from router.lab.workloads import Load, workload

FLEET = Fleet(replicas=2, cache_tokens=307_328, block_size_tokens=64, timing="qwen3_32b_h100")


def test_each_arm_is_held_against_the_single_router() -> None:
    run = Run("least_loaded", "b2b-73", FLEET, Load(40, 5.0, None, 1))
    one, two = (
        play(replace(run, fleet=fleet), workload("b2b-73")) for fleet in (FLEET, replace(FLEET, routers=2, shared=True))
    )
    alone = arm(1, False, [one, one], 2)
    shared = arm(2, True, [two], 2)
    assert alone.hit_ratio == one.outcome.hit_ratio
    assert (alone.bytes_per_second, alone.unanswered) == (0, 0)
    assert shared.bytes_per_second > 0
    worse = replace(shared, hit_ratio=alone.hit_ratio - 0.05, unevenness=alone.unevenness + 0.2)
    lines = table([alone, worse])
    assert lines[2].startswith("| 1 |")
    assert "| 2, shared |" in lines[3]
    assert "| -5.0 |" in lines[3]
    assert "| +0.200 |" in lines[3]
