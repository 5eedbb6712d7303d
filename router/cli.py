"""The command line: `homing serve`, `record`, `simulate`, `compare`, `doctor`, `explain` and the rest."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from router import config, demo, process
from router.discovery.kube_client import KubeClient
from router.doctor import command as doctor
from router.errors import ConfigError
from router.explain import show
from router.lab import compare, record, simulate
from router.policy import load
from router.reload import command as reload
from router.reload.source import ConfigSource
from router.sharing.redis import missing_client
from router.sim import server as sim_server

EXPLAIN_WIDTH = 140  # a candidate a line, whatever the terminal

SERVE_HELP = """Serve one OpenAI-compatible endpoint in front of your replicas.

\b
From flags alone:
  homing serve --replica http://a:8000 --replica http://b:8000
From a file (flags win over it):
  homing serve homing.yaml --policy least_loaded

Models, block size and KV-event addresses are learned from the replicas. For exact routing start vLLM with

\b
  --enable-prompt-tokens-details
  --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq",
                       "endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}'

Without events Homing still routes, by what it sent where; it says so at start-up, per model.

Replicas that come and go are found (`discovery` in the file), with or without some that are named:

\b
  homing serve --replicas-file replicas.yaml   a YAML list of `- url: http://HOST:PORT`, looked at once a second
  homing serve --pods app=vllm --namespace llm            ready pods; those that terminate drain
  homing serve --service vllm --replica-port http         the endpoints of a Service

In a pod the service account is used, elsewhere the kubeconfig. A replica that leaves is sent nothing new, and what is
under way there ends; a newcomer's share of the load grows over limits.slow_start_seconds.

Several routers before one fleet each hear all KV events, but not each other's requests. Give them one Redis or Valkey:

\b
  homing serve homing.yaml --redis redis://cache:6379/0

Each then counts what the others have open where, within some tens of milliseconds, and starts from the speeds they
have learned. No request waits for Redis; while it is away each router works alone and says so. All must call a
replica by the same id. A password comes from the variable that shared.password_env names.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Homing sends each prompt to the LLM replica where its KV cache is already warm.

    \b
    Try it without a GPU:         homing demo
    Put it before your engines:   homing serve --replica http://HOST:8000 --replica http://HOST:8001
    Ask why:                      homing explain REQUEST_ID
    Try a policy on your traffic: homing record, then homing simulate POLICY
    """


@main.command(help=SERVE_HELP)
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option("--replica", "replicas", multiple=True, metavar="URL", help="A replica, http://HOST:PORT. Repeat it.")
@click.option("--replicas-file", metavar="FILE", help="Replicas that come and go, from a file that is watched.")
@click.option("--pods", metavar="SELECTOR", help="Replicas that are Kubernetes pods, by label selector: app=vllm.")
@click.option("--service", metavar="NAME", help="Replicas behind a Kubernetes Service, by its EndpointSlices.")
@click.option("--namespace", help="Of the pods or Service.  [default: Homing's own, or the kubeconfig's]")
@click.option("--replica-port", metavar="PORT|NAME", help="Of the pods or Service.  [default: the first there is]")
@click.option(
    "--kubeconfig", metavar="FILE", help="The way to the API server.  [default: the service account, or yours]"
)
@click.option(
    "--redis", "redis_url", metavar="URL", help="Where routers tell each other their load.  [default: nowhere]"
)
@click.option("--policy", help="A shelf name (see `homing policies`) or a YAML file.  [default: cache_aware]")
@click.option(
    "--shadow-policy",
    metavar="NAME|FILE",
    help="A second policy that scores every request without acting: how often it disagrees and at what predicted price "
    "is in /metrics (homing_shadow_*) and in `homing explain`.",
)
@click.option("--tokenizer", metavar="DIR|HF_ID|auto", help="Where the model's tokenizer.json is.  [default: auto]")
@click.option("--host", help="Where to listen.  [default: 0.0.0.0]")
@click.option("--port", type=int, help="The endpoint's port.  [default: 8080]")
@click.option("--admin-port", type=int, help="Metrics and /homing/*, on loopback.  [default: 8081]")
@click.option("--quiet", is_flag=True, help="No line per finished request.")
def serve(
    config_file: Path | None,
    replicas: tuple[str, ...],
    replicas_file: str | None,
    pods: str | None,
    service: str | None,
    namespace: str | None,
    replica_port: str | None,
    kubeconfig: str | None,
    redis_url: str | None,
    policy: str | None,
    shadow_policy: str | None,
    tokenizer: str | None,
    host: str | None,
    port: int | None,
    admin_port: int | None,
    quiet: bool,
) -> None:
    discovery = _discovery(replicas_file, pods, service, namespace, replica_port, kubeconfig)
    source = _source(
        config_file, replicas, discovery, redis_url, policy, shadow_policy, tokenizer, host, port, admin_port
    )
    _run(process.serve(source, log=None if quiet else sys.stdout.buffer))


@main.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
def check(config_file: Path) -> None:
    """Check a configuration file and the policy it names; every fault at once, exit status 1 if any."""
    faults: list[str] = []
    try:
        settings = ConfigSource(config_file, {}).read().config
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    found = "".join(f", more from {where}" for where in _discovered(settings, faults))
    shared = ""
    if settings.shared.redis_url is not None:
        shared = f" Load is shared through {settings.shared.redis_url} as {settings.shared.name} (not asked)."
        faults.extend(missing_client())
    if faults:
        raise click.ClickException("\n".join(faults))
    click.echo(f"{config_file}: good. {len(settings.replicas)} replicas{found}, policy {settings.policy}.{shared}")


def _discovered(settings: config.Config, faults: list[str]) -> Iterator[str]:
    """Where replicas will be found, as far as that can be told without asking anybody."""
    discovery = settings.discovery
    if discovery.file is not None:
        try:
            yield f"{discovery.file} ({len(config.read_replicas(discovery.file))} now)"
        except ConfigError as fault:
            faults.extend(fault.faults)
    if discovery.kubernetes is not None:
        try:
            client = KubeClient(discovery.kubernetes)
        except ConfigError as fault:
            faults.extend(fault.faults)
        else:
            yield f"{client.what} in namespace {client.namespace} by {client.where} (not asked)"


@main.command()
def policies() -> None:
    """The policies on the shelf, and when to choose each."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    table.add_column("when to choose it")
    for policy in load.shelf():
        table.add_row(policy.name, policy.description)
    Console().print(table)


