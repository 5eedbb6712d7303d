"""The fields of a chat request that shape its prompt. `/tokenize` has fewer of them than chat completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any  # requests are JSON of any shape

import pytest

from router.sim.ask import rendered
from router.sim.body import parse
from router.sim.model import Model, Refusal
from router.sim.text import SHIPPED_TOKENIZER, ChatTemplate, Tokens

TOKENS = Tokens(SHIPPED_TOKENIZER)
SHOWN = (
    "{{ messages | map(attribute='reasoning') | join }}|{{ tools | length if tools else 0 }}|"
    "{{ add_generation_prompt }}|{{ documents | length if documents else 0 }}|"
    "{{ reasoning_effort }}|{{ enable_thinking }}|{{ padding }}"
)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": SHOWN}))
    return Model.load(TOKENS, ChatTemplate(tmp_path), ("m",), (), 1000, "m")


def prompt(model: Model, by_chat: bool = True, **fields: Any) -> str:
    body = {"messages": [{"role": "assistant", "content": "a"}]} | fields
    return rendered(parse(json.dumps(body).encode()), model, by_chat=by_chat)


TOOL = {"type": "function", "function": {"name": "f"}}


def test_nothing_is_set_unless_asked(model: Model) -> None:
    assert prompt(model) == "|0|True|0|||"


def test_tools_stay_in_the_prompt_when_none_may_be_called(model: Model) -> None:
    assert prompt(model, tools=[TOOL], tool_choice="none") == "|1|True|0|||"


def test_an_effort_switches_thinking_unless_the_client_did(model: Model) -> None:
    assert prompt(model, reasoning_effort="low") == "|0|True|0|low|True|"
    assert prompt(model, reasoning_effort="none") == "|0|True|0|none|False|"
    assert prompt(model, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}) == (
        "|0|True|0|low|False|"
    )


def test_fields_win_over_template_arguments_save_for_tools(model: Model) -> None:
    arguments = {"add_generation_prompt": False, "reasoning_effort": "high", "tools": [], "padding": True}
    assert prompt(model, chat_template_kwargs=arguments, reasoning_effort="low", tools=[TOOL]) == "|0|True|0|low|True|"


@pytest.mark.parametrize("unset", [None, "auto"])
def test_null_and_auto_arguments_count_as_unset(model: Model, unset: str | None) -> None:
    assert (
        prompt(model, chat_template_kwargs={"enable_thinking": unset, "tools": unset}, tools=[TOOL]) == "|1|True|0|||"
    )


def test_tokenize_does_not_know_what_only_chat_completions_have(model: Model) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "assistant", "content": "a", "reasoning_content": "r"}],
        "documents": [{"text": "d"}],
        "reasoning_effort": "low",
    }
    assert prompt(model, **fields) == "r|0|True|1|low|True|"
    assert prompt(model, by_chat=False, **fields) == "|0|True|0|||"


def test_tokenize_takes_the_same_by_other_ways(model: Model) -> None:
    arguments = {"documents": [{"text": "d"}], "reasoning_effort": "low", "enable_thinking": True}
    messages = [{"role": "assistant", "content": "a", "reasoning": "r"}]
    assert prompt(model, by_chat=False, messages=messages, chat_template_kwargs=arguments) == "r|0|True|1|low|True|"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"tools": []},
        {"tools": [{"type": "function"}]},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"chat_template": "{{ messages }}"}},
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"documents": "text"}},
        {"reasoning_effort": "heroic"},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": True},
    ],
)
def test_what_vllm_refuses_is_refused(model: Model, fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        prompt(model, **fields)
