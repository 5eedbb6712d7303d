from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from router import config
from router.config import Config
from router.gateway.in_force import Configuration
from router.policy import load
from router.reload.changes import LIVE, changed, needing_restart

BASE: dict[str, Any] = {"replicas": [{"url": "http://a:8000"}]}


def configuration(policy: str = "cache_aware", keys: frozenset[str] | None = None, **settings: Any) -> Configuration:
    return Configuration(config.read(None, {**BASE, **settings}), load.load(policy), None, keys)


def test_keys_are_named_as_they_are_written_down_to_the_one_that_changed() -> None:
    after = configuration(
        limits={"queue_length": 5},
        replicas=[{"url": "http://b:8000"}],
        discovery={"kubernetes": {"selector": "app=vllm"}},
        seed=4,
    )
    assert changed(configuration(), after) == ("replicas", "discovery.kubernetes", "limits.queue_length", "seed")
    assert needing_restart(changed(configuration(), after)) == ("discovery.kubernetes", "seed")


def test_what_a_policy_or_a_file_of_keys_says_is_a_change_under_the_same_name() -> None:
    assert changed(configuration(), configuration(policy="round_robin")) == ("policy",)
    assert changed(configuration(), configuration(keys=frozenset({"one"}))) == ("auth.api_keys_file",)
    assert needing_restart(("policy", "auth.api_keys_file")) == ()


def test_nothing_changed_is_nothing() -> None:
    assert changed(configuration(), configuration()) == ()
    assert configuration().hash == configuration().hash != configuration(seed=1).hash


@pytest.mark.parametrize("key", sorted(LIVE))
def test_every_key_that_is_taken_up_live_is_a_key(key: str) -> None:
    section: type[BaseModel] = Config
    for part in key.split("."):
        assert part in section.model_fields
        kind = section.model_fields[part].annotation
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else section


@pytest.mark.parametrize(
    "key", ["listen.port", "tokens.hash_seed", "shared.redis_url", "auth.admin_token_env", "index.budget_megabytes"]
)
def test_what_is_bound_to_the_process_needs_another_one(key: str) -> None:
    assert needing_restart([key]) == (key,)
