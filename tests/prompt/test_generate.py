from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any  # fields of a body

import pytest

from router.errors import BadRequest
from router.prompt.blocks import BlockHasher, pack_tokens, root_hash
from router.prompt.engine import EngineTokens
from router.prompt.generate import DEFAULT_NEW_TOKENS, parse_generate
from router.prompt.prompt import Prompt, Unpredicted
from router.prompt.read import PromptReader
from router.prompt.request import Endpoint, InferenceRequest, engine_body
from tests.prompt.makers import completion, loaded, shipped


def generate(**fields: Any) -> InferenceRequest:
    return parse_generate(json.dumps(fields).encode())


async def read(request: InferenceRequest, engine: EngineTokens | None = None) -> Prompt:
    reader = PromptReader(
        local=None if engine else loaded(shipped()),
        engine=engine,
        hasher=BlockHasher(),
        hash_seed=3,
        executor=ThreadPoolExecutor(1),
    )
    return await reader.read(request, block_sizes=frozenset((4,)), adapter=None, base="base")


def test_a_body_is_read_and_goes_on_as_it_came() -> None:
    request = generate(
        text="hello",
        sampling_params={"max_new_tokens": 7, "n": 2, "temperature": 0.5},
        stream=True,
        cache_salt="tenant",
        lora_path="ada",
        rid="r-1",
    )
    assert (request.endpoint, request.model, request.stream) == (Endpoint.GENERATE, "", True)
    assert (request.max_output_tokens, request.choices, request.prompts) == (7, 2, 1)
    assert (request.cache_salt, request.adapter, request.prompt_logprobs) == ("tenant", "ada", False)
    assert engine_body(request, ask_usage=False) == ((request.body,), ())
    assert generate(text="x", model="tiny").model == "tiny"
    assert generate(text="x").max_output_tokens == DEFAULT_NEW_TOKENS
    assert generate(text="x", cache_salt="", lora_path="", sampling_params=None).cache_salt is None


@pytest.mark.parametrize(
    ("fields", "prompts"),
    [
        ({"text": ["a", "b", "c"]}, 3),
        ({"text": []}, 1),
        ({"input_ids": [1, 2, 3]}, 1),
        ({"input_ids": [[1, 2], [3]]}, 2),
        ({"input_ids": []}, 1),
        ({"input_embeds": [[0.5]]}, 1),
    ],
)
def test_prompts_are_counted(fields: dict[str, Any], prompts: int) -> None:
    assert generate(**fields).prompts == prompts


def test_of_a_batch_the_longest_answer_and_the_most_choices_count() -> None:
    request = generate(text=["a", "b"], sampling_params=[{"max_new_tokens": 5}, {"n": 3}])
    assert (request.max_output_tokens, request.choices) == (DEFAULT_NEW_TOKENS, 3)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "text"),
        (b'{"text":3}', "text"),
        (b'{"input_ids":"x"}', "input_ids"),
        (b'{"text":"x","stream":1}', "stream"),
        (b'{"text":"x","sampling_params":[3]}', "sampling_params"),
        (b'{"text":"x","lora_path":7}', "lora_path"),
        (b'{"text":"x","model":["tiny"]}', "model"),
        (b'{"text":"x","text":"y"}', "text"),
        (b'{"text":"x","extra_key":"a","extra_key":"b"}', "extra_key"),
        (b"[]", None),
    ],
)
def test_a_body_that_is_refused_names_its_field(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_generate(body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"return_logprob": True, "logprob_start_len": 0}, True),
        ({"return_logprob": [False, True], "logprob_start_len": [0, 5]}, True),
        ({"return_logprob": True}, False),
        ({"return_logprob": True, "logprob_start_len": -1}, False),
        ({"return_logprob": False, "logprob_start_len": 0}, False),
    ],
)
def test_log_probabilities_of_the_prompt_mean_that_it_is_computed_again(fields: dict[str, Any], again: bool) -> None:
    assert generate(text="x", **fields).prompt_logprobs is again


async def test_text_is_tokenized_as_a_completion_and_ids_are_taken_as_they_are() -> None:
    text = "the list of names " * 5
    prompt = await read(generate(text=text))
    assert prompt.tokens == (await read(completion(text))).tokens
    assert prompt.predictable
    ids = list(range(100, 110))
    prompt = await read(generate(input_ids=ids, cache_salt="tenant"))
    assert prompt.tokens == pack_tokens(ids)
    expected = BlockHasher().hashes(pack_tokens(ids), root_hash(3, "base", None, "tenant"), 4)
    assert (prompt.hashes[4], prompt.unpredicted) == (expected, None)
    batch = await read(generate(text=["a", text]))
    assert (batch.prompts, batch.predictable) == (2, False)


async def test_an_engine_is_asked_in_its_own_words() -> None:
    asked: list[bytes] = []

    async def tokenize(body: bytes) -> list[int]:
        asked.append(body)
        return [5] * 8

    engine = EngineTokens(tokenize, body=lambda request, prompt: f"{request.endpoint.name} {prompt}".encode())
    assert (await read(generate(text="hello"), engine)).prompt_tokens == 8
    assert (await read(generate(input_ids=[1, 2]), engine)).prompt_tokens == 2
    assert asked == [b"GENERATE hello"]


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"extra_key": "k"}, Unpredicted.EXTRA_KEY),
        ({"extra_key": ["k"]}, Unpredicted.EXTRA_KEY),
        ({"image_data": "http://x/cat.png"}, Unpredicted.MULTIMODAL),
        ({"session_params": {"id": "s"}}, Unpredicted.ENGINE_SPECIFIC),
        ({"input_ids": [1]}, Unpredicted.ENGINE_SPECIFIC),
        ({"cache_salt": ["a", "b"]}, Unpredicted.ENGINE_SPECIFIC),
        ({"lora_path": ["a", None]}, Unpredicted.ENGINE_SPECIFIC),
        ({"extra_key": "", "image_data": None, "session_params": {}, "video_data": []}, None),
    ],
)
async def test_what_the_engine_alone_knows_is_not_predicted(fields: dict[str, Any], cause: Unpredicted | None) -> None:
    assert (await read(generate(text="hello", **fields))).unpredicted is cause


async def test_embedded_prompts_are_routed_by_load() -> None:
    prompt = await read(generate(input_embeds=[[0.5] * 4] * 9))
    assert (prompt.unpredicted, prompt.tokens) == (Unpredicted.PROMPT_EMBEDS, None)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"extra_key": "k"}, Unpredicted.EXTRA_KEY),
        ({"extra_key": ""}, None),
        ({"lora_path": "ada"}, Unpredicted.ENGINE_SPECIFIC),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, Unpredicted.ENGINE_SPECIFIC),
        ({"vllm_xargs": {"session_id": "s"}}, None),
        ({"prompt_embeds": None, "truncate_prompt_tokens": None}, None),
        ({"truncate_prompt_tokens": 5}, Unpredicted.TRUNCATED),
    ],
)
async def test_openai_bodies_with_such_fields_are_not_predicted_either(
    fields: dict[str, Any], cause: Unpredicted | None
) -> None:
    assert (await read(completion("hello", **fields))).unpredicted is cause


def test_an_empty_salt_is_none_in_openai_bodies_too() -> None:
    """SGLang reads it so; vLLM refuses it."""
    assert completion("hello", cache_salt="").cache_salt is None
