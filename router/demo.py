"""`homing demo`: what cache-aware routing is worth, shown on this machine in a minute and a half.

Four simulated replicas run in a child process. Their KV caches hold 40 % of what the conversations fill, all together.
The same conversations at the same moments go through Homing under `round_robin`, then, with fresh replicas, under
`cache_aware`. Both are shown side by side; then Homing keeps serving, so that it can be tried by hand.

With `--pools 2p2d` the same replicas are shown twice too: all for all under `cache_aware`, then so many for
prefill and so many for decode under `disaggregated`. Which is better depends on the load, and the table says.

The replicas' speed is chosen for the load, not for the result: so that computing every distinct token just once takes
LOAD of the fleet's time. What routing does not find in a cache comes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router import app, config
from router.errors import ConfigError
from router.house import House
from router.sim.caller import Caller, CallFailed
from router.sim.coding import CodingAgent, coding_conversations, standard_library
from router.sim.drive import drive
from router.sim.footprint import BLOCK_TOKENS, Footprint, footprint
from router.sim.ports import free_run, is_free
from router.sim.record import Record
from router.sim.report import Summary, as_json, faults, side_by_side, summarise
from router.sim.server import roles_of
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, TextError, Tokens
from router.sim.timing import LLAMA3_70B_H100_TP2
from router.sim.traces import load_conversations
from router.sim.workload import Arrivals, Conversation, Workload, schedule

POLICIES = ("round_robin", "cache_aware")
POOL_POLICIES = ("cache_aware", "disaggregated")  # the first without roles
MODEL = "sim"
REPLICAS = 4
KV_SHARE = 0.4  # of the working set, in all replicas together
LOAD = 0.33  # of the fleet's time, were every distinct token computed once

# Many short conversations rather than few long ones: a long one comes back to each replica often enough for round robin
# to look good. Half a minute of arrivals a run leaves time to start and to drain within a minute and a half.
SHAPE = CodingAgent(
    conversations=130, turns=4, turn_characters=7_000, system_prompts=8, system_characters=600, max_tokens=12
)
ARRIVALS = Arrivals(starts_per_second=6.0, think_seconds=2.0)
RUN_SECONDS = 28.0  # what a file's conversations are spread over
MAX_FILE_REQUESTS = 600

START_SECONDS = 30.0
WARMED = ("prefill", "decode")
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    conversations: Path | None = None  # None: the coding agent
    seed: int = 1
    once: bool = False  # end after the table
    as_json: bool = False
    port: int = 8080
    admin_port: int = 8081
    roles: tuple[str, ...] = ()  # of replicas in pools; empty: four without

    @property
    def replicas(self) -> int:
        return len(self.roles) or REPLICAS

    @property
    def policies(self) -> tuple[str, str]:
        return POOL_POLICIES if self.roles else POLICIES


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and on what replicas."""

    workload: Workload
    blocks: int  # of each replica
    speedup: float
    footprint: Footprint
    replicas: int = REPLICAS


