"""Chats and agents through locust: `locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 [ChatUser] [AgentUser]`.

People chat over several turns and think in between; agents call tools turn after turn, almost without a pause. Both
share system prompts within their kind, and stream. Beside locust's own rows, whose time is that of the whole answer:

    TTFT    chat | agent    milliseconds to the first content; its size column is the mean prompt, in tokens
    HIT %   chat | agent    share of each prompt found in a cache; its size column is the mean hit, in tokens

so the page and the CSV show their percentiles, from many workers too; the aggregated row adds up unlike things. The
end tells hit ratios by tokens. Locust is closed-loop: a user waits for its reply. Where arrivals must not wait, use
`python -m loadtest.open`.
"""

from __future__ import annotations

import contextlib
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any  # locust hands its environment and arguments through untyped

from locust import HttpUser, between, events, task
from locust.runners import WorkerRunner
from requests import RequestException
from rich.console import Console
from rich.table import Table

from loadtest.talks import Talk, TalkShape, agents, people
from router.sim.coding import standard_library
from router.sim.watch import Watch

KINDS = ("chat", "agent")
PERCENTILES = (0.5, 0.9, 0.99)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_knobs(parser: ArgumentParser) -> None:
    usual = TalkShape()
    knobs = parser.add_argument_group("conversations")
    knobs.add_argument("--model", default="", env_var="HOMING_MODEL", help="Default: the first that /v1/models names.")
    for name, value in (
        ("turns", usual.turns),
        ("turn-characters", usual.turn_characters),
        ("system-prompts", usual.system_prompts),
        ("system-characters", usual.system_characters),
        ("max-tokens", usual.max_tokens),
    ):
        knobs.add_argument(f"--{name}", type=int, default=value, env_var=f"HOMING_{name.replace('-', '_').upper()}")
    knobs.add_argument("--conversation-seed", type=int, default=1, env_var="HOMING_SEED")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def share_talks(environment: Any, **_: Any) -> None:
    """One endless round of conversations for all users of a kind and process, each worker's its own: no two users hold
    the same one at once. Another run goes on with the round, or it would find its conversations cached.
    """
    if hasattr(environment, "talks"):
        return
    knobs: Namespace = environment.parsed_options
    shape = TalkShape(
        knobs.turns, knobs.turn_characters, knobs.system_prompts, knobs.system_characters, knobs.max_tokens
    )
    seed = 1_000 * knobs.conversation_seed + getattr(environment.runner, "worker_index", 0)
    sources = standard_library()
    environment.talks = {"chat": people(shape, sources, seed), "agent": agents(shape, sources, seed)}


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def tell_hits(environment: Any, **_: Any) -> None:
    """On stderr, since `--json` has the other stream. Workers leave it to their master."""
    if isinstance(environment.runner, WorkerRunner):
        return
    entries = environment.stats.entries
    table = Table(title="Hit ratio by tokens, and time to first token")
    for heading in ("users", "requests", "hit ratio", *(f"TTFT p{100 * share:g}" for share in PERCENTILES)):
        table.add_column(heading, justify="left" if heading == "users" else "right")
    for kind in KINDS:
        ttft, hits = entries.get((kind, "TTFT")), entries.get((kind, "HIT %"))
        if ttft is None:
            continue
        known = hits is not None and ttft.total_content_length > 0
        ratio = f"{hits.total_content_length / ttft.total_content_length:.1%}" if known else "not told"
        times = [f"{ttft.get_response_time_percentile(share):,.0f} ms" for share in PERCENTILES]
        table.add_row(kind, f"{ttft.num_requests:,}", ratio, *times)
    if table.row_count:
        Console(stderr=True).print(table)


class Talker(HttpUser):
    """A user who holds one conversation after the other, in one session each."""

    abstract = True
    kind: str

    def on_start(self) -> None:
        model = self.environment.parsed_options.model
        self.model = model or self.client.get("/v1/models", name="models").json()["data"][0]["id"]
        self.talks: Iterator[Talk] = self.environment.talks[self.kind]
        self.talk = next(self.talks)

    @task
    def next_turn(self) -> None:
        turn = self.talk.next_turn()
        while turn is None:
            self.talk = next(self.talks)
            turn = self.talk.next_turn()
        headers = {"content-type": "application/json", "x-session-id": f"{id(self)}-{self.talk.name}"}
        watch = Watch(time.perf_counter)
        with self.client.post(
            turn.path, data=turn.body(self.model), headers=headers, name=self.kind, stream=True, catch_response=True
        ) as response:
            pieces = (
                response.iter_content(chunk_size=None) if response.status_code == 200 else [response.content or b""]
            )
            with contextlib.suppress(RequestException):  # cut off: the fault below
                for piece in pieces:
                    watch.feed(piece)
            response.request_meta["response_time"] = 1000 * (time.perf_counter() - watch.begin_seconds)
            fault = str(response.error) if response.status_code == 0 else watch.fault(response.status_code)
            if fault is not None:
                response.failure(fault)
                self.talk = next(self.talks)  # a turn without its answer would be another conversation
                return
            response.success()
        self.talk.heard(watch.text)
        self._note(watch)

    def _note(self, watch: Watch) -> None:
        usage, ttft_seconds = watch.usage, watch.first_token_seconds
        prompt_tokens = usage.prompt_tokens if usage is not None else None
        cached_tokens = usage.cached_tokens if usage is not None else None
        if prompt_tokens and cached_tokens is not None:
            self._fire("HIT %", 100 * cached_tokens / prompt_tokens, cached_tokens)
        else:
            prompt_tokens = 0  # the hit ratio is of the prompts whose hits are known
        if ttft_seconds is not None:
            self._fire("TTFT", 1000 * ttft_seconds, prompt_tokens)

    def _fire(self, row: str, value: float, tokens: int) -> None:
        self.environment.events.request.fire(
            request_type=row, name=self.kind, response_time=value, response_length=tokens, exception=None, context={}
        )


class ChatUser(Talker):
    """Reads, thinks, answers."""

    kind = "chat"
    wait_time = between(1.0, 4.0)


class AgentUser(Talker):
    """Runs a tool, asks again."""

    kind = "agent"
    wait_time = between(0.1, 0.5)
