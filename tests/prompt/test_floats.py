from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from router.prompt.floats import OddFloat, even_float
from router.prompt.template import Chat
from tests.prompt.makers import template


@pytest.mark.parametrize("written", ["0.5", "-2.5", "21.5", "0.0001", "5e-1", "123456.789", "9999999999999.5"])
def test_most_fractions_are_even(written: str) -> None:
    assert even_float(written) == float(written)


@pytest.mark.parametrize(
    "written", ["1e22", "3.0", "0.0", "-0.0", "1e-5", "0.00001", "606712937032428.25", "1e999", "NaN", "-Infinity"]
)
def test_what_the_renderers_write_in_two_ways_is_odd(written: str) -> None:
    with pytest.raises(OddFloat):
        even_float(written)


PRINTERS = [template("{{ messages[0].n }}" + filtered) for filtered in ("", "{{ messages[0].n | tojson }}")]


def is_even(written: str) -> bool:
    try:
        even_float(written)
    except OddFloat:
        return False
    return True


@settings(max_examples=200)
@given(st.one_of(st.floats(), st.floats(-1e4, 1e4), st.decimals(-1000, 1000, places=3).map(float)))
@example(0.0001)
@example(999999999999.125)
def test_an_even_float_is_written_alike_by_both_renderers(number: float) -> None:
    assume(is_even(repr(number)))
    for printer in PRINTERS:
        assert printer.prove([Chat([{"role": "user", "n": number}])]) is None
