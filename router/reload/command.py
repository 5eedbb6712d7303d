"""`homing reload`: has a running Homing read its configuration again, and says what became of it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

import click

HELP = """Have a running Homing read its configuration again: its file, the policies it names, the keys of clients.

Everything is checked first. With a fault, or a change that needs a restart, nothing changes and all of it is told; else
it is in force at once. Requests under way are not touched, those that wait go on waiting, and what was learned of the
replicas stays.

\b
In force at once:  auth.api_keys_file (also what it says), limits, policy and shadow_policy (also what they say),
                   probe, readiness, reload, replicas, sessions, timeouts, usage_probe
Need a restart:    all other keys. A change of one is refused together with whatever was changed beside it.

Homing does the same on SIGHUP, without a token, and when it sees that a file has changed (reload.watch_seconds: 0
switches that off).
"""


@click.command("reload", help=HELP)
@click.option("--admin", default="http://127.0.0.1:8081", show_default=True, help="Homing's admin address.")
@click.option(
    "--token-env",
    default="HOMING_ADMIN_TOKEN",
    show_default=True,
    help="The variable that holds the admin token (auth.admin_token_env there).",
)
@click.option("--show", is_flag=True, help="Only show what is in force and what became of the last reload. No token.")
def command(admin: str, token_env: str, *, show: bool) -> None:
    if show:
        told = _ask(admin, "/homing/config", None)
        click.echo(json.dumps(told, indent=2))
        return
    told = _ask(admin, "/homing/reload", os.environ.get(token_env, ""))
    outcome, faults = told["outcome"], told["faults"]
    click.echo(f"{outcome}; in force: {told['hash']}")
    if told["changed"]:
        click.echo(f"changed: {', '.join(told['changed'])}")
    if told["needs_restart"]:
        raise click.ClickException(f"needs a restart, so nothing was changed: {', '.join(told['needs_restart'])}")
    if faults:
        raise click.ClickException("\n".join(faults))


def _ask(admin: str, path: str, token: str | None) -> dict[str, Any]:  # Any: JSON of our own making
    """GET without a token, POST with one."""
    request = urllib.request.Request(admin + path)
    if token is not None:
        request = urllib.request.Request(admin + path, b"", {"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as refusal:
        told = json.load(refusal)
        if "error" in told:
            raise click.ClickException(told["error"]["message"]) from None
    except OSError as fault:
        raise click.ClickException(
            f"No Homing answers at {admin} ({fault}). Give its admin port with --admin."
        ) from None
    return told
