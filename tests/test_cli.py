from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from router.cli import main
from tests.discovery.test_kubernetes import kubeconfig


def homing(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


COMMANDS = [
    "serve",
    "record",
    "simulate",
    "compare",
    "doctor",
    "reload",
    "sim",
    "demo",
    "policies",
    "check",
    "explain",
    "version",
]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(command: str) -> None:
    told = homing(*command.split(), "--help")
    assert told.exit_code == 0
    assert "sage: homing" in told.output or "sage: main" in told.output


def test_the_shelf_is_shown_with_when_to_choose_what() -> None:
    told = homing("policies").output
    assert "cache_aware" in told
    assert "round_robin" in told


def test_a_good_file_is_called_good(tmp_path: Path) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text("replicas: [{url: 'http://a:8000'}]")
    told = homing("check", str(path))
    assert told.exit_code == 0
    assert "good" in told.output


def test_a_wrong_file_and_a_wrong_policy_are_told_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text("replicas: [{url: 'http://a:8000'}]\npolicy: cash_aware")
    told = homing("check", str(path))
    assert told.exit_code == 1
    assert "cache_aware" in told.output
    path.write_text("replcas: []")
    told = homing("check", str(path))
    assert told.exit_code == 1
    assert "Did you mean replicas" in told.output
    path.write_text("replicas: [{url: 'http://a:8000'}]\nshadow_policy: round_robbin")
    told = homing("check", str(path))
    assert told.exit_code == 1
    assert "round_robin" in told.output
    assert "Traceback" not in told.output


def test_check_tells_the_faults_of_file_policy_and_keys_together(tmp_path: Path) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text("replicas: [{url: nowhere}]\npolicy: cash_aware\nauth: {api_keys_file: missing.txt}")
    told = homing("check", str(path)).output
    for hint in ("replicas.0.url", "cache_aware", "missing.txt"):
        assert hint in told


def test_check_covers_where_replicas_are_found(tmp_path: Path) -> None:
    path, listed, way = tmp_path / "homing.yaml", tmp_path / "replicas.yaml", tmp_path / "kubeconfig"
    found = {"file": str(listed), "kubernetes": {"selector": "app=vllm", "kubeconfig": str(way)}}
    path.write_text(yaml.safe_dump({"discovery": found}))
    listed.write_text("- url: nowhere\n")
    told = homing("check", str(path))
    assert told.exit_code == 1
    assert "0.url: 'nowhere' is not an address" in told.output
    assert "no way to an API server" in told.output
    listed.write_text("- url: http://a:8000\n")
    kubeconfig(way, "http://127.0.0.1:1")
    told = homing("check", str(path))
    assert told.exit_code == 0
    assert f"{listed} (1 now), more from pods in namespace models by context fake" in told.output


def test_check_covers_where_load_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text("replicas: [{url: 'http://a:8000'}]\nshared: {redis_url: 'redis://cache:6379/0', name: blue}")
    told = homing("check", str(path))
    assert told.exit_code == 0
    assert "Load is shared through redis://cache:6379/0 as blue (not asked)." in told.output
    path.write_text("replicas: [{url: 'http://a:8000'}]\nshared: {redis_url: 'cache:6379', redis: yes}")
    told = homing("check", str(path))
    assert told.exit_code == 1
    assert "shared.redis_url: 'cache:6379' is not a Redis address; write redis://HOST:6379/0" in told.output
    assert "shared.redis: no such key. Did you mean redis_url?" in told.output


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--redis", "http://cache"), "'http://cache' is not a Redis address; write redis://HOST:6379/0"),
        (("--pods", "app=vllm", "--service", "vllm"), "by selector (app=vllm) or by service (vllm), one of the two"),
        (("--namespace", "llm"), "by selector (app=vllm) or by service (vllm), one of the two"),
        (("--pods", " "), "selector is empty, which would be every pod"),
    ],
)
def test_serve_says_what_discovery_wants(arguments: tuple[str, ...], fault: str) -> None:
    told = homing("serve", *arguments)
    assert told.exit_code == 1
    assert fault in told.output


def test_serve_without_replicas_says_what_to_pass() -> None:
    told = homing("serve")
    assert told.exit_code == 1
    assert "--replica" in told.output


def test_explain_without_a_homing_says_where_it_looked() -> None:
    told = homing("explain", "id", "--admin", "http://127.0.0.1:9")
    assert told.exit_code == 1
    assert "127.0.0.1:9" in told.output
