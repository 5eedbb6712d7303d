"""Multi-turn chats through locust: `locust -f loadtest/locustfile.py -H http://127.0.0.1:8080`.

Each user holds conversations of a coding agent, turn by turn, streaming. Beside locust's own figures it reports
the time to the first content (TTFT) and the share of prompt tokens found in a cache (as the metric "cached %").
Locust is closed-loop: a user waits for its reply. Where arrivals must not wait, use `python -m loadtest.open`.
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from typing import Any  # locust hands its environment and arguments through untyped

import msgspec
from locust import HttpUser, between, events, task

from router.sim.coding import CodingAgent, coding_conversations, standard_library
from router.sim.workload import Conversation, Turn


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_knobs(parser: ArgumentParser) -> None:
    knobs = parser.add_argument_group("conversations")
    knobs.add_argument("--model", default="", env_var="HOMING_MODEL", help="Default: the first that /v1/models names.")
    knobs.add_argument("--turns", type=int, default=6, env_var="HOMING_TURNS")
    knobs.add_argument("--turn-characters", type=int, default=4_000, env_var="HOMING_TURN_CHARACTERS")
    knobs.add_argument("--max-tokens", type=int, default=32, env_var="HOMING_MAX_TOKENS")
    knobs.add_argument("--conversation-seed", type=int, default=1, env_var="HOMING_SEED")


@events.init.add_listener  # type: ignore[untyped-decorator]
def share_conversations(environment: Any, **_: Any) -> None:
    """One endless round of conversations for all users, so that two users never hold the same one at once."""
    knobs: Namespace = environment.parsed_options
    shape = CodingAgent(
        conversations=200, turns=knobs.turns, turn_characters=knobs.turn_characters, max_tokens=knobs.max_tokens
    )
    made = coding_conversations(shape, standard_library(), knobs.conversation_seed)
    environment.conversations = itertools.cycle(made)


class Agent(HttpUser):
    """Reads, asks, thinks, asks again."""

    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        model = self.environment.parsed_options.model
        self.model = model or self.client.get("/v1/models", name="models").json()["data"][0]["id"]
        self.turns: list[Turn] = []

    @task
    def next_turn(self) -> None:
        if not self.turns:
            conversation: Conversation = next(self.environment.conversations)
            self.turns = [
                Turn(0.0, conversation.name, number, ask.prompt, ask.max_tokens)
                for number, ask in enumerate(conversation.asks)
            ]
        turn = self.turns.pop(0)
        headers = {"content-type": "application/json", "x-session-id": f"{id(self)}-{turn.conversation}"}
        begin_seconds = time.perf_counter()
        with self.client.post(
            turn.path, data=turn.body(self.model), headers=headers, name="chat", stream=True, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {response.text[:200]}")
                return
            ended = heard = False
            for line in response.iter_lines(chunk_size=None):
                if line == b"data: [DONE]":
                    ended = True
                elif line.startswith(b"data: "):
                    event = msgspec.json.decode(line[6:])
                    if not heard and _carries_output(event):
                        heard = True
                        self._note("TTFT", 1000 * (time.perf_counter() - begin_seconds))
                    self._note_cached(event.get("usage"))
            if ended:
                response.success()
            else:
                response.failure("the stream ended without [DONE]")

    def _note_cached(self, usage: dict[str, Any] | None) -> None:
        details = (usage or {}).get("prompt_tokens_details") or {}
        if usage and details.get("cached_tokens") is not None:
            self._note("cached %", 100 * details["cached_tokens"] / max(1, usage["prompt_tokens"]))

    def _note(self, kind: str, value: float) -> None:
        self.environment.events.request.fire(
            request_type=kind, name="chat", response_time=value, response_length=0, exception=None, context={}
        )


def _carries_output(event: dict[str, Any]) -> bool:
    return any(
        delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content")
        for delta in (choice.get("delta") or {} for choice in event.get("choices") or [])
    )
