"""Who there is: every replica that joined and was not released since, its seat, what it told, and what it serves.

Leaves to others: whether a replica is well (`health`), how busy it is (`ledger`), how it is found and asked.

Which names a present replica serves:
- those it told, once it has told any: an engine knows best what it serves;
- until then the configured ones, so that the very first request need not wait for the first answer of `GET /v1/models`.

What a replica told stays known while it is dead and after it left. So a model whose last replica died is still listed
and is refused with 503 (come back later), not with 404 (never heard of it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from router.errors import NoReplica, UnknownModel
from router.fleet.replica import Facts, IntArray, Replica, ReplicaId, Seat, ServedModel

T = TypeVar("T")

NOTHING_TOLD = Facts()

# Two readings of one process's start differ by clock rounding at most; a restart takes longer than this.
SAME_START_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update changed. `restarted`: the engine is a new process, its cache empty and its habits unknown."""

    models: bool = False
    block_size: bool = False
    cache_blocks: bool = False
    events: bool = False
    restarted: bool = False
    other: bool = False  # prefix caching, a version or a start time told for the first time

    def __bool__(self) -> bool:
        return self.models or self.block_size or self.cache_blocks or self.events or self.restarted or self.other


@dataclass(slots=True)
class _Row:
    replica: Replica
    facts: Facts
    present: bool


