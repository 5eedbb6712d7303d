"""What is found out about a template by reading it; the verdicts on real templates are vLLM 0.32.0's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any  # messages are JSON of any shape

import pytest

from router.sim.chat import Malformed
from router.sim.jinja import MARK, cut_at_mark, jinja_environment, marked, takes_parts

TEMPLATES = Path(__file__).resolve().parents[2].parent / "shared" / "tokenizers" / "templates"
WITH_PARTS = {"GLM-4.6", "Qwen3.5-4B", "ibm-granite-granite-4.0", "moonshotai-Kimi-K2"}
LOOP = "{% for m in messages %}"


def by_parts(source: str) -> bool:
    return takes_parts(jinja_environment().parse(source))


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{% for part in m.content %}{% endfor %}{% endfor %}",
        LOOP + "{% for part in m['content'] | list %}{% endfor %}{% endfor %}",
        "{% set rest = messages[1:] %}{% for m in rest %}{% for part in m.content %}{% endfor %}{% endfor %}",
        LOOP + "{% set content = m.content %}{% for part in content %}{% endfor %}{% endfor %}",
        "{% macro show(it) %}{% for part in it %}{% endfor %}{% endmacro %}"
        + LOOP
        + "{{ show(m.content) }}{% endfor %}",
        "{% macro show(it) %}{% for p in it %}{% endfor %}{% endmacro %}"
        + LOOP
        + "{{ show(it=m.content) }}{% endfor %}",
    ],
)
def test_a_template_that_loops_over_content_takes_parts(source: str) -> None:
    assert by_parts(source)


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{{ m.content }}{% endfor %}",
        LOOP + "{% for call in m.tool_calls %}{% endfor %}{% endfor %}",
        LOOP + "{% set said = m.content %}{% for part in said %}{% endfor %}{% endfor %}",
        "{% macro show(content) %}{% for part in content %}{% endfor %}{% endmacro %}{{ show(tools) }}",
        "{% set ns = namespace(all=[]) %}{% set ns.all = messages %}"
        + LOOP
        + "{% for p in m.content %}{% endfor %}{% endfor %}",
    ],
)
def test_any_other_takes_text_and_so_does_one_that_vllm_gives_up_on(source: str) -> None:
    assert not by_parts(source)


@pytest.mark.shared
@pytest.mark.skipif(not TEMPLATES.exists(), reason="the templates of real models are not part of the repository")
def test_templates_of_real_models_are_told_apart() -> None:
    found = {path.stem for path in TEMPLATES.glob("*.jinja") if by_parts(path.read_text(encoding="utf-8"))}
    assert found == WITH_PARTS


def test_the_mark_goes_behind_the_last_text() -> None:
    parts: list[Any] = [{"type": "text", "text": "a"}, {"type": "tool_reference", "name": "f"}]
    chat, final = marked([{"role": "assistant", "content": parts}])
    assert final == "a"
    assert chat[0]["content"] == [{"type": "text", "text": "a" + MARK}, parts[1]]
    assert parts[0]["text"] == "a"


def test_what_has_no_text_cannot_go_on() -> None:
    for chat in ([], [{"role": "assistant", "content": []}]):
        with pytest.raises(Malformed):
            marked(chat)


def test_a_template_that_trims_loses_the_space_before_the_cut() -> None:
    assert cut_at_mark(f"<a>one {MARK}</a>", "one ") == "<a>one "
    assert cut_at_mark(f"<a>one {MARK.strip()}</a>", "one ") == "<a>one"


def test_a_template_that_hides_the_final_message_cannot_go_on() -> None:
    for rendered in ("<a></a>", f"<a>ONE{MARK}</a>"):
        with pytest.raises(Malformed):
            cut_at_mark(rendered, "one")


def test_json_is_written_as_templates_of_transformers_expect() -> None:
    render = jinja_environment().from_string
    assert render("{{ x | tojson }}").render(x={"b": "<é>", "a": 1}) == '{"b": "<é>", "a": 1}'
    text = render("{{ x | tojson(separators=(',', ':'), sort_keys=true) }}").render(x={"b": 1, "a": 2})
    assert text == '{"a":2,"b":1}'


def test_generation_blocks_are_printed_and_keep_their_names_to_themselves() -> None:
    source = "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}"
    assert jinja_environment().from_string(source).render() == "1False"
