"""`homing record`: what a running Homing's requests looked like, into a file that can be replayed."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import zstandard
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from router.errors import ConfigError
from router.sim.recording import FIRST_LINE, LAST_LINE, Sums, sums_of

SILENCE_SECONDS = 15.0  # Homing says something each second, though it be an empty line
COMPRESSED = ".zst"
LEVEL, WINDOW_LOG = 3, 24  # prompts repeat each other's ids over megabytes: a window that reaches back so far

Write = Callable[[bytes], object]


@dataclass(slots=True)
class Taken:
    """What came so far. Changed by `_take` alone."""

    requests: int = 0
    without_ids: int = 0  # their tokens were not known
    sums: Sums | None = None  # None: the stream broke off, or was ended here


@click.command()
@click.option(
    "--homing", "admin", default="http://127.0.0.1:8081", show_default=True, help="The admin address of a Homing."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="traffic.jsonl.zst",
    show_default=True,
    help="Where to write it. A name without .zst is written uncompressed.",
)
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--model", help="Only requests to this model.  [default: all]")
@click.option(
    "--max-megabytes", default=1024, show_default=True, type=click.IntRange(min=1), help="End when it is so large."
)
def command(admin: str, out: Path, seconds: float, model: str | None, max_megabytes: int) -> None:
    """Record what a running Homing's requests look like, to replay them: no text, no tokens, no names.

    \b
      homing record --seconds 600 --out traffic.jsonl.zst
      homing simulate mine.yaml --workload traffic.jsonl.zst
      homing compare round_robin cache_aware --workload traffic.jsonl.zst

    Nothing is recorded unless this command asks for it, over the admin port, and nothing is kept where Homing runs. A
    line tells of one request: when it came (to 10 ms), how many tokens it and its answer had, an id for each run of 64
    tokens or more of its prompt, its session, how much of it was cached and when its first token came. Ids and sessions
    are hashes under a key that is drawn for the recording and never written: they tell which prompts begin alike, and
    nothing else. A first line tells of the fleet: policy, replicas, cache.

    With several models behind one Homing record one of them, --model: a replay knows only one. The file holds what came
    in that time; answers still being written are waited for, half a minute at most. Ctrl-C ends early and keeps what
    came.
    """
    if out.exists():
        raise click.ClickException(f"{out} exists already. Give another name with --out, or remove it.")
    wanted = {"seconds": seconds, **({"model": model} if model else {})}
    url = f"{admin.rstrip('/')}/homing/record?{urllib.parse.urlencode(wanted)}"
    taken = Taken()
    try:
        with _listening(url, admin) as lines, _writing(out) as (write, written_bytes):
            try:
                _take(lines, taken, write, lambda: written_bytes() >= max_megabytes * 2**20, seconds)
            except KeyboardInterrupt:
                click.echo("ended by you", err=True)
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    _tell(taken, out)


@contextmanager
def _listening(url: str, admin: str) -> Iterator[Iterable[bytes]]:
    try:
        answer = urllib.request.urlopen(url, timeout=SILENCE_SECONDS)
    except urllib.error.HTTPError as fault:
        message = json.load(fault).get("error", {}).get("message", f"status {fault.code}")
        raise ConfigError([f"{admin}: {message}"]) from None
    except (OSError, ValueError) as fault:
        raise ConfigError([f"No Homing answers at {admin} ({fault}). Give its admin address with --homing."]) from None
    with answer:
        yield answer


@contextmanager
def _writing(path: Path) -> Iterator[tuple[Write, Callable[[], int]]]:
    """How to write, and how many bytes are written. Raises ConfigError."""
    try:
        file = path.open("xb")
    except OSError as fault:
        raise ConfigError([f"{path}: cannot be written: {fault.strerror}."]) from fault
    with file:
        if path.suffix != COMPRESSED:
            yield file.write, file.tell
            return
        settings = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, enable_ldm=True)
        compressor = zstandard.ZstdCompressor(compression_params=settings)
        with compressor.stream_writer(file, closefd=False) as stream:
            yield stream.write, file.tell


def _take(lines: Iterable[bytes], taken: Taken, write: Write, full: Callable[[], bool], seconds: float) -> None:
    """Write lines as they come, until the last one, an end that nobody announced, or a full file."""
    columns = (TextColumn("{task.fields[requests]:,} requests"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=seconds, requests=0)
        try:
            for line in lines:
                progress.update(bar, completed=progress.tasks[0].elapsed or 0.0, requests=taken.requests)
                if line.startswith(LAST_LINE):
                    taken.sums = sums_of(line)
                    return
                if line.isspace():
                    continue
                write(line)
                if not line.startswith(FIRST_LINE):
                    taken.requests += 1
                    taken.without_ids += b'"hash_ids":[]' in line
                if full():
                    click.echo("the file is as large as --max-megabytes allows", err=True)
                    return
        except (OSError, http.client.HTTPException) as fault:
            click.echo(f"Homing is gone: {fault}", err=True)


def _tell(taken: Taken, out: Path) -> None:
    if not taken.requests:
        out.unlink()
        raise click.ClickException("No request came in that time.")
    click.echo(f"{out}: {taken.requests:,} requests, {out.stat().st_size / 1000:,.0f} KB")
    if taken.without_ids:
        click.echo(f"{taken.without_ids:,} of them without ids: shorter than a block, or their tokens were not known.")
    sums = taken.sums
    if sums is None:
        click.echo("It ended early; what came before is whole.")
    elif sums.dropped or sums.left_out:
        click.echo(f"Not in it: {sums.dropped:,} for want of time to write them, {sums.left_out:,} sent to no replica.")
    click.echo(f"Try: homing simulate POLICY --workload {out}")
