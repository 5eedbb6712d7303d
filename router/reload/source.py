"""Where the configuration comes from, so that it can be read again: a file, what flags lay over it, what both name.

What is read is whole or refused: the configuration, the policies it names and the keys of clients, with every fault of
all of them told at once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from router import config
from router.config import Config
from router.errors import ConfigError
from router.gateway.in_force import Configuration
from router.policy import load

Look = Mapping[Path, bytes | None]  # a digest of what each file holds; None: it cannot be read


class ConfigSource:
    """One per process. Touches files; any thread may do that, one at a time."""

    def __init__(self, path: Path | None, overrides: Mapping[str, Any]) -> None:
        """`overrides` as config.read takes them. Any: values are checked there."""
        self.path = path
        self._overrides = overrides
        self._named: tuple[Path, ...] = ()  # the files that the configuration names, when it was last read
        self.read_at: Look = {}  # what was there when it was last read

    def read(self) -> Configuration:
        """Raises ConfigError with every fault of every file."""
        policies, keys = _named(self.path, self._overrides)
        self._named = tuple(dict.fromkeys([*map(Path, filter(load.is_path, policies)), *keys]))
        self.read_at = self.look()  # before the reading: what is written meanwhile is a change
        faults: list[str] = []
        settings = Config.model_construct()
        try:
            settings = config.read(self.path, self._overrides)
        except ConfigError as fault:
            faults += fault.faults
        loaded = []
        for name in policies:
            try:
                loaded.append(load.load(name))
            except ConfigError as fault:
                faults += fault.faults
        if faults:
            raise ConfigError(faults)
        return Configuration(settings, loaded[0], loaded[1] if len(loaded) > 1 else None, _keys(settings))

    def look(self) -> Look:
        """What the files hold now, by name: a mounted ConfigMap changes by a link that is turned, so neither an inode
        nor a time is remembered."""
        files = self._named if self.path is None else (self.path, *self._named)
        return {file: _digest(file) for file in files}


def given(settings: Config) -> ConfigSource:
    """Of a configuration that came from nowhere: reading it again reads the files that it names."""
    return ConfigSource(None, settings.model_dump())


def _named(path: Path | None, overrides: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Path]]:
    """The policy and its shadow, if there is one, and the file of keys, whatever else is wrong with the file."""
    loaded = None
    if path is not None:
        with contextlib.suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
            loaded = yaml.safe_load(path.read_text())
    told = {**(loaded if isinstance(loaded, dict) else {}), **overrides}
    live = told.get("policy", Config.model_fields["policy"].default)
    auth = told.get("auth")
    keys = auth.get("api_keys_file") if isinstance(auth, dict) else None
    policies = [one for one in (live, told.get("shadow_policy")) if isinstance(one, str)]
    return policies, [Path(keys)] if isinstance(keys, str | Path) else []


def _keys(settings: Config) -> frozenset[str] | None:
    try:
        return settings.auth.api_keys()
    except (OSError, UnicodeDecodeError) as fault:  # it could be read a moment ago
        raise ConfigError([f"auth.api_keys_file: {settings.auth.api_keys_file} cannot be read ({fault})."]) from fault


def _digest(file: Path) -> bytes | None:
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except (OSError, ValueError):  # a name that no file can have, too
        return None
