"""What an OpenAI request asks of a simulated engine: prompts as tokens, and the answer planned for each.

Refusals carry vLLM's type and parameter, and mostly its wording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any  # template arguments are JSON of any shape

from router.sim.answers import answer, call_arguments, tool_to_call
from router.sim.body import Body, Endpoint
from router.sim.cache import Namespace
from router.sim.chat import with_reasoning
from router.sim.model import Model, Refusal
from router.sim.text import TextError
from router.sim.transfers import Terms

DEFAULT_ANSWER_TOKENS = 64
LONG_TEXT_CHARACTERS = 16_384  # about a millisecond of tokenizing
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Template arguments that the call of the template takes for itself, so that no template sees a client's.
CALLERS_ARGUMENTS = (
    "add_generation_prompt", "continue_final_message", "max_length", "padding", "return_dict", "return_tensors",
    "tokenize", "tokenizer_kwargs", "truncation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str  # JSON


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read. `answers` has one entry for each choice: `choices` of the first prompt, and so on."""

    endpoint: Endpoint
    model: str  # as the response names it
    namespace: Namespace
    prompts: list[list[int]]
    answers: list[list[int]]
    choices: int = 1  # for each prompt
    finish_reason: str = "length"
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    reads_cache: bool = True
    reports_all_hits: bool = False
    base64: bool = False
    tool_call: ToolCall | None = None
    transfer: Terms | None = None  # it is one leg of a request split over two replicas

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


def texts(endpoint: Endpoint, body: Body, model: Model) -> list[str | list[int]]:
    """The prompts before tokenizing: rendered text, or token ids as they came."""
    if endpoint is Endpoint.CHAT or (endpoint is Endpoint.TOKENIZE and body.messages is not None):
        return [rendered(body, model, by_chat=endpoint is Endpoint.CHAT)]
    prompt = body.input if endpoint is Endpoint.EMBEDDINGS else body.prompt
    if prompt is None or prompt in ("", []):
        field_name = "input" if endpoint is Endpoint.EMBEDDINGS else "prompt"
        raise Refusal(
            f"Either {field_name} or prompt_embeds must be provided and non-empty. (parameter={field_name})",
            param=field_name,
        )
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def tokenized(sources: Sequence[str | list[int]], endpoint: Endpoint, body: Body, model: Model) -> list[list[int]]:
    """Token ids of every prompt. The slow part for long new text: may run in a thread."""
    framed = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
    out: list[list[int]] = []
    for source in sources:
        ids = model.tokens.encode(source, framed=framed) if isinstance(source, str) else source
        if not isinstance(source, str):
            unknown = next((id_ for id_ in ids if not 0 <= id_ < model.tokens.vocabulary_tokens), None)
            if unknown is not None:
                raise Refusal(f"Token id {unknown} is out of vocabulary")
        if not ids and endpoint is not Endpoint.TOKENIZE:
            raise Refusal("The decoder prompt cannot be empty", param="prompt")
        if endpoint is not Endpoint.TOKENIZE and len(ids) > model.max_model_tokens - 1:
            raise Refusal(
                f"This model's maximum context length is {model.max_model_tokens} tokens. However, your prompt "
                f"contains {len(ids)} input tokens, which exceeds this limit even without any output tokens. Please "
                f"reduce the length of the input prompt. (parameter=input_tokens, value={len(ids)})",
                param="input_tokens",
            )
        out.append(ids)
    return out


