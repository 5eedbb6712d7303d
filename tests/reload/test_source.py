from __future__ import annotations

from pathlib import Path

import pytest

from router import config
from router.errors import ConfigError
from router.reload.source import ConfigSource, given

POLICY = "name: ours\ndescription: for a test\npicker: round_robin\n"


def test_flags_lie_over_the_file_each_time_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "homing.yaml"
    source = ConfigSource(file, {"policy": "random"})
    for url in ("http://a:8000", "http://b:8000"):
        file.write_text(f"replicas: [{{url: '{url}'}}]\npolicy: round_robin")
        whole = source.read()
        assert (whole.config.replicas[0].url, whole.policy.name) == (url, "random")


def test_faults_of_the_file_and_of_both_policies_are_told_together(tmp_path: Path) -> None:
    file, policy = tmp_path / "homing.yaml", tmp_path / "ours.yaml"
    policy.write_text("name: ours")
    file.write_text(f"replcas: []\npolicy: {policy}\nshadow_policy: nobody\nauth: {{api_keys_file: /nowhere}}")
    with pytest.raises(ConfigError) as told:
        ConfigSource(file, {}).read()
    whole = "\n".join(told.value.faults)
    for part in ("replcas", f"{policy}: picker", "'nobody'", "auth.api_keys_file: /nowhere"):
        assert part in whole


def test_what_it_looks_at_is_every_file_it_would_read_also_after_a_fault(tmp_path: Path) -> None:
    file, policy, keys = (tmp_path / name for name in ("homing.yaml", "ours.yaml", "keys"))
    file.write_text(f"replicas: []\npolicy: {policy}\nauth: {{api_keys_file: {keys}}}")
    keys.write_text("one")
    source = ConfigSource(file, {})
    with pytest.raises(ConfigError):
        source.read()
    assert set(source.look()) == {file, policy, keys}
    assert source.look() == source.read_at
    policy.write_text(POLICY)
    assert source.look() != source.read_at


def test_a_file_that_is_written_anew_with_the_same_words_has_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "homing.yaml"
    file.write_text("replicas: [{url: 'http://a:8000'}]")
    source = ConfigSource(file, {})
    source.read()
    before = source.look()
    words = file.read_text()
    file.unlink()
    file.write_text(words)
    assert source.look() == before


def test_a_configuration_from_nowhere_is_read_as_it_is_with_the_policy_it_names(tmp_path: Path) -> None:
    policy = tmp_path / "ours.yaml"
    policy.write_text(POLICY)
    settings = config.read(None, {"replicas": [{"url": "http://a:8000", "labels": {"zone": "x"}}]})
    assert given(settings).read().config == settings
    source = given(settings.model_copy(update={"policy": str(policy)}))
    assert source.read().policy.name == "ours"
    policy.write_text(POLICY.replace("ours", "other"))
    assert source.look() != source.read_at
    assert source.read().policy.name == "other"


@pytest.mark.parametrize("text", ["[" * 400, 'policy: "a\\0.yaml"', "\x00", "- a", ""])
def test_whatever_stands_there_it_has_been_looked_at_and_is_not_read_again_for_nothing(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "homing.yaml"
    file.write_text(text)
    source = ConfigSource(file, {})
    with pytest.raises((ConfigError, RecursionError, ValueError)):
        source.read()
    assert source.read_at == source.look()
    assert file in source.read_at
