"""A fleet from its flags, and its ports."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from router.errors import ConfigError
from router.sim.server import FleetConfig, parse_arguments
from router.sim.text import SHIPPED_TOKENIZER
from tests.sim.fleets import fleet_config, serving


def test_flags_make_a_fleet() -> None:
    flags = "--replicas 2 --port 9100 --model a --model b --adapter x --blocks 99 --block-size 32 --speedup 10 --seed 3"
    config = parse_arguments([*flags.split(), "--tokenizer", "/somewhere", "--buffer-steps", "50", "--no-replay"])
    assert (config.replicas, config.port, config.model_names, config.adapters) == (2, 9100, ("a", "b"), ("x",))
    assert (config.limits.block_count, config.limits.block_size_tokens) == (99, 32)
    assert (config.tokenizer, config.events.buffer_steps, config.replays, config.seed) == (
        Path("/somewhere"),
        50,
        False,
        3,
    )
    assert config.timing.fixed_seconds == FleetConfig().timing.fixed_seconds / 10


async def test_every_replica_has_its_http_events_and_replay_ports() -> None:
    config = fleet_config(replicas=2, model_names=("b", "a"))
    async with serving(config), httpx.AsyncClient() as http:
        for i in range(2):
            url = f"http://127.0.0.1:{config.port + i}"
            (source,) = (await http.get(f"{url}/kv_event_sources")).json().values()
            assert source["endpoint"] == f"tcp://*:{config.port + i + 1000}"
            assert source["replay_endpoint"] == f"tcp://*:{config.port + i + 2000}"
            models = (await http.get(f"{url}/v1/models")).json()["data"]
            assert [model["id"] for model in models] == ["b", "a"]
            assert models[0]["root"] == str(SHIPPED_TOKENIZER)
            assert models[0]["max_model_len"] == 1024


async def test_a_port_in_use_is_named() -> None:
    config = fleet_config()
    async with serving(config):
        with pytest.raises(ConfigError, match=r"Cannot (bind|listen).* Choose another first port"):
            async with serving(config):
                pass
