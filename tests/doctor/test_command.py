from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from router.cli import main
from router.doctor.finding import Check, Status
from router.sim.text import SHIPPED_TOKENIZER
from tests.discovery.test_kubernetes import FakeCluster
from tests.doctor.wards import ward
from tests.sim.fleets import free_ports

FINDING = {"check", "status", "found", "mend"}


async def doctor(*arguments: str) -> Result:
    """In a thread: the command runs a loop of its own, the replicas live in ours."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["doctor", "--timeout", "2", *arguments])


async def test_sound_replicas_give_a_table_and_status_0() -> None:
    async with ward(2) as urls:
        told = await doctor("--replica", urls[0], "--replica", urls[1], "--tokenizer", str(SHIPPED_TOKENIZER))
    assert told.exit_code == 0, told.output
    assert "All is well. 2 replicas: 53 pass." in told.output
    assert "probe hit" in told.output


async def test_replicas_of_a_file_and_of_kubernetes_are_examined_too(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    await cluster.start()
    path, listed = tmp_path / "homing.yaml", tmp_path / "replicas.yaml"
    found = {"file": str(listed), "kubernetes": {"selector": "app=vllm", "kubeconfig": str(cluster.kubeconfig)}}
    path.write_text(json.dumps({"discovery": found, "tokens": {"tokenizer": str(SHIPPED_TOKENIZER)}}))
    async with ward(2) as urls:
        listed.write_text(f"- {{url: '{urls[0]}', id: listed}}")
        await cluster.pod("pod", annotations={"homing/port": urls[1].rpartition(":")[2]})
        told = await doctor(str(path), "--json")
        assert told.exit_code == 0, told.output
        assert [one["replica"] for one in json.loads(told.output)["replicas"]] == ["listed", "pod"]
        await cluster.kill()
        lost = await doctor(str(path))
        assert (lost.exit_code, "pods cannot be listed" in lost.output) == (2, True)


async def test_a_failure_gives_status_1_and_the_flag_on_one_line_to_be_copied() -> None:
    async with ward(reports_cached=False, replays=False) as (url,):
        told = await doctor("--replica", url)
    assert told.exit_code == 1
    assert "Something needs mending." in told.output
    assert "  usage: Start vLLM with --enable-prompt-tokens-details.\n" in told.output


async def test_a_warning_alone_gives_status_0() -> None:
    async with ward(replays=False) as (url,):
        told = await doctor("--replica", url)
    assert told.exit_code == 0, told.output
    assert "could be better" in told.output


async def test_the_json_form_has_the_documented_shape() -> None:
    async with ward() as (url,):
        dead = f"http://127.0.0.1:{free_ports(1)}"
        told = await doctor("--replica", url, "--replica", dead, "--json")
    report = json.loads(told.output)
    assert told.exit_code == 1
    assert set(report) == {"ok", "counts", "replicas", "fleet"}
    assert report["ok"] is False
    assert set(report["counts"]) == {status.value for status in Status}
    assert [(one["url"], one["engine"]) for one in report["replicas"]] == [(url, "vllm"), (dead, None)]
    for one in report["replicas"]:
        assert set(one) == {"replica", "url", "engine", "findings"}
        for finding in one["findings"]:
            assert set(finding) == FINDING
            assert finding["check"] in set(Check)
            assert (finding["mend"] is None) == (finding["status"] in ("pass", "skipped"))
    assert all(set(finding) == FINDING for finding in report["fleet"])
    assert sum(report["counts"].values()) == sum(len(r["findings"]) for r in report["replicas"]) + len(report["fleet"])


async def test_a_configuration_file_is_examined_with_its_event_addresses_and_policy(tmp_path: Path) -> None:
    async with ward() as (url,):
        file = tmp_path / "homing.yaml"
        file.write_text(f"replicas: [{{url: '{url}', id: first}}]\npolicy: least_loaded\n")
        told = await doctor(str(file))
    assert told.exit_code == 0, told.output
    assert "first" in told.output
    assert "least_loaded loads" in told.output


def test_bad_usage_and_bad_configuration_give_status_2(tmp_path: Path) -> None:
    def status(*arguments: str) -> int:
        return CliRunner().invoke(main, ["doctor", *arguments]).exit_code

    file = tmp_path / "homing.yaml"
    file.write_text("replcas: []")
    assert status() == 2
    assert status(str(file)) == 2
    assert status("--replica", "nowhere") == 2
    assert status("--timeout", "0", "--replica", "http://127.0.0.1:9") == 2
    assert status("--api-key-env", "HOMING_TEST_NO_SUCH_VARIABLE", "--replica", "http://127.0.0.1:9") == 2


def test_it_explains_itself() -> None:
    told = CliRunner().invoke(main, ["doctor", "--help"])
    assert told.exit_code == 0
    for word in ("--no-probe", "--json", "Exit", "status", "1 when a check failed"):
        assert word in told.output
