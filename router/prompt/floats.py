"""Floats that minijinja writes otherwise than Python does, found while JSON is decoded.

Rust prints no exponents, halves the last of 16 digits the other way, and minijinja hands 3.0 to a filter as 3. A chat
with such a float is rendered by jinja2, if its template prints numbers at all. Looking for them costs nothing where
there are no floats, since the decoder calls for each float it meets.
"""

from __future__ import annotations

_MAX_DIGITS = 15  # so many decimal digits are told apart by every float: there is one shortest way to write it


class OddFloat(Exception):
    """A float that the renderers write in two ways."""


def even_float(written: str) -> float:
    """The float, for decoders (`float_hook`). Raises OddFloat for one that is not written alike everywhere."""
    number = float(written)
    if not 1e-4 <= abs(number) < 1e15 or number.is_integer() or len(written) > _MAX_DIGITS:
        raise OddFloat(written)
    return number