class Roster:
    """Replicas by seat. Only discovery and the probes change it, through `join`, `leave` and `update`.

    `version` grows with every change, for whoever caches something derived from the roster.
    """

    def __init__(self, configured_models: Iterable[ServedModel] = ()) -> None:
        self.version = 0
        self._configured = {model.name: model for model in configured_models}
        self._rows: list[_Row] = []
        self._seats: dict[ReplicaId, Seat] = {}
        self._free: list[Seat] = []
        self._once: dict[str, ServedModel] = {}  # told by replicas whose seats were released
        # Derived, dropped whole at every change. Only known names become keys, so they are bounded by the models.
        self._models: dict[str, ServedModel] | None = None
        self._serving: dict[str, IntArray] = {}
        self._serving_ids: dict[str, tuple[ReplicaId, ...]] = {}
        self._block_sizes: dict[str, frozenset[int]] = {}

    def join(self, replica: Replica) -> Seat:
        """The replica's seat: its old one if the id was here before and its seat was not released. A new address is a
        new process: its facts are unknown again."""
        seat = self._seats.get(replica.id)
        if seat is None:
            row = _Row(replica, NOTHING_TOLD, present=True)
            if self._free:
                seat = self._free.pop()
                self._rows[seat] = row
            else:
                seat = Seat(len(self._rows))
                self._rows.append(row)
            self._seats[replica.id] = seat
            self._changed()
            return seat
        row = self._rows[seat]
        if row.present and row.replica == replica:
            return seat
        if row.replica.url != replica.url:
            row.facts = NOTHING_TOLD
        row.replica, row.present = replica, True
        self._changed()
        return seat

    def leave(self, replica_id: ReplicaId) -> Seat | None:
        """The seat left empty, None when no such replica is present. Its seat and what it told stay known."""
        seat = self._seats.get(replica_id)
        if seat is None or not self._rows[seat].present:
            return None
        self._rows[seat].present = False
        self._changed()
        return seat

    def release(self, seat: Seat) -> None:
        """Nothing of the replica that left this seat can arrive any more: it may be another's. Its id is forgotten;
        the models it told stay known. Must not be present."""
        row = self._rows[seat]
        self._once.update((model.name, model) for model in row.facts.models)
        row.facts = NOTHING_TOLD
        del self._seats[row.replica.id]
        self._free.append(seat)
        self._changed()

    def update(self, seat: Seat, facts: Facts) -> Changes:
        """Take what a replica told. What it did not say this time (None, no models) stays as last told."""
        row = self._rows[seat]
        old = row.facts
        new = replace(
            facts,
            models=facts.models or old.models,
            block_size_tokens=_said(facts.block_size_tokens, old.block_size_tokens),
            cache_blocks=_said(facts.cache_blocks, old.cache_blocks),
            prefix_caching=_said(facts.prefix_caching, old.prefix_caching),
            events=_said(facts.events, old.events),
            process_start_time=_said(facts.process_start_time, old.process_start_time),
            version=_said(facts.version, old.version),
            ranks=_said(facts.ranks, old.ranks),
            engine=_said(facts.engine, old.engine),
            handshake=_said(facts.handshake, old.handshake),
        )
        if new == old:
            return Changes()
        row.facts = new
        self._changed()
        return Changes(
            models=new.models != old.models,
            block_size=new.block_size_tokens != old.block_size_tokens,
            cache_blocks=new.cache_blocks != old.cache_blocks,
            events=new.events != old.events,
            restarted=_is_another(old, new),
            other=True,
        )

    def seat_of(self, replica_id: ReplicaId) -> Seat | None:
        """The seat of a replica that is or was here; None when the id never joined."""
        return self._seats.get(replica_id)

    def replica(self, seat: Seat) -> Replica:
        return self._rows[seat].replica

    def facts(self, seat: Seat) -> Facts:
        return self._rows[seat].facts

    def is_present(self, seat: Seat) -> bool:
        return self._rows[seat].present

    def present(self) -> list[Seat]:
        """Seats of the replicas that are here, ascending."""
        return [Seat(seat) for seat, row in enumerate(self._rows) if row.present]

    def ids(self, seats: Iterable[int]) -> tuple[ReplicaId, ...]:
        return tuple(self._rows[seat].replica.id for seat in seats)

    def serving(self, model_name: str) -> IntArray:
        """Seats of the present replicas that serve the name, ascending. Read-only, shared: do not write to it.

        Empty when the model is known but every replica of it has left. Raises UnknownModel, naming the known ones, when
        neither a replica ever told the name nor the configuration lists it. One dict lookup between changes.
        """
        found = self._serving.get(model_name)
        if found is None:
            self.served(model_name)
            found = np.array([seat for seat in self.present() if self._serves(seat, model_name)], dtype=np.int64)
            found.flags.writeable = False
            self._serving[model_name] = found
        return found

    def serving_ids(self, model_name: str) -> tuple[ReplicaId, ...]:
        """Ids of `serving(model_name)`, in its order, cached alike."""
        found = self._serving_ids.get(model_name)
        if found is None:
            found = self._serving_ids[model_name] = self.ids(self.serving(model_name))
        return found

    def served(self, model_name: str) -> ServedModel:
        """Base, adapter, root and length of a name. Raises UnknownModel, or NoReplica while no name is known at all.

        Where replicas differ, a present one counts before one that left, then the lower seat: one answer for the whole
        fleet, because prompts and events must be hashed under one base.
        """
        models = self._known()
        found = models.get(model_name)
        if found is None and not models:
            raise NoReplica(f"No replica has told yet what it serves, so nobody knows whether `{model_name}` is here.")
        if found is None:
            known = ", ".join(sorted(models))
            raise UnknownModel(
                f"The model `{model_name}` does not exist here. Known models: {known}.",
                param="model",
                code="model_not_found",
            )
        return found

    def models(self) -> tuple[ServedModel, ...]:
        """Every known name once, sorted by name: configured, or told by any replica, dead and departed included."""
        models = self._known()
        return tuple(models[name] for name in sorted(models))

    def block_sizes(self, model_name: str) -> frozenset[int]:
        """Distinct block sizes (tokens) of the present replicas that serve the name, as far as told.

        Raises UnknownModel."""
        found = self._block_sizes.get(model_name)
        if found is None:
            told = (self._rows[seat].facts.block_size_tokens for seat in self.serving(model_name).tolist())
            found = self._block_sizes[model_name] = frozenset(size for size in told if size is not None)
        return found

    def _serves(self, seat: Seat, model_name: str) -> bool:
        told = self._rows[seat].facts.models
        if not told:
            return model_name in self._configured
        return any(model.name == model_name for model in told)

    def _known(self) -> dict[str, ServedModel]:
        if self._models is None:
            models: dict[str, ServedModel] = {}
            for row in sorted(self._rows, key=lambda row: not row.present):  # stable: by seat within each half
                for model in row.facts.models:
                    models.setdefault(model.name, model)
            for name, model in (*self._once.items(), *self._configured.items()):
                models.setdefault(name, model)
            self._models = models
        return self._models

    def _changed(self) -> None:
        self.version += 1
        self._models = None
        self._serving = {}
        self._serving_ids = {}
        self._block_sizes = {}


def _is_another(old: Facts, new: Facts) -> bool:
    """Whether another process answers: by its start time, or because it tells what no process changes of itself."""
    started, starts = old.process_start_time, new.process_start_time
    if started is not None and starts is not None and abs(starts - started) > SAME_START_SECONDS:
        return True
    roots = {model.name: model.root for model in old.models if model.adapter is None}
    return (
        _differ(old.version, new.version)
        or _differ(old.block_size_tokens, new.block_size_tokens)
        or any(_differ(roots.get(model.name), model.root) for model in new.models if model.adapter is None)
    )


def _differ(old: object | None, new: object | None) -> bool:
    return old is not None and new is not None and old != new


def _said(new: T | None, old: T | None) -> T | None:
    return old if new is None else new
