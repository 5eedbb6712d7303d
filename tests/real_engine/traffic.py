"""Clients that hold talks through an endpoint and note what they saw.

Each client holds one talk after the other; a turn follows the last answer after a think time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any  # request bodies and answers are JSON

import httpx

from tests.real_engine.talks import ComeBack, Plan

ANSWER_TOKENS = 12
ANSWER_SECONDS = 60.0
STREAMED, ASKING_FOR_USAGE = 0.5, 0.15  # shares of all turns


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as its client saw it. Times are Unix seconds."""

    tag: str  # sent as x-request-id
    kind: str
    stream: bool
    sent_at: float
    ended_at: float
    status: int | None  # None: no answer at all
    fault: str | None
    prompt_tokens: int | None  # usage, where the client was given one
    cached_tokens: int | None


class Traffic:
    """Clients of one endpoint. Grows: `asked` in the order of the answers. `name` begins every request's tag."""

    def __init__(self, url: str, name: str) -> None:
        self.asked: list[Asked] = []
        self._url = url
        self.name = name
        self._sent = 0
        self._past: list[tuple[str, dict[str, Any]]] = []  # the last question of each talk

    async def hold(self, plans: Iterator[Plan | ComeBack], *, clients: int, think_seconds: float) -> None:
        """Hold the talks; each client takes the next one when its last has ended."""

        async def client(http: httpx.AsyncClient) -> None:
            for plan in plans:
                if isinstance(plan, Plan):
                    await self._talk(http, plan, think_seconds)
                elif len(self._past) >= plan.talks_ago:
                    await self._ask(http, plan.kind, *self._past[-plan.talks_ago])
                    await asyncio.sleep(think_seconds)

        async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as http, asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(client(http))

    async def _talk(self, http: httpx.AsyncClient, plan: Plan, think_seconds: float) -> None:
        chance, talk = Random(plan.seed), plan.talk
        body: dict[str, Any] = {}
        for _ in range(plan.turns):
            body = {"max_tokens": ANSWER_TOKENS, "temperature": 0, **plan.fields, **talk.turn(chance)}
            if chance.random() < STREAMED:
                body["stream"] = True
                if chance.random() < ASKING_FOR_USAGE / STREAMED:
                    body["stream_options"] = {"include_usage": True}
            talk.answered(await self._ask(http, plan.kind, talk.path, body), chance)
            await asyncio.sleep(think_seconds)
        self._past.append((talk.path, body))

    async def _ask(self, http: httpx.AsyncClient, kind: str, path: str, body: Mapping[str, Any]) -> str:
        """Ask once and note what came. What was said, as far as it came."""
        self._sent += 1
        tag = f"{self.name}-{self._sent:04d}"
        sent_at = time.time()
        answer = _Answer()
        try:
            async with http.stream("POST", self._url + path, json=body, headers={"x-request-id": tag}) as response:
                await answer.read(response)
        except httpx.HTTPError as error:
            answer.fault = f"{type(error).__name__} {error}".strip()
        usage = answer.usage
        cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        seen = (answer.status, answer.fault, usage.get("prompt_tokens"), cached_tokens)
        self.asked.append(Asked(tag, kind, bool(body.get("stream")), sent_at, time.time(), *seen))
        return answer.text


class _Answer:
    """An answer as it comes in, whole or as a stream."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.fault: str | None = None

    async def read(self, response: httpx.Response) -> None:
        self.status = response.status_code
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self.fault = "the stream has no end"
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    self.fault = None
                elif line.startswith("data: "):
                    self._take(json.loads(line.removeprefix("data: ")))
        else:
            self._take(json.loads(await response.aread()))
            if self.status != 200:
                self.fault = self.fault or f"status {self.status}"

    def _take(self, answer: Mapping[str, Any]) -> None:
        if "error" in answer:
            self.fault = str(answer["error"].get("message"))
        self.usage = answer.get("usage") or self.usage
        for choice in answer.get("choices", []):
            said = choice.get("message") or choice.get("delta") or choice
            self.text += said.get("content") or said.get("text") or ""