@click.command()
@click.option("--conversations", type=click.Path(path_type=Path), metavar="FILE", help="OpenAI messages or a trace.")
@click.option("--seed", default=1, show_default=True, help="Of the conversations and their arrivals.")
@click.option("--once", is_flag=True, help="End after the table instead of serving on.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
@click.option("--port", default=8080, show_default=True, help="Of the endpoint; another if it is taken.")
@click.option("--admin-port", default=8081, show_default=True, help="Of metrics and receipts.")
@click.option("--pools", metavar="NpMd", help="Prefill and decode replicas, as 2p2d, against as many of both kinds.")
def command(
    conversations: Path | None, seed: int, once: bool, as_json: bool, port: int, admin_port: int, pools: str | None
) -> None:
    """Show round robin and cache-aware routing side by side, on simulated replicas.

    No GPU and no download: four simulated replicas, and a coding agent that reads Python's own standard library.
    Takes about a minute and a half, then keeps serving until you press Ctrl-C.
    """
    try:
        roles = roles_of(pools) if pools else ()
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    options = DemoOptions(conversations, seed, once, as_json, port, admin_port, roles)
    try:
        uvloop.run(run_demo(options))
    except* ConfigError as group:  # alone, or from within the task groups of a running house
        raise click.ClickException(_first(group).message) from None
    except* KeyboardInterrupt:
        sys.exit(130 if once else 0)


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    fault = group.exceptions[0]
    return _first(fault) if isinstance(fault, BaseExceptionGroup) else fault


async def run_demo(options: DemoOptions) -> None:
    """The whole demo. Raises ConfigError for a file that can't be used, and for replicas that do not start."""
    console = Console(stderr=options.as_json)
    plan = await asyncio.to_thread(make_plan, options)
    _tell_plan(console, plan)
    summaries: list[Summary] = []
    for policy in options.policies:
        last = policy == options.policies[-1]
        roles = options.roles if last else ()
        # The first run takes any port: the asked one must be free for the house that stays.
        ports = (options.port, options.admin_port) if last else (0, 0)
        async with (
            _replicas(plan, options.seed, roles) as urls,
            app.running(_settings(policy, urls, ports, roles)) as house,
        ):
            await _ready(house.url)
            await _warm(house, roles)
            records = await _run(console, policy, plan.workload, house.url)
            summaries.append(summarise(policy, records))
            for fault in faults(records):
                console.print(f"[red]{policy}: {fault}")
            if last:
                reply = await _try_curl(house.url)
                if options.as_json:
                    click.echo(json.dumps({**as_json(summaries), "curl": reply}, indent=2))
                else:
                    console.print(side_by_side(summaries))
                if not options.once:
                    _tell_curl(console, house.url, house.admin_url, policy)
                    await asyncio.get_running_loop().create_future()


def make_plan(options: DemoOptions) -> Plan:
    """The workload of these options and the replicas it needs. CPU-bound, for it tokenizes everything: 3 s."""
    conversations, arrivals = _conversations(options)
    workload = schedule(conversations, arrivals, options.seed)
    try:
        filled = footprint(conversations, Tokens(SHIPPED_TOKENIZER), ChatTemplate(SHIPPED_TOKENIZER))
    except TextError as fault:
        source = options.conversations or "the coding agent"
        raise ConfigError([f"{source}: the chat template refuses a conversation: {fault}"]) from fault
    # Two of the longest prompts must fit, whatever the share says, or a replica could not run it.
    kv_tokens = max(KV_SHARE * filled.distinct_tokens / options.replicas, 2 * filled.longest_tokens)
    once_seconds = filled.distinct_tokens * LLAMA3_70B_H100_TP2.per_new_token_seconds
    speedup = once_seconds / (LOAD * options.replicas * max(1.0, workload.span_seconds))
    return Plan(workload, 1 + int(kv_tokens / BLOCK_TOKENS), speedup, filled, options.replicas)


def _conversations(options: DemoOptions) -> tuple[Sequence[Conversation], Arrivals]:
    if options.conversations is None:
        return coding_conversations(SHAPE, standard_library(), options.seed), ARRIVALS
    loaded = load_conversations(options.conversations, max_tokens=SHAPE.max_tokens)
    sizes = itertools.accumulate(len(conversation.asks) for conversation in loaded)
    taken = [c for c, size in zip(loaded, sizes, strict=True) if size <= MAX_FILE_REQUESTS] or list(loaded[:1])
    turns = max(len(conversation.asks) for conversation in taken)
    # Long conversations think less, so that they end in time: arrivals then overlap as much as the file allows.
    think_seconds = min(ARRIVALS.think_seconds, 0.7 * RUN_SECONDS / turns)
    return taken, Arrivals(starts_per_second=len(taken) / (0.5 * RUN_SECONDS), think_seconds=think_seconds)


@contextlib.asynccontextmanager
async def _replicas(plan: Plan, seed: int, roles: Sequence[str]) -> AsyncIterator[list[str]]:
    """Fresh simulated replicas in a child process: their URLs, once all listen."""
    port = free_run(plan.replicas)
    arguments: dict[str, object] = {
        "--replicas": plan.replicas,
        "--port": port,
        "--model": MODEL,
        "--blocks": plan.blocks,
        "--block-size": BLOCK_TOKENS,
        "--speedup": f"{plan.speedup:.4f}",
        "--seed": seed,
    }
    if roles:
        arguments["--pools"] = f"{roles.count('prefill')}p{roles.count('decode')}d"
    words = [str(word) for pair in arguments.items() for word in pair]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.sim.server", *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await child.stdout.readline()  # it says so when every port is open
        except TimeoutError:
            ready = b""
        if not ready:
            raise ConfigError([f"The simulated replicas did not start on port {port} within {START_SECONDS:g} s."])
        yield [f"http://127.0.0.1:{port + replica}" for replica in range(plan.replicas)]
    finally:
        await _stop(child)


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def _settings(policy: str, urls: Sequence[str], ports: tuple[int, int], roles: Sequence[str]) -> config.Config:
    port, admin_port = (port if port and is_free(port) else 0 for port in ports)
    listen = {"host": "127.0.0.1", "port": port, "admin_port": admin_port}
    tokens = {"tokenizer": str(SHIPPED_TOKENIZER)}
    names = [f"{role}-{number}" for number, role in enumerate(roles or ["replica"] * len(urls))]
    replicas: list[dict[str, str]] = [{"id": name, "url": url} for name, url in zip(names, urls, strict=True)]
    for replica, role in zip(replicas, roles, strict=False):
        replica["role"] = role
    return config.read(None, {"replicas": replicas, "policy": policy, "listen": listen, "tokens": tokens})


async def _run(console: Console, policy: str, workload: Workload, url: str) -> list[Record]:
    columns = (
        TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("hit ratio {task.fields[hit]:.0%}"),
    )  # fmt: skip
    prompt_tokens = cached_tokens = 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(policy, total=len(workload.turns), hit=0.0)

        def show(record: Record) -> None:
            nonlocal prompt_tokens, cached_tokens
            prompt_tokens += record.prompt_tokens or 0
            cached_tokens += record.cached_tokens or 0
            progress.update(bar, advance=1, hit=cached_tokens / max(1, prompt_tokens))

        return await drive(workload, url, model=MODEL, on_record=show)


async def _ready(url: str) -> None:
    """Wait until Homing knows its replicas. Raises ConfigError when it does not come to that."""
    caller = Caller(url)
    try:
        async with asyncio.timeout(START_SECONDS):
            while (await caller.get("/ready")).status != 200:  # noqa: ASYNC110  asked over HTTP, as others must
                await asyncio.sleep(0.05)
    except (TimeoutError, CallFailed) as fault:
        raise ConfigError([f"Homing at {url} was not ready within {START_SECONDS:g} s: {fault}"]) from fault
    finally:
        caller.close()


async def _warm(house: House, roles: Sequence[str]) -> None:
    """Wait until every prefill replica has handed something to every decode replica."""
    seats = house.roster.present()
    donors, takers = ([seat for seat, one in zip(seats, roles, strict=False) if one == role] for role in WARMED)
    async with asyncio.timeout(START_SECONDS):
        while not all(house.pairs.is_open(donor, taker) for donor in donors for taker in takers):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


CURL_BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16})