def plan(endpoint: Endpoint, body: Body, namespace: Namespace, prompts: list[list[int]], model: Model) -> Ask:
    """The whole request, with the answers the model will give."""
    options = body.stream_options or {}
    ask = Ask(
        endpoint=endpoint,
        model=body.model or model.names[0],
        namespace=namespace,
        prompts=prompts,
        answers=[[] for _ in prompts],
        stream=bool(body.stream) and endpoint is not Endpoint.EMBEDDINGS,
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        return_token_ids=bool(body.return_token_ids),
        reads_cache=body.prompt_logprobs is None,
        reports_all_hits=(body.vllm_xargs or {}).get("kv_cache_report_mode") == "full",
        base64=body.encoding_format == "base64",
    )
    if endpoint is Endpoint.EMBEDDINGS:
        return ask
    wanted, choices = _answer_limit(body, model), max(1, body.n or 1)
    tool = tool_to_call(body.tools, body.tool_choice, body.messages) if endpoint is Endpoint.CHAT else None
    if tool is not None:
        call = ToolCall(str(tool.get("name")), json.dumps(call_arguments(tool)))
        said = f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
        spoken = [*model.tokens.encode(said), model.end_token]
        return replace(ask, answers=[spoken] * choices, choices=choices, finish_reason="tool_calls", tool_call=call)
    answers = []
    for prompt in prompts:
        room = model.max_model_tokens - len(prompt)
        for choice in range(choices):
            words = min(DEFAULT_ANSWER_TOKENS if wanted is None else wanted, room)
            variant = choice + (body.seed or 0) * 1000
            ended = [model.end_token] if wanted is None and words < room else []
            answers.append(answer(prompt, words, model.words, variant=variant) + ended)
    reason = "stop" if wanted is None else "length"
    return replace(ask, answers=answers, choices=choices, finish_reason=reason)


def _answer_limit(body: Body, model: Model) -> int | None:
    """The asked number of answer tokens; None where the model ends by itself."""
    field_name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    wanted: int | None = getattr(body, field_name)
    if wanted is not None and wanted < 1:
        raise Refusal(
            f"{field_name} must be at least 1, got {wanted}. (parameter={field_name}, value={wanted})", param=field_name
        )
    if wanted is not None and wanted > model.max_model_tokens:
        raise Refusal(
            f"{field_name}={wanted} cannot be greater than max_model_len={model.max_model_tokens}. Please request "
            f"fewer output tokens. (parameter={field_name}, value={wanted})",
            param=field_name,
        )
    return wanted


def rendered(body: Body, model: Model, *, by_chat: bool) -> str:
    """The prompt text of a chat. `/tokenize` knows fewer fields than chat completions (`by_chat`), as in vLLM."""
    if not body.messages:
        raise Refusal("Cannot apply chat template to an empty conversation. Provide at least one message.")
    given = body.chat_template_kwargs or {}
    if body.chat_template is not None or given.get("chat_template") is not None:
        raise Refusal("a request cannot bring its own chat template: the server does not trust it")
    if body.continue_final_message and body.add_generation_prompt:
        raise Refusal("`continue_final_message` and `add_generation_prompt` exclude each other")
    if by_chat and body.tools == []:
        raise Refusal("`tools` must hold a tool or be left out", param="tools")
    if given.keys() & {"conversation", "messages"}:
        raise Refusal("chat_template_kwargs cannot hold the messages")
    # The request's own fields win over arguments of the same name; an argument that is null or "auto" counts as unset.
    arguments = {name: value for name, value in given.items() if value is not None and value != "auto"}
    arguments |= _chat_arguments(body, given) if by_chat else {}
    for name in CALLERS_ARGUMENTS:
        arguments.pop(name, None)
    documents = arguments.get("documents", [])
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise Refusal("documents must be a list of objects", param="documents")
    try:
        return model.template.render(
            with_reasoning(body.messages) if by_chat else body.messages,
            tools=body.tools,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=bool(body.continue_final_message),
            arguments=arguments,
        )
    except TextError as error:
        raise Refusal(str(error)) from error


def _chat_arguments(body: Body, given: Mapping[str, Any]) -> dict[str, Any]:
    """Template arguments made of fields that only chat completions have. An effort asked for switches thinking on."""
    effort = body.reasoning_effort
    if effort is not None and effort not in EFFORTS:
        raise Refusal(f"reasoning_effort must be one of {', '.join(EFFORTS)}", param="reasoning_effort")
    switch = {} if effort is None or "enable_thinking" in given else {"enable_thinking": effort != "none"}
    fields = {"reasoning_effort": effort, "documents": body.documents}
    return switch | {name: value for name, value in fields.items() if value is not None}
