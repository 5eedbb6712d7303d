from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.prompt.elements import first_elements, opening
from tests.prompt.makers import assistant, chat, completion, user

values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\[]{},é'), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("k,]", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=5), st.integers(1, 4), st.sampled_from([None, 1]))
def test_the_first_elements_are_those_the_array_begins_with(array: list[Any], count: int, indent: int | None) -> None:
    text = first_elements(json.dumps(array, indent=indent).encode(), count)
    assert json.loads(b"[" + text + b"]") == array[:count]


def test_a_conversation_keeps_its_opening_while_it_grows() -> None:
    turns = [user("a"), assistant("b"), user("c")]
    assert opening(chat(turns)) == opening(chat([*turns, assistant("d"), user("e")]))
    assert opening(chat(turns)) != opening(chat([user("a"), assistant("x"), user("c")]))


def test_a_completion_has_no_opening() -> None:
    assert opening(completion("a")) is None
