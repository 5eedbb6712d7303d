from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from router.prompt.blocks import BlockHasher, count_tokens, pack_tokens, root_hash
from router.prompt.engine import EngineTokens
from router.prompt.local import LocalTokens
from router.prompt.prompt import Prompt, Tokenized, Unpredicted
from router.prompt.read import PromptReader, SourceKind
from router.prompt.request import Endpoint, InferenceRequest, parse
from tests.prompt.makers import chat, completion, loaded, shipped, user
from tests.prompt.test_parity import engine_ids

SIZES = frozenset((4, 16))


class CountingPool(ThreadPoolExecutor):
    """A pool that counts what it was given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(*args, **kwargs)


async def seven(body: bytes) -> Sequence[int]:
    return [7] * 40


async def broken(body: bytes) -> Sequence[int]:
    raise OSError("no route")


def reader(
    local: LocalTokens | None = None, engine: Any = None, pool: ThreadPoolExecutor | None = None
) -> PromptReader:
    return PromptReader(
        local=local,
        engine=None if engine is None else EngineTokens(engine),
        hasher=BlockHasher(),
        hash_seed=3,
        executor=pool or ThreadPoolExecutor(1),
    )


def proven() -> LocalTokens:
    local, engine = loaded(shipped()), loaded(shipped())
    for probe in local.parity.probes:
        local.judge(probe, engine_ids(engine, probe))
    return local


async def read(of: PromptReader, request: InferenceRequest, adapter: str | None = None) -> Prompt:
    return await of.read(request, block_sizes=SIZES, adapter=adapter, base="base")


async def test_a_proven_local_source_reads_and_hashes_for_each_block_size() -> None:
    local = proven()
    request = chat([user("hello " * 50)], cache_salt="salt")
    prompt = await read(reader(local, broken), request, adapter="lora")
    expected = local.read(request)
    assert isinstance(expected, Tokenized)
    root = root_hash(3, "base", "lora", "salt")
    assert (prompt.tokens, prompt.root, prompt.unpredicted, prompt.predictable) == (expected.tokens, root, None, True)
    assert prompt.prompt_tokens == prompt.total_tokens == count_tokens(expected.tokens)
    assert prompt.hashes == {size: BlockHasher(0).hashes(expected.tokens, root, size) for size in SIZES}


async def test_an_unproven_or_failed_source_leaves_reading_to_the_engine() -> None:
    local = loaded(shipped())
    with_engine = reader(local, seven)
    assert with_engine.kind is SourceKind.ENGINE
    assert (await read(with_engine, chat([user("a")]))).tokens == pack_tokens([7] * 40)
    local.judge(local.parity.probes[0], [1])
    assert with_engine.kind is SourceKind.ENGINE
    assert reader(local).kind is SourceKind.NONE


async def test_without_an_engine_an_unproven_source_is_better_than_none() -> None:
    prompt = await read(reader(loaded(shipped())), chat([user("a")]))
    assert prompt.predictable


async def test_without_any_source_tokens_are_estimated_and_the_cause_told() -> None:
    prompt = await read(reader(), chat([user("a" * 380)]))
    assert (prompt.tokens, prompt.unpredicted, prompt.predictable) == (None, Unpredicted.NO_TOKENIZER, False)
    assert 90 <= prompt.prompt_tokens == prompt.total_tokens <= 110
    assert {size: len(hashes) for size, hashes in prompt.hashes.items()} == {4: 0, 16: 0}


async def test_a_batch_is_routed_by_its_longest_and_charges_all_but_is_not_judged() -> None:
    prompt = await read(reader(), completion(["a" * 40, "b" * 80]))
    assert 40 <= prompt.total_tokens * 4 / 3 < 60
    assert prompt.prompt_tokens == 20
    ids = await read(reader(loaded(shipped())), completion([[1, 2], [3, 4, 5]]))
    assert (ids.prompt_tokens, ids.total_tokens, ids.predictable, ids.unpredicted) == (3, 5, False, None)


@pytest.mark.parametrize(
    ("request_read", "cause"),
    [
        (parse(Endpoint.EMBEDDINGS, b'{"model":"m","input":["a","bcd"]}'), Unpredicted.EMBEDDINGS),
        (parse(Endpoint.COMPLETIONS, b'{"model":"m","prompt_embeds":"x"}'), Unpredicted.PROMPT_EMBEDS),
        (completion("a", truncate_prompt_tokens=3), Unpredicted.TRUNCATED),
        (chat([user([{"type": "image_url", "image_url": {"url": "u"}}])]), Unpredicted.MULTIMODAL),
        (chat([user("a")], chat_template="{{ 1 }}"), Unpredicted.CUSTOM_TEMPLATE),
        (chat([user("a")], chat_template_kwargs={"tools": []}), Unpredicted.ENGINE_SPECIFIC),
        (chat([user(3)]), Unpredicted.MALFORMED),
        (chat([user("a")], tools=3), Unpredicted.MALFORMED),
        (completion([{}]), Unpredicted.MALFORMED),
        (completion([-1]), Unpredicted.MALFORMED),
        (completion(["a", 3]), Unpredicted.MALFORMED),
    ],
)
async def test_a_prompt_that_cannot_be_read_says_why(request_read: InferenceRequest, cause: Unpredicted) -> None:
    prompt = await read(reader(loaded(shipped())), request_read)
    assert (prompt.unpredicted, prompt.tokens) == (cause, None)
    assert prompt.prompt_tokens >= 1


async def test_what_only_the_engine_knows_goes_to_the_engine() -> None:
    assert (await read(reader(proven(), seven), chat([user("a")], chat_template="{{ 1 }}"))).tokens is not None
    failed = await read(reader(proven(), broken), chat([user("a")], chat_template="{{ 1 }}"))
    assert failed.unpredicted is Unpredicted.TOKENIZE_FAILED


async def test_short_prompts_are_read_in_line_and_long_ones_in_the_pool() -> None:
    pool = CountingPool()
    of = reader(loaded(shipped()), pool=pool)
    await read(of, chat([user("a")]))
    assert pool.submitted == 0
    await read(of, chat([user("a b " * 60_000)]))
    assert pool.submitted == 1


async def test_the_prefix_key_stays_while_a_conversation_grows_and_differs_by_root() -> None:
    of = reader(loaded(shipped()))
    turns = [user("the beginning of it all " * 400)]
    short, long = await read(of, chat(turns)), await read(of, chat([*turns, user("more")]))
    assert short.prefix_key == long.prefix_key
    assert (await read(of, chat(turns), adapter="x")).prefix_key != short.prefix_key
    unread = reader()
    assert (await read(unread, chat(turns))).prefix_key == (await read(unread, chat([*turns, user("b")]))).prefix_key
