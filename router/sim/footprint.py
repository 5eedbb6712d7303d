"""How much cache a set of conversations would fill, in tokens of one tokenizer.

The working set is what a cache of boundless size would hold at the end: each block once for every different prefix it
stands behind. A demo sizes its replicas by it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from router.sim.text import ChatTemplate, Tokens
from router.sim.workload import Chat, Conversation, Prompt, grows

BLOCK_TOKENS = 16
BLOCK_BYTES = BLOCK_TOKENS * array("I").itemsize


@dataclass(frozen=True, slots=True)
class Footprint:
    """All counts are tokens."""

    distinct_tokens: int  # in full blocks
    longest_tokens: int  # the longest prompt with its reply


def footprint(conversations: Sequence[Conversation], tokens: Tokens, template: ChatTemplate) -> Footprint:
    """Raises TextError where the template refuses a conversation."""
    seen: set[int] = set()
    longest_tokens = 0
    for conversation in conversations:
        # Where prompts grow, the last one holds all the others.
        asks = conversation.asks[-1:] if grows(conversation) else conversation.asks
        for ask in asks:
            prompt = token_ids(ask.prompt, tokens, template)
            seen.update(_prefixes(prompt))
            longest_tokens = max(longest_tokens, len(prompt) + ask.max_tokens)
    return Footprint(len(seen) * BLOCK_TOKENS, longest_tokens)


def token_ids(prompt: Prompt, tokens: Tokens, template: ChatTemplate) -> Sequence[int]:
    """The prompt as a replica with this tokenizer would read it."""
    if isinstance(prompt, Chat):
        messages = [msgspec.json.decode(message) for message in prompt.messages]
        tools = msgspec.json.decode(prompt.tools) if prompt.tools else None
        return tokens.encode(template.render(messages, tools=tools))
    content = msgspec.json.decode(b"{" + b",".join(prompt.members()) + b"}", type=dict[str, str | list[int]])["prompt"]
    return tokens.encode(content, framed=True) if isinstance(content, str) else content


def _prefixes(prompt: Sequence[int]) -> Iterable[int]:
    """One number for each full block, telling it and all before it apart from others. Good within one process only."""
    content = array("I", prompt).tobytes()
    chained = 0
    for start in range(0, len(content) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chained = hash((chained, content[start : start + BLOCK_BYTES]))
        yield chained
