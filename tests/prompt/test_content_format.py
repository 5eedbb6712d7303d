from __future__ import annotations

import pytest

from tests.prompt.makers import TOKENIZERS, folder, template

MACRO = "{% macro f(x) %}{% for c in x %}{% endfor %}{% endmacro %}"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{% for c in m['content'] | list %}{% endfor %}{% endfor %}", True),
        ("{% set ms = messages[1:] %}{% for m in ms %}{% for c in m.content %}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{% set content = m.content %}{% for c in content %}{% endfor %}{% endfor %}", True),
        (MACRO + "{% for m in messages %}{{ f(m.content) }}{% endfor %}", True),
        (MACRO + "{% for m in messages %}{{ f(x=m.content) }}{% endfor %}", True),
        (MACRO + "{{ f(messages) }}", False),
        ("{% macro f(content) %}{% for c in content %}{% endfor %}{% endmacro %}{{ f(tools) }}", False),
        ("{% for a, b in messages %}{{ a }}{% endfor %}", False),
        ("{{ messages }}", False),
    ],
)  # fmt: skip
def test_a_template_takes_parts_if_it_loops_over_content(source: str, parts: bool) -> None:
    assert template(source).takes_parts is parts


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("Qwen-Qwen2.5-7B-Instruct.jinja", False),
        ("deepseek-ai-DeepSeek-V3.1.jinja", False),
        ("GLM-4.6.jinja", True),
        ("moonshotai-Kimi-K2.jinja", True),
        ("Qwen3.5-4B.jinja", True),
    ],
)
def test_real_templates_are_told_apart(file: str, parts: bool) -> None:
    folder("templates")
    assert template((TOKENIZERS / "templates" / file).read_text()).takes_parts is parts
