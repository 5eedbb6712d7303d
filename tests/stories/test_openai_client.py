"""The official OpenAI client, which nobody here wrote, through Homing to simulated replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.stories.houses import Stage, stage

# Any: plain dicts are what users write, and the client's overloads take only its own typed ones.
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Read a file",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
        },
    }
]


@pytest.fixture
async def scene() -> AsyncIterator[tuple[Stage, openai.AsyncOpenAI]]:
    async with stage(2) as one, openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key="any", max_retries=0) as client:
        yield one, client


Scene = tuple[Stage, openai.AsyncOpenAI]


async def test_it_chats(scene: Scene) -> None:
    _, client = scene
    answer = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=5
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_it_streams_a_chat_and_sees_usage_only_if_it_asked(scene: Scene) -> None:
    _, client = scene
    for asked in (False, True):
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True} if asked else openai.omit,
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert [chunk.usage is not None for chunk in chunks].count(True) == int(asked)
        assert all(chunk.choices for chunk in chunks) is not asked


async def test_it_calls_tools(scene: Scene) -> None:
    _, client = scene
    answer = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "read it"}],
        tools=TOOLS,
        tool_choice="required",
        max_tokens=20,
    )
    assert answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_it_completes_strings_lists_and_token_ids(scene: Scene) -> None:
    _, client = scene
    for prompt, count in (("once upon", 1), (["once", "upon a time"], 2), ([5, 6, 7], 1), ([[5, 6], [7, 8]], 2)):
        answer = await client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
        assert len(answer.choices) == count


async def test_it_embeds(scene: Scene) -> None:
    _, client = scene
    answer = await client.embeddings.create(model="tiny", input=["one", "two"])
    assert len(answer.data) == 2
    assert all(isinstance(number, float) for number in answer.data[0].embedding)


async def test_it_lists_models_even_with_a_replica_dead(scene: Scene) -> None:
    one, client = scene
    await one.order(1, die=True)
    assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_it_retrieves_a_model_by_its_name(scene: Scene) -> None:
    _, client = scene
    assert (await client.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_an_unknown_model_is_a_404_that_names_the_known_ones(scene: Scene) -> None:
    _, client = scene
    with pytest.raises(openai.NotFoundError, match="tiny"):
        await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hello"}])


async def test_the_engines_own_refusal_reaches_the_client_and_blames_nobody(scene: Scene) -> None:
    one, client = scene
    for _ in range(5):
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hello " * 3000}], max_tokens=5
            )
    assert (await one.ask()).status_code == 200
    assert await one.metric("homing_retries_total") == 0
    await one.nothing_left()


async def test_a_cancelled_stream_frees_its_lease(scene: Scene) -> None:
    one, client = scene
    stream = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "count"}], max_tokens=900, stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    await one.nothing_left()
    await one.until(lambda: bool(one.house.receipts.latest(1)))
    assert one.house.receipts.latest(1)[0].outcome == "client_gone"
