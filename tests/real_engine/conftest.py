"""The replicas and the Homing that the suite plays on, and the tables it leaves at the end of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.real_engine.homing import Homing, homing
from tests.real_engine.install import Unavailable, engine_python
from tests.real_engine.model import make_adapter, make_model
from tests.real_engine.process import answers, until
from tests.real_engine.vllm import ADAPTERS, Cache, Replica, vllm

SETTLE_SECONDS = 60.0
TABLES = pytest.StashKey[list[str]]()


@dataclass(frozen=True, slots=True)
class Stage:
    """What the suite plays on. `own`: the replicas were started here, so that they may be killed."""

    replicas: Sequence[Replica]
    homing: Homing
    model: str
    adapters: Sequence[str]
    own: bool

    def replica(self, name: str) -> Replica:
        return next(replica for replica in self.replicas if replica.id == name)


@pytest.fixture(scope="session")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Replica]]:
    given = os.environ.get("HOMING_REAL_ENGINES")
    if given:
        found = [Replica(url.strip().rstrip("/")) for url in given.split(",") if url.strip()]
        silent = [replica.url for replica in found if not answers(f"{replica.url}/health")]
        assert not silent, f"HOMING_REAL_ENGINES names {', '.join(silent)}, which answers no GET /health"
        yield found
        return
    try:
        python = engine_python()
    except Unavailable as why:
        pytest.skip(str(why))
    folder = tmp_path_factory.mktemp("real_engine")
    make_model(folder / "model")
    adapters = {name: folder / name for name in ADAPTERS}
    for seed, (_, where) in enumerate(adapters.items()):
        make_adapter(where, seed=seed)
    started = [
        vllm(python, folder / "model", adapters, folder, "one", Cache(block_size_tokens=32, blocks=480)),
        # Its replay buffer holds some seconds of traffic: who joins later hears no beginning.
        vllm(python, folder / "model", adapters, folder, "two", Cache(64, blocks=240, replay_batches=100)),
    ]
    try:
        for replica in started:
            assert replica.process is not None
            replica.process.start()
        for replica in started:
            replica.await_up()
        yield started
    finally:
        for replica in started:
            assert replica.process is not None
            replica.process.stop()


@pytest.fixture(scope="session")
def stage(replicas: Sequence[Replica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    front = homing(replicas, tmp_path_factory.mktemp("homing"))
    own = all(replica.process is not None for replica in replicas)
    try:
        front.start()
        until(front.all_heard, SETTLE_SECONDS, "every replica's events to be heard")
        if own:
            until(front.reads_locally, SETTLE_SECONDS, "the local tokenizer to be proven")
        models = replicas[0].get("/v1/models").json()["data"]
        base = next(model["id"] for model in models if model.get("parent") is None)
        yield Stage(replicas, front, base, [m["id"] for m in models if m.get("parent") is not None], own)
    finally:
        front.process.stop()


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a table printed at the end of the run, whether or not its test passes."""
    return request.config.stash.setdefault(TABLES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tables = config.stash.get(TABLES, [])
    if tables:
        terminalreporter.section("real engines")
        terminalreporter.write_line("\n\n".join(tables))