async def _try_curl(url: str) -> dict[str, object]:
    """What the printed curl will get: its status and replica."""
    caller = Caller(url)
    try:
        reply = await caller.post("/v1/chat/completions", CURL_BODY.encode(), [(b"x-homing-explain", b"1")])
    except CallFailed as fault:
        return {"status": None, "error": str(fault)}
    finally:
        caller.close()
    return {"status": reply.status, "replica": reply.headers.get(b"x-homing-replica", b"").decode()}


def _tell_plan(console: Console, plan: Plan) -> None:
    workload, kv_tokens = plan.workload, (plan.blocks - 1) * BLOCK_TOKENS * plan.replicas
    console.print(
        f"{len(workload.turns)} requests in {workload.span_seconds:.0f} s, {plan.footprint.distinct_tokens:,} distinct "
        f"tokens. {plan.replicas} simulated replicas hold {kv_tokens / plan.footprint.distinct_tokens:.0%} of them "
        f"together ({LLAMA3_70B_H100_TP2.source}, {plan.speedup:.2f} times as fast)."
    )


def _tell_curl(console: Console, url: str, admin_url: str, policy: str) -> None:
    console.print(f"\nServing on {url} under {policy}, metrics on {admin_url}/metrics. Ctrl-C ends. Try:\n")
    # Without rich's wrapping and highlighting, so that it can be copied.
    console.print(
        f"curl -i {url}/v1/chat/completions -H 'content-type: application/json' -H 'x-homing-explain: 1' \\\n"
        f"  -d '{CURL_BODY}'\n",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


if __name__ == "__main__":
    command()
