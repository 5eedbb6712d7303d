from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from router.prompt.blocks import pack_tokens
from router.prompt.engine import EngineTokens
from router.prompt.prompt import Tokenized, Unpredicted
from tests.prompt.makers import chat, completion, user


class Engine:
    """Answers with one id per character of what it is asked about, once it is let."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.let = asyncio.Event()
        self.let.set()
        self.fault: Exception | None = None

    async def __call__(self, body: bytes) -> Sequence[int]:
        self.asked.append(body)
        await self.let.wait()
        if self.fault is not None:
            raise self.fault
        asked = json.loads(body)
        return list(range(len(asked.get("prompt") or json.dumps(asked["messages"]))))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_prompt_is_asked_for_once_and_remembered() -> None:
    engine = Engine()
    source = EngineTokens(engine)
    request = chat([user("hello")])
    first = await source.read(request)
    assert isinstance(first, Tokenized)
    assert await source.read(request) == first
    assert await source.read(chat([user("hello")], temperature=1)) == first  # nothing that shapes the prompt
    assert len(engine.asked) == 1
    assert await source.read(chat([user("other!")])) != first


async def test_equal_prompts_in_flight_share_one_call() -> None:
    engine = Engine()
    engine.let.clear()
    source = EngineTokens(engine)
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(source.read(completion("abc"))) for _ in range(5)]
        await settle()
        engine.let.set()
    assert [read.result() for read in reads] == [Tokenized(pack_tokens([0, 1, 2]), 3)] * 5
    assert len(engine.asked) == 1


async def test_a_follower_takes_over_when_the_asker_hangs_up() -> None:
    engine = Engine()
    engine.let.clear()
    source = EngineTokens(engine)
    async with asyncio.TaskGroup() as group:
        asker = group.create_task(source.read(completion("abc")))
        await settle()
        follower = group.create_task(source.read(completion("abc")))
        await settle()
        asker.cancel()
        await settle()
        engine.let.set()
    assert follower.result() == Tokenized(pack_tokens([0, 1, 2]), 3)
    assert len(engine.asked) == 2


async def test_a_failure_is_told_to_all_who_wait_and_not_remembered() -> None:
    engine = Engine()
    engine.let.clear()
    engine.fault = RuntimeError("502")
    source = EngineTokens(engine)
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(source.read(completion("abc"))) for _ in range(3)]
        await settle()
        engine.let.set()
    assert [read.result() for read in reads] == [Unpredicted.TOKENIZE_FAILED] * 3
    assert len(engine.asked) == 1
    engine.fault = None
    assert isinstance(await source.read(completion("abc")), Tokenized)


async def test_an_engine_that_does_not_answer_costs_its_timeout_only() -> None:
    engine = Engine()
    engine.let.clear()
    source = EngineTokens(engine, timeout_seconds=0.001)
    assert await source.read(completion("abc")) is Unpredicted.TOKENIZE_FAILED


async def test_a_batch_is_asked_for_by_its_longest_text_and_the_rest_estimated() -> None:
    engine = Engine()
    read = await EngineTokens(engine).read(completion(["aa", "bbbb", ""]))
    assert read == Tokenized(pack_tokens([0, 1, 2, 3]), 6)
    assert [json.loads(body)["prompt"] for body in engine.asked] == ["bbbb"]


async def test_token_ids_need_no_engine() -> None:
    engine = Engine()
    assert await EngineTokens(engine).read(completion([[7], [8, 9]])) == Tokenized(pack_tokens([8, 9]), 3)
    assert await EngineTokens(engine).read(completion([5, 6])) == Tokenized(pack_tokens([5, 6]), 2)
    assert engine.asked == []


async def test_what_no_engine_takes_is_malformed() -> None:
    source = EngineTokens(Engine())
    prompts: list[Any] = [[], ["a", 3], [1, "a"], [-1], [{}], [["a"]]]
    for prompt in prompts:
        assert await source.read(completion(prompt)) is Unpredicted.MALFORMED
    assert await source.read(chat([3], reasoning_effort="low", chat_template_kwargs=3)) is Unpredicted.MALFORMED
    assert await source.read(chat([], mm_processor_kwargs={"a": 1})) is Unpredicted.MULTIMODAL
