"""`homing doctor`: examines every replica at once, then the fleet; the exit status tells how it went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import uvloop
import zmq.asyncio
from rich.console import Console

from router import config as configuration
from router.clock import SystemClock
from router.config import Config
from router.discovery import once
from router.doctor.ask import client
from router.doctor.examine import Examination, Surroundings
from router.doctor.finding import Report, Status
from router.doctor.fleet import judge_fleet, judge_policy
from router.doctor.homing import PATH, Entry
from router.doctor.pairs import judge_pairs
from router.doctor.read import Shelf
from router.doctor.report import as_json, show
from router.doctor.shared import judge_shared
from router.engines import sglang
from router.engines.base import Dialect
from router.engines.vllm import Vllm
from router.errors import ConfigError
from router.fleet.replica import ReplicaId
from router.policy import load

BAD_USAGE = 2

AT_ONCE = 32  # replicas examined at the same time
REPORT_WIDTH = 120  # where the output is not a terminal
DIALECTS: tuple[Dialect, ...] = (Vllm(), *sglang.RELEASES)

HELP = """Examine replicas, and tell what keeps Homing from routing exactly, with the flag or key that mends it.

\b
  homing doctor --replica http://a:8000 --replica http://b:8000
  homing doctor homing.yaml
  homing doctor homing.yaml --homing http://127.0.0.1:8081    what a running Homing has seen, too

Asks each replica what it is, listens to its KV events, compares tokens, and sends a live probe: one short prompt
twice and once more with a salt, max_tokens 1, which a few cache blocks remember. --no-probe sends none.
Exit status: 0 when nothing failed, 1 when a check failed, 2 for bad usage or configuration.
"""


class BadConfiguration(click.ClickException):
    exit_code = BAD_USAGE


@click.command(help=HELP)
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option("--replica", "replicas", multiple=True, metavar="URL", help="A replica, http://HOST:PORT. Repeat it.")
@click.option("--tokenizer", metavar="DIR|HF_ID|auto", help="Where the model's tokenizer.json is.  [default: auto]")
@click.option("--api-key-env", metavar="NAME", help="The variable that holds the key replicas want.")
@click.option("--homing", metavar="URL", help="Admin address of a running Homing: adds what it has seen.")
@click.option("--no-probe", is_flag=True, help="Send no prompts: leaves out whatever makes an engine compute.")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True,
              help="Seconds for one question; a completion gets ten times as long.")  # fmt: skip
@click.option("--json", "as_json_form", is_flag=True, help="The report as JSON.")
@click.pass_context
def command(
    context: click.Context,
    config_file: Path | None,
    replicas: tuple[str, ...],
    tokenizer: str | None,
    api_key_env: str | None,
    homing: str | None,
    no_probe: bool,
    timeout_seconds: float,
    as_json_form: bool,
) -> None:
    try:
        settings = configuration.read(config_file, _overrides(replicas, tokenizer, api_key_env))
    except ConfigError as fault:
        raise BadConfiguration(fault.message) from None
    work = examine(
        settings,
        timeout_seconds=timeout_seconds,
        probing=not no_probe,
        homing=None if homing is None else homing.rstrip("/"),
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(work)
    except ConfigError as fault:
        raise BadConfiguration(fault.message) from None
    if as_json_form:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        console = Console()
        show(report, console if console.is_terminal else Console(width=REPORT_WIDTH))
    context.exit(1 if report.count(Status.FAIL) else 0)


async def examine(
    settings: Config,
    *,
    timeout_seconds: float = 4.0,
    probing: bool = True,
    homing: str | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
) -> Report:
    """Every replica that the configuration names or leads to, at once, then what concerns them together.

    Raises ConfigError where replicas cannot be looked for.
    """
    clock = SystemClock()
    replicas = await asyncio.to_thread(once.replicas, settings)
    sockets = zmq.asyncio.Context()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(examination: Examination) -> None:
        async with gate:
            reports[examination.replica.id] = await examination.run()

    reports: dict[ReplicaId, Any] = {}
    try:
        async with client(settings.auth.replica_api_key()) as http:
            around = Surroundings(
                config=settings,
                dialects=dialects,
                http=http,
                context=sockets,
                clock=clock,
                shelf=Shelf(settings, clock.wall),
                timeout_seconds=timeout_seconds,
                probing=probing,
                homing=homing,
                entries=None if homing is None else await _entries(homing, timeout_seconds),
            )
            examinations = [Examination(replica, around) for replica in replicas]
            async with asyncio.TaskGroup() as tasks:
                for examination in examinations:
                    tasks.create_task(one(examination))
    finally:
        sockets.destroy(linger=0)
    known = [examination.known for examination in examinations if examination.known is not None]
    fleet = (
        judge_policy(settings.policy, load.load),
        *await judge_shared(settings.shared, timeout_seconds),
        *(judge_fleet(known) if len(examinations) > 1 else ()),
        *judge_pairs([examination.side for examination in examinations if examination.side is not None]),
    )
    return Report(tuple(reports[examination.replica.id] for examination in examinations), fleet)


async def _entries(homing: str, timeout_seconds: float) -> Sequence[Entry] | None:
    """What a running Homing tells of its replicas. Our key for replicas is none of its business: another client."""
    try:
        async with httpx.AsyncClient(timeout=timeout_seconds, trust_env=False) as http:
            answer = await http.get(homing + PATH)
            told = answer.json()["replicas"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
    return [entry for entry in told if isinstance(entry, dict)] if isinstance(told, list) else None


def _overrides(replicas: tuple[str, ...], tokenizer: str | None, api_key_env: str | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}  # Any: checked by config.read
    if replicas:
        overrides["replicas"] = [{"url": url} for url in replicas]
    if tokenizer:
        overrides["tokens"] = {"tokenizer": tokenizer}
    if api_key_env:
        overrides["auth"] = {"replica_api_key_env": api_key_env}
    return overrides