@main.command()
@click.argument("request_id")
@click.option("--admin", default="http://127.0.0.1:8081", show_default=True, help="Homing's admin address.")
@click.option("--json", "as_json", is_flag=True, help="The whole receipt as JSON.")
def explain(request_id: str, admin: str, as_json: bool) -> None:
    """Why a request went where it went, and what became of it.

    REQUEST_ID is Homing's own: it stands in the log line, and in the response header x-homing-request-id
    of a request sent with `x-homing-explain: 1`.
    """
    try:
        with urllib.request.urlopen(f"{admin}/homing/explain/{request_id}", timeout=5) as answer:
            receipt = json.load(answer)
    except urllib.error.HTTPError as fault:
        message = json.load(fault).get("error", {}).get("message", f"status {fault.code}")
        raise click.ClickException(message) from None
    except OSError as fault:
        raise click.ClickException(
            f"No Homing answers at {admin} ({fault}). Give its admin port with --admin."
        ) from None
    if as_json:
        click.echo(json.dumps(receipt, indent=2))
        return
    console = Console()
    show(receipt, console if console.width >= EXPLAIN_WIDTH else Console(width=EXPLAIN_WIDTH))


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sim(arguments: tuple[str, ...]) -> None:
    """Simulated vLLM replicas alone, so that any router can be put before them."""
    sim_server.main(arguments, prog="homing sim")


main.add_command(demo.command, "demo")
main.add_command(compare.command, "compare")
main.add_command(record.command, "record")
main.add_command(simulate.command, "simulate")
main.add_command(doctor.command, "doctor")
main.add_command(reload.command, "reload")


@main.command()
def version() -> None:
    """Homing's version."""
    click.echo(importlib.metadata.version("homing"))


def _discovery(
    replicas_file: str | None,
    pods: str | None,
    service: str | None,
    namespace: str | None,
    replica_port: str | None,
    kubeconfig: str | None,
) -> dict[str, Any]:  # Any: checked by config.read
    port: int | str | None = int(replica_port) if replica_port and replica_port.isdecimal() else replica_port
    told = {
        "selector": pods,
        "service": service,
        "namespace": namespace,
        "port": port,
        "kubeconfig": kubeconfig,
    }
    kubernetes = {key: value for key, value in told.items() if value is not None}
    return {
        **({"file": replicas_file} if replicas_file else {}),
        **({"kubernetes": kubernetes} if kubernetes else {}),
    }


def _source(
    config_file: Path | None,
    replicas: tuple[str, ...],
    discovery: dict[str, Any],
    redis_url: str | None,
    policy: str | None,
    shadow_policy: str | None,
    tokenizer: str | None,
    host: str | None,
    port: int | None,
    admin_port: int | None,
) -> ConfigSource:
    listen = {"host": host, "port": port, "admin_port": admin_port}
    overrides: dict[str, Any] = {  # Any: checked by config.read
        "listen": {key: value for key, value in listen.items() if value is not None},
        "tokens": {"tokenizer": tokenizer} if tokenizer else {},
    }
    if replicas:
        overrides["replicas"] = [{"url": url} for url in replicas]
    if discovery:
        overrides["discovery"] = discovery
    if redis_url:
        overrides["shared"] = {"redis_url": redis_url}
    if policy:
        overrides["policy"] = policy
    if shadow_policy:
        overrides["shadow_policy"] = shadow_policy
    return ConfigSource(config_file, overrides)


def _run(work: Coroutine[Any, Any, None]) -> None:  # Any: what a coroutine yields is the loop's business
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
