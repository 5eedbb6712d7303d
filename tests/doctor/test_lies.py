"""Replicas that read prompts otherwise, hide salts or are not who they seem: found out, with what mends it."""

from __future__ import annotations

import shutil
from pathlib import Path

from router.doctor.finding import Check, Status
from router.sim.text import SHIPPED_TOKENIZER
from tests.doctor.wards import assert_named, disguised, of, order, seen, ward, wrong
from tests.sim.fleets import fleet_config, free_ports, serving
from tests.stories.houses import homing


def with_template(folder: Path, template: str) -> str:
    shutil.copytree(SHIPPED_TOKENIZER, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


async def test_a_wrong_template_is_named_with_the_first_token_that_differs_on_both_sides(tmp_path: Path) -> None:
    other = "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content }}{% endfor %}"
    folder = with_template(tmp_path / "model", other)
    async with ward() as (url,):
        report = await seen(url, tokens={"tokenizer": folder})
    parity = of(report, Check.PARITY)
    assert_named(parity, Status.FAIL, "another chat template", "chat_template.jinja")
    assert "':'" in parity.found  # ours
    assert "'Ċ'" in parity.found  # the engine's: a newline, as the vocabulary writes it
    assert set(wrong(report)) == {Check.PARITY, Check.TOKEN_SOURCE}


async def test_without_a_local_tokenizer_the_engine_reads_and_all_else_is_still_tried(tmp_path: Path) -> None:
    async with ward() as (url,):
        report = await seen(url, tokens={"tokenizer": str(tmp_path)})
        meant = await seen(url, tokens={"source": "engine"})
        none = await seen(url, tokens={"source": "none"})
    assert_named(of(report, Check.TOKEN_SOURCE), Status.WARN, "/tokenize", "tokens.tokenizer")
    assert of(report, Check.PROBE_HIT).status is Status.PASS
    assert not wrong(meant)
    assert_named(of(none, Check.TOKEN_SOURCE), Status.WARN, "load and session only", "tokens.source")


async def test_a_prompt_that_nobody_can_read_is_told(tmp_path: Path) -> None:
    async with ward() as (url,), disguised(url, drops=["/tokenize"]) as door:
        report = await seen(door, tokens={"tokenizer": str(tmp_path)})
    assert_named(of(report, Check.TOKEN_SOURCE), Status.FAIL, "does not answer", "tokenizer.json")
    assert of(report, Check.PROBE_TOKENS).status is Status.SKIPPED


# Lies that a first look does not show


async def test_a_replica_that_reads_chats_otherwise_than_its_tokenizer_says_is_named() -> None:
    async with ward() as (url,):
        await order(url, template_preamble="Be brief.\n")
        report = await seen(url)
        by_engine = await seen(url, tokens={"source": "engine"})
    assert_named(of(report, Check.PARITY), Status.FAIL, "another chat template", "chat_template.jinja")
    assert not wrong(by_engine)  # its own /tokenize tells the truth


async def test_a_replica_whose_chats_are_rewritten_on_the_way_is_named_by_the_tokens_of_its_event() -> None:
    """What tokenizes and what answers differ: only the event shows it."""
    async with ward() as (url,), ward() as (honest,):
        await order(url, template_preamble="Be brief.\n")
        async with disguised(url, elsewhere={"/tokenize": honest}) as door:
            report = await seen(door)
    assert of(report, Check.PARITY).status is Status.PASS
    assert_named(of(report, Check.PROBE_TOKENS), Status.FAIL, "at token 0", "tokens.tokenizer")
    assert "[33 'B', 68 'e'" in of(report, Check.PROBE_TOKENS).found


async def test_a_block_size_announced_wrongly_is_named() -> None:
    async with ward() as (url,):
        await order(url, announce_block_size=64)
        assert_named(of(await seen(url), Check.BLOCK_SIZE), Status.FAIL, "64 tokens, its events carry blocks of 16", "")


async def test_salts_that_events_do_not_show_are_named() -> None:
    async with ward() as (url,):
        await order(url, hide_salts=True)
        report = await seen(url)
    assert_named(of(report, Check.SALT), Status.FAIL, "does not show its salt", "0.18.1")
    assert set(wrong(report)) == {Check.SALT}


async def test_events_lost_before_they_are_numbered_are_named() -> None:
    async with ward() as (url,):
        await order(url, lose_events_ratio=1.0)
        report = await seen(url)
    assert_named(of(report, Check.FLOW), Status.FAIL, "nothing was published", "--kv-events-config")


# The fleet, and what a running Homing says


async def test_two_names_for_one_process_are_found_out() -> None:
    async with ward() as (url,):
        report = await seen(url, url.replace("127.0.0.1", "localhost"))
    assert_named(of(report, Check.DISTINCT), Status.FAIL, "one process", "out of replicas")


async def test_replicas_that_differ_are_told() -> None:
    alter = {
        "/version": lambda _: b'{"version":"0.31.0"}',
        "/v1/models": lambda body: body.replace(b'"root":"', b'"root":"/elsewhere'),
    }
    async with ward(2) as urls, disguised(urls[1], alter=alter) as door:
        report = await seen(urls[0], door)
    assert_named(of(report, Check.SAME_VERSION), Status.WARN, "vllm 0.31.0", "one release")
    assert_named(of(report, Check.SAME_MODEL), Status.WARN, "/elsewhere", "--served-model-name")


async def test_a_policy_that_does_not_load_is_a_failure() -> None:
    async with ward() as (url,):
        report = await seen(url, policy="cash_aware")
    assert_named(of(report, Check.POLICY), Status.FAIL, "cash_aware", "homing policies")


async def test_what_a_running_homing_has_seen_is_told() -> None:
    simulated = fleet_config(replicas=1)
    async with serving(simulated), homing(simulated) as one:
        url = f"http://127.0.0.1:{simulated.port}"
        report = await seen(url, homing=one.house.admin_url)
        stranger = await seen(f"http://127.0.0.1:{free_ports(1)}", homing=one.house.admin_url)
    assert_named(of(report, Check.HOMING), Status.PASS, "trust EXACT", "")
    assert_named(of(stranger, Check.HOMING), Status.WARN, "not among its replicas", "Add it")
    nobody = await seen(url, homing=f"http://127.0.0.1:{free_ports(1)}")
    assert_named(of(nobody, Check.HOMING), Status.FAIL, "no Homing answers", "--homing")
