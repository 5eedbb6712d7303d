"""Parameters of filters, scorers and pickers: a default and its bounds, declared where the parameter is used.

reading.py reads the declaration back to hold a policy file against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", int, float, bool, str)

# Dataclass fields tell their type by the name written in the class body.
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)),
    "int": ("a whole number", (int,)),
    "bool": ("true or false", (bool,)),
    "str": ("a text", (str,)),
}


def param(default: T, *, least: float = -math.inf, most: float = math.inf) -> T:
    """A dataclass field with a default and inclusive bounds."""
    # The type checker must see the value that the field will hold, as it does for dataclasses.field itself.
    declared: T = field(default=default, metadata={"least": least, "most": most})
    return declared


def params_of(part: type) -> Mapping[str, Field[Any]]:
    """The parameters a part declares, by name. Every part is a dataclass, which its protocol cannot say."""
    return {declared.name: declared for declared in fields(cast("type[DataclassInstance]", part))}


def fault_of(declared: Field[Any], value: object) -> str | None:
    """What is wrong with a value read from a file, with its remedy; None when nothing is.

    Any: a field's own type is what is checked here, at run time.
    """
    wanted, types = _KINDS[str(declared.type)]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return f"is {value!r}, but must be {wanted}. The default is {declared.default!r}."
    if isinstance(value, int | float):
        least, most = declared.metadata["least"], declared.metadata["most"]
        if not math.isfinite(value) or not least <= value <= most:
            return f"is {value!r}, but must be {_range(least, most)}. The default is {declared.default!r}."
    return None


def _range(least: float, most: float) -> str:
    if least == -math.inf and most == math.inf:
        return "a finite number"
    if most == math.inf:
        return f"{least:g} or more"
    if least == -math.inf:
        return f"{most:g} or less"
    return f"between {least:g} and {most:g}"
