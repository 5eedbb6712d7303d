"""Where policies come from: the shelf that ships with Homing, by name, or a file, by path.

What stands in one is read by reading.py.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from router.errors import ConfigError
from router.policy.pipeline import Policy
from router.policy.reading import known, parse

SUFFIX = ".yaml"


def load(name_or_path: str) -> Policy:
    """A policy from the shelf, or from a file when the argument ends in .yaml or .yml or holds a slash.

    Raises ConfigError with every fault."""
    if is_path(name_or_path):
        return parse(_text(Path(name_or_path)), name_or_path)
    texts = _shelf_texts()
    if name_or_path not in texts:
        remedy = known(name_or_path, texts)
        raise ConfigError([f"policy: no policy is named {name_or_path!r}. {remedy} A path must end in {SUFFIX}."])
    source, text = texts[name_or_path]
    return parse(text, source)


def is_path(name_or_path: str) -> bool:
    return name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path


def shelf() -> tuple[Policy, ...]:
    """Every policy that ships with Homing: our own by name, then those of rivals by name."""
    return tuple(parse(text, source) for source, text in _shelf_texts().values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not UTF-8, or no name of a file
        raise ConfigError([f"{path}: cannot be read as a policy ({error}). Give a file that can."]) from error


def _shelf_texts() -> dict[str, tuple[str, str]]:
    """Where it stands and what it says, by name. No two have one name (a test holds that)."""
    shelf = importlib.resources.files("policies")
    return {
        file.name.removesuffix(SUFFIX): (f"{folder}/{file.name}", file.read_text(encoding="utf-8"))
        for folder, directory in (("policies", shelf), ("policies/rivals", shelf / "rivals"))
        for file in sorted(directory.iterdir(), key=lambda file: file.name)
        if file.name.endswith(SUFFIX)
    }
