"""Long prompts are being read: who asks whether Homing lives is answered meanwhile. Over sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from router.app import READING_THREADS
from router.prompt.blocks import BlockHasher, TokenIds
from router.prompt.read import INLINE_SECONDS, PromptReader
from router.prompt.segments import SegmentCache
from router.prompt.tokenizer import Encoder
from tests.prompt.test_read import proven
from tests.stories.houses import stage

TOKENS = 100_000
WORD = "lorem "  # a token or more
PATIENCE_SECONDS = 20.0


class Gate:
    """A tokenizer that takes in no long text until it is opened: a thread that is busy for as long as we like."""

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner
        self.seconds_per_byte = inner.seconds_per_byte
        self.opened = threading.Event()
        self.waiting = 0

    def encode(self, text: str) -> TokenIds:
        if len(text) >= TOKENS:
            self.waiting += 1
            assert self.opened.wait(PATIENCE_SECONDS), "nobody opened: the thread that would have is ours"
            self.waiting -= 1
        return self._inner.encode(text)


@contextmanager
def gated() -> Iterator[tuple[PromptReader, Gate]]:
    """A reader as the house has them, but for its tokenizer."""
    local = proven()
    gate = Gate(local.encoder)
    with ThreadPoolExecutor(READING_THREADS) as pool:
        of = PromptReader(
            local=replace(local, encoder=SegmentCache(gate, None)),
            engine=None,
            hasher=BlockHasher(),
            hash_seed=0,
            executor=pool,
        )
        try:
            yield of, gate
        finally:
            gate.opened.set()


async def test_probes_scrapes_and_small_requests_are_answered_while_100k_token_prompts_are_being_read() -> None:
    assert TOKENS * len(WORD) * proven().seconds_per_byte > 10 * INLINE_SECONDS
    async with stage(1) as one:
        with gated() as (reader, gate):
            one.house.readers.put("tiny", reader)
            long = [asyncio.ensure_future(one.ask(f"{n} " + WORD * TOKENS)) for n in range(2 * READING_THREADS)]
            await one.until(lambda: gate.waiting == READING_THREADS)  # every reading thread is busy for good
            for _ in range(20):
                for url in (one.house.admin_url, one.url):
                    assert (await one.http.get(f"{url}/health")).json() == {"status": "ok"}
                    assert (await one.http.get(f"{url}/ready")).status_code == 200
                assert await one.metric("homing_ready ") == 1
            assert (await one.ask("a small one")).status_code == 200
            assert not any(task.done() for task in long)
            for task in long:  # what the simulated engine would make of them takes it many seconds
                task.cancel()
            gate.opened.set()
            assert (await one.ask("a small one")).status_code == 200
            await one.nothing_left()
