"""What reading a prompt gives: its tokens and block hashes, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from router.prompt.blocks import BlockHashes, TokenIds


class Unpredicted(Enum):
    """Why a prompt's cached tokens are not predicted. The values label `homing_unpredicted_total`."""

    NO_TOKENIZER = "no_tokenizer"  # the model has no token source
    TEMPLATE_REFUSED = "template_refused"  # the chat template raised; the engine will say so too
    CUSTOM_TEMPLATE = "custom_template"  # the request brings its own chat template
    ENGINE_SPECIFIC = "engine_specific"  # only the engine knows how it reads this
    MULTIMODAL = "multimodal"
    EMBEDDINGS = "embeddings"
    PROMPT_EMBEDS = "prompt_embeds"
    EXTRA_KEY = "extra_key"  # SGLang keeps such prompts apart, and its KV events do not tell
    TRUNCATED = "truncated"  # the engine was asked to cut the prompt
    MALFORMED = "malformed"  # not what the endpoint takes: the engine's refusal is the client's answer
    TOKENIZE_FAILED = "tokenize_failed"
    BUSY = "busy"  # too many prompts wait for the reading pool


class Feature(Enum):
    """What a request may use that engines of different versions read differently. Parity is proven for each apart."""

    COMPLETION = "completion"  # text prompts, where the engine adds its special tokens
    TOOLS = "tools"  # tools, tool calls, tool results
    PARTS = "parts"  # content given as a list of parts
    REASONING = "reasoning"
    DEVELOPER = "developer"  # the developer role
    CONTINUATION = "continuation"  # continue_final_message
    SWITCHES = "switches"  # add_generation_prompt, add_special_tokens, template arguments


class Tokenized(msgspec.Struct, frozen=True, gc=False):
    """The prompts of one body as token ids."""

    tokens: TokenIds  # of the longest prompt
    total_tokens: int  # of all of them


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """One body's prompt as policies and the index see it. A batch is routed by its longest prompt (R 5.1)."""

    tokens: TokenIds | None  # of the longest prompt; None when not known
    prompt_tokens: int  # its length; estimated from its bytes when tokens is None
    total_tokens: int  # all prompts of the body together
    root: int
    hashes: Mapping[int, BlockHashes]  # by block size in tokens; empty arrays when not known
    prefix_key: int  # stable hash of the prompt's beginning, for policies that hash requests to replicas
    prompts: int
    unpredicted: Unpredicted | None

    @property
    def predictable(self) -> bool:
        """Whether the cached tokens of this request can be predicted and judged (R 5.1)."""
        return self.unpredicted is None and self.prompts == 1
