"""Simulated prefill and decode pools with a Homing before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from router.fleet.replica import Seat
from router.sim.transfers import Patience
from tests.sim.fleets import fleet_config, serving
from tests.stories.houses import Stage, homing

# Every request that can be, so that a story need not make splitting worth while.
ALWAYS: Mapping[str, Any] = {
    "name": "split_always",
    "description": "for tests",
    "scorers": {"queue_wait": {}, "prefill": {}, "open_requests": {}},
    "picker": "lowest_cost",
    "split": "always",
}


@asynccontextmanager
async def pools(
    roles: Sequence[str],
    folder: Path,
    *,
    handshake: str = "nixl",
    policy: Mapping[str, Any] = ALWAYS,
    failure_seconds: float = 7.5,
    lease_seconds: float = 30.0,
    bystander: bool = False,
    warm: bool = True,
    labels: Sequence[Mapping[str, str]] = (),
    **settings: Any,
) -> AsyncIterator[Stage]:
    """`roles` by replica: prefill, decode or both. With `warm` every pair has been introduced.

    `bystander`: one more simulated replica, which Homing does not know, to give orders through and to compare with.
    """
    simulated = fleet_config(
        replicas=len(roles) + bystander,
        roles=(*roles, *(("both",) if bystander else ())),
        patience=Patience(lease_seconds, failure_seconds),
    )
    replicas = [
        {
            "url": f"http://127.0.0.1:{simulated.port + number}",
            "id": f"{role[0]}{number}",
            "role": role,
            "handshake": handshake,
            "bootstrap_port": simulated.port + number,
            "labels": dict(labels[number]) if labels else {},
        }
        for number, role in enumerate(roles)
    ]
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump(dict(policy)))
    async with serving(simulated), homing(simulated, replicas=replicas, policy=str(file), **settings) as one:
        if warm:
            wanted = [
                (Seat(p), Seat(d))
                for p, donor in enumerate(roles)
                for d, taker in enumerate(roles)
                if p != d and donor != "decode" and taker != "prefill"
            ]
            await one.until(lambda: all(one.house.pairs.is_open(*pair) for pair in wanted))
        yield one


async def receipt(stage: Stage, request_id: str) -> Mapping[str, Any]:
    """Of a finished request; its stream may have ended a moment before its books."""
    await stage.until(lambda: stage.house.receipts.get(request_id) is not None)
    return dict((await stage.http.get(f"{stage.house.admin_url}/homing/explain/{request_id}")).json())
