"""A receipt in words: what `homing explain` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Json = Mapping[str, Any]  # Any: a receipt as the admin port sends it


def show(receipt: Json, console: Console) -> None:
    """Print one receipt."""
    console.print(f"[bold]{receipt['request_id']}[/bold]  {receipt['endpoint']}  model {receipt['model']}")
    console.print(f"received {receipt['received_at']}, outcome {receipt['outcome']} (status {receipt['status']})")
    first_token = receipt["ttft_seconds"]
    if first_token is not None:
        console.print(f"first token after {first_token:.3f} s, all after {receipt['total_seconds']:.3f} s")
    if receipt.get("held_seconds"):  # an older Homing tells none
        console.print(f"waited {receipt['held_seconds']:.3f} s here for its turn")
    if receipt["fault"]:
        console.print(f"[red]{receipt['fault']}[/red]", highlight=False)
    for number, attempt in enumerate(receipt["attempts"], 1):
        leg = f" ({attempt['leg']})" if attempt["leg"] else ""
        console.print(f"attempt {number}: {attempt['replica']}{leg}, {attempt['ending']}, {attempt['seconds']:.3f} s")
    _show_cache(receipt, console)
    decision = receipt["decision"]
    if decision is not None:
        console.print(f"why: {decision['reason']}  [dim](policy {decision['policy']})[/dim]", highlight=False)
        console.print(_candidates(decision["candidates"]))
    if receipt.get("shadow") is not None:  # a Homing without a shadow, or an older one, tells none
        console.print(_shadow(receipt["shadow"], decision["policy"]), highlight=False)


def _show_cache(receipt: Json, console: Console) -> None:
    decision, verdict = receipt["decision"], receipt["verdict"]
    if receipt["unpredicted"]:
        console.print(f"its cached tokens were not predicted: {receipt['unpredicted'].replace('_', ' ')}")
    elif decision is not None:
        console.print(
            f"{receipt['prompt_tokens']} prompt tokens, {decision['predicted_cached_tokens']} predicted to be cached, "
            f"{receipt['reported_cached_tokens']} reported"
        )
    if verdict is not None and not verdict["judged"]:
        console.print(f"[dim]not judged: {verdict['cause'].replace('_', ' ')}[/dim]")
    elif verdict is not None and not verdict["exact"]:
        console.print(
            f"off by {verdict['error_blocks']:+d} blocks, cause: {verdict['cause'].replace('_', ' ')}",
            highlight=False,
        )


def _shadow(opinion: Json, live: str) -> str:
    """What the shadow policy would have done, and what each of the two thinks of the other's choice."""
    told = f"shadow policy {opinion['policy']}"
    if opinion["agrees"]:
        return f"{told} agrees ({opinion['rule']})"
    prices = [
        f"{abs(seconds):.3f} s {more if seconds >= 0 else less}"
        for seconds, more, less in (
            (opinion["dearer_seconds"], f"dearer as {live} prices it", f"cheaper as {live} prices it"),
            (opinion["missed_seconds"], "cheaper as it prices itself", "dearer as it prices itself"),
        )
        if seconds is not None
    ]
    return f"{told} would have chosen {opinion['replica']} ({opinion['rule']})" + "".join(f", {one}" for one in prices)


def _candidates(rows: list[Json]) -> Table:
    table = Table(box=None, pad_edge=False)
    terms = list(rows[0]["terms_seconds"]) if rows else []
    for heading in ("", "replica", "trust", "cached", "expected", "queued", "open", *terms, "cost s"):
        table.add_column(heading, justify="left" if heading in ("", "replica", "trust") else "right")
    for row in rows:
        table.add_row(
            "*" if row["chosen"] else "" if row["allowed"] else "x",
            row["replica"],
            row["trust"].lower(),
            str(row["held_tokens"]),
            str(row["expected_tokens"]),
            str(round(row["queued_tokens"])),
            str(row["open_requests"]),
            *(f"{row['terms_seconds'][term]:.4f}" for term in terms),
            f"{row['cost_seconds']:.4f}",
        )
    return table
