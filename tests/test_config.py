from __future__ import annotations

from pathlib import Path

import pytest

from router import config
from router.discovery import static
from router.errors import ConfigError
from router.fleet.replica import Role

GOOD = """
replicas:
  - url: http://a:8000
  - url: http://b:8000
    id: second
    events: tcp://b:5557
    replay: tcp://b:5558
policy: least_loaded
limits: {max_in_flight: 7}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "homing.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_flags_win_over_it(tmp_path: Path) -> None:
    read = config.read(written(tmp_path, GOOD), {"policy": "random", "limits": {"queue_length": 3}})
    assert [replica.name for replica in read.replicas] == ["a:8000", "second"]
    assert read.policy == "random"
    assert (read.limits.max_in_flight, read.limits.queue_length) == (7, 3)


def test_flags_alone_are_enough() -> None:
    assert config.read(None, {"replicas": [{"url": "http://a:8000/"}]}).replicas[0].url == "http://a:8000"


def test_all_faults_are_told_at_once_each_with_file_key_and_remedy(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
replicas: [{url: 'a:8000'}, {url: 'http://b:8000/v1', evnts: x}, {url: 'http://c', replay: 'tcp://c:1'}]
polcy: random
limits: {max_in_flight: 0}
listen: {port: 99999}
""",
    )
    with pytest.raises(ConfigError) as told:
        config.read(path, {})
    faults = told.value.faults
    assert all(str(path) in fault for fault in faults)
    for key, hint in (
        ("replicas.0.url", "http://HOST:PORT"),
        ("replicas.1.url", "has a path"),
        ("replicas.1.evnts", "Did you mean events"),
        ("replicas.2", "events is not"),
        ("polcy", "Did you mean policy"),
        ("limits.max_in_flight", "greater than 0"),
        ("listen.port", "65535"),
    ):
        assert any(f"{key}: " in fault and hint in fault for fault in faults), (key, faults)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("replicas: [", "not YAML"),
        ("- a", "not a mapping"),
        ("policy: random", "replicas is empty"),
        ("replicas: [{url: 'http://a:1'}, {url: 'http://a:1'}]", "named twice"),
        ("replicas: [{url: 'http://a:1'}]\nauth: {replica_api_key_env: HOMING_NOT_SET}", "Export it"),
        ("replicas: [{url: 'http://a:1'}]\nauth: {api_keys_file: nowhere.txt}", "One key a line|one key a line"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        config.read(written(tmp_path, text), {})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        config.read(Path("nowhere.yaml"), {})


def test_keys_come_from_the_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n# not a key\n\n two \n")
    monkeypatch.setenv("REPLICA_KEY", "secret")
    read = config.read(
        None,
        {
            "replicas": [{"url": "http://a:1"}],
            "auth": {"api_keys_file": str(keys), "replica_api_key_env": "REPLICA_KEY"},
        },
    )
    assert read.auth.api_keys() == frozenset(("one", "two"))
    assert read.auth.replica_api_key() == "secret"


def test_a_password_for_redis_comes_from_its_variable_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "homing.yaml"
    path.write_text("replicas: [{url: 'http://a:8000'}]\nshared: {redis_url: 'redis://me:hunter2@cache:6379'}")
    with pytest.raises(ConfigError, match=r"has a password; name its variable in shared\.password_env") as fault:
        config.read(path, {})
    assert "hunter2" not in str(fault.value)
    path.write_text("replicas: [{url: 'http://a:8000'}]\nshared: {redis_url: 'redis://c', password_env: REDIS_WORD}")
    with pytest.raises(ConfigError, match=r"shared\.password_env: the environment has no REDIS_WORD"):
        config.read(path, {})
    monkeypatch.setenv("REDIS_WORD", "hunter2")
    read = config.read(path, {"shared": {"redis_url": "rediss://other:1"}})
    assert (read.shared.redis_url, read.shared.password()) == ("rediss://other:1", "hunter2")


def test_a_replica_tells_its_role_how_it_moves_kv_and_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "homing.yaml"
    file.write_text(
        "replicas:\n"
        "  - {url: 'http://p:8000', role: prefill, handshake: mooncake, bootstrap_port: 8999, labels: {zone: a}}\n"
        "  - {url: 'http://d:8000', role: decode}\n"
        "  - {url: 'http://b:8000'}\n"
    )
    first, second, third = static.replicas(config.read(file, {}).replicas)
    assert (first.role, first.handshake, first.bootstrap_port, first.labels) == (
        Role.PREFILL,
        "mooncake",
        8999,
        {"zone": "a"},
    )
    assert (second.role, second.handshake) == (Role.DECODE, None)
    assert third.role is Role.BOTH
    file.write_text("replicas:\n  - {url: 'http://p:8000', role: decoder}\n")
    with pytest.raises(ConfigError, match=r"replicas\.0\.role"):
        config.read(file, {})
