from __future__ import annotations

import json
from typing import Any

from router.prompt.ask import tokenize_body
from router.prompt.request import InferenceRequest
from tests.prompt.makers import assistant, chat, completion, user


def asked(request: InferenceRequest, prompt: str | None = None) -> Any:
    return json.loads(tokenize_body(request, prompt))


def test_a_chat_is_asked_for_with_all_that_shapes_its_prompt() -> None:
    request = chat(
        [user("é")], tools=[{"type": "function", "function": {"name": "f"}}], add_generation_prompt=False,
        continue_final_message=True, add_special_tokens=True, temperature=0.5, stream=True, max_tokens=3,
    )  # fmt: skip
    assert asked(request) == {
        "model": "m",
        "messages": [user("é")],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
    }


def test_what_the_tokenize_endpoint_has_no_field_for_goes_through_the_template_arguments() -> None:
    request = chat([], documents=[{"text": "d"}], reasoning_effort="low", chat_template_kwargs={"x": 1})
    assert asked(request)["chat_template_kwargs"] == {
        "enable_thinking": True,
        "x": 1,
        "reasoning_effort": "low",
        "documents": [{"text": "d"}],
    }
    chosen = chat([], reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert asked(chosen)["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "none"}


def test_reasoning_is_asked_for_under_its_present_name() -> None:
    request = chat([assistant("a", reasoning_content="r"), assistant("b", reasoning="s", reasoning_content="t")])
    assert asked(request)["messages"] == [assistant("a", reasoning="r"), assistant("b", reasoning="s")]


def test_null_fields_are_not_sent() -> None:
    assert asked(chat([], tools=None, add_generation_prompt=None)) == {"model": "m", "messages": []}


def test_a_completion_is_asked_for_by_its_text() -> None:
    request = completion(["a", "bb"], add_special_tokens=False)
    assert asked(request, "bb") == {"model": "m", "prompt": "bb", "add_special_tokens": False}
