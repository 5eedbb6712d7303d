"""What is asked of a server, in which order, and what the listener is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx
import pytest

from router.clock import ManualClock
from router.discovery.probe import LEARN_EVERY_ROUNDS, Probe, Told
from router.engines import sglang
from router.engines.base import Dialect, EngineLoad
from router.engines.vllm import Vllm
from router.fleet.replica import Replica, ReplicaId

DIALECTS: tuple[Dialect, ...] = (Vllm(), *sglang.RELEASES)
SERVER = Replica(ReplicaId("a"), "http://a:1")


def models(owner: str) -> str:
    return json.dumps({"data": [{"id": "tiny", "root": "org/tiny", "owned_by": owner}]})


def source(rank: int) -> dict[str, str]:
    return {"publisher": "zmq", "endpoint": f"tcp://*:{5557 + rank}"}


VLLM = {
    "/v1/models": models("vllm"),
    "/health": "",
    "/version": '{"version":"0.32.0"}',
    "/metrics": 'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n',
    "/kv_event_sources": json.dumps({"0": source(0)}),
}
SGLANG = {
    "/v1/models": models("sglang"),
    "/health": "this made a token",
    "/ready": "",
    "/server_info": '{"version":"0.5.23","page_size":16}',
    "/v1/loads": '{"loads":[{"dp_rank":0,"num_running_reqs":4,"num_waiting_reqs":1}]}',
}


@dataclass
class Ward:
    """A server that answers by a table, and a listener that keeps what it was told."""

    pages: Mapping[str, str] | None
    asked: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    late: bool = False
    forwarded: bool = False  # by someone who takes connections for a server that is gone
    strange: bool = False  # its figures look like another process's
    told: list[Told] = field(default_factory=list)
    loads: list[Mapping[int, EngineLoad]] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.pages is None:
            raise httpx.ConnectError("refused", request=request)
        if self.forwarded:
            raise AttributeError("'NoneType' object has no attribute 'getpeername'")  # what anyio makes of it
        if self.late:
            raise httpx.ReadTimeout("slow", request=request)
        page = self.pages.get(request.url.path)
        return httpx.Response(404) if page is None else httpx.Response(200, text=page)

    def well(self, server: ReplicaId, round_trip_seconds: float) -> None:
        self.heard.append("well")

    def ill(self, server: ReplicaId, why: str, *, refused: bool) -> None:
        self.heard.append("refused" if refused else f"ill: {why}")

    def learned(self, server: ReplicaId, told: Told) -> None:
        self.told.append(told)

    def loaded(self, server: ReplicaId, loads: Mapping[int, EngineLoad]) -> bool:
        self.loads.append(loads)
        return self.strange


@asynccontextmanager
async def asking(
    pages: Mapping[str, str] | None, dialects: tuple[Dialect, ...] = DIALECTS, server: Replica = SERVER
) -> AsyncIterator[tuple[Ward, Probe]]:
    ward = Ward(pages)
    async with httpx.AsyncClient(transport=httpx.MockTransport(ward.answer)) as http:
        clock = ManualClock()
        yield (
            ward,
            Probe(server, http=http, dialects=dialects, listener=ward, clock=clock, interval_seconds=1.0),
        )


@pytest.mark.parametrize(
    ("pages", "engine", "running"), [(VLLM, "vllm", 3), (SGLANG, "sglang", 4)], ids=["vllm", "sglang"]
)
async def test_an_engine_is_recognised_and_asked_in_its_own_language(
    pages: Mapping[str, str], engine: str, running: int
) -> None:
    async with asking(pages) as (ward, probe):
        for _ in range(LEARN_EVERY_ROUNDS + 1):
            await probe.round()
        assert {told.dialect.name for told in ward.told} == {engine}
        assert ward.heard == ["well"] * (LEARN_EVERY_ROUNDS + 1)
        assert len(ward.told) == 2
        assert [load[0].running_requests for load in ward.loads] == [running] * (LEARN_EVERY_ROUNDS + 1)
        facts, _ = ward.told[0].ranks[0]
        assert (facts.engine, facts.models[0].name) == (engine, "tiny")


async def test_a_path_that_makes_tokens_in_another_engine_is_not_asked_before_or_after_it_is_known() -> None:
    async with asking(SGLANG) as (ward, probe):
        for _ in range(3):
            await probe.round()
        assert "/health" not in ward.asked
    async with asking({"/v1/models": models("somebody")}) as (ward, probe):
        for _ in range(3):
            await probe.round()
        assert not {"/health", "/ready"} & set(ward.asked)
        assert ward.heard == ["well"] * 3
        facts, remarks = ward.told[0].ranks[0]
        assert facts.models[0].name == "tiny"
        assert "replicas[].engine" in remarks[0]


async def test_a_configured_engine_is_not_questioned() -> None:
    async with asking({"/health": "", "/v1/models": models("somebody")}, (Vllm(),)) as (ward, probe):
        await probe.round()
        assert (ward.heard, ward.asked[0]) == (["well"], "/health")
        assert ward.told[0].ranks[0][1] == ()


async def test_nobody_there_costs_one_question_a_round_and_a_stranger_is_ill() -> None:
    async with asking(None) as (ward, probe):
        await probe.round()
        assert (ward.heard, ward.asked) == (["refused"], ["/v1/models"])
    async with asking({"/": "a web page"}) as (ward, probe):
        await probe.round()
        assert ward.heard[0].startswith("ill: ")
        assert "vllm or sglang" in ward.heard[0]


async def test_another_engine_behind_the_same_address_is_recognised_after_a_failure_and_without_one() -> None:
    async with asking(VLLM) as (ward, probe):
        await probe.round()
        ward.pages = None
        await probe.round()
        ward.pages = SGLANG
        await probe.round()
        assert [told.dialect.name for told in ward.told] == ["vllm", "sglang"]
        assert "/health" not in ward.asked[-8:]
    async with asking(VLLM) as (ward, probe):
        await probe.round()
        ward.pages = {**SGLANG, "/health": ""}
        for _ in range(LEARN_EVERY_ROUNDS):
            await probe.round()
        assert [told.dialect.name for told in ward.told] == ["vllm", "sglang"]


async def test_a_server_with_ranks_is_asked_once_and_told_of_rank_by_rank() -> None:
    pages = {**VLLM, "/kv_event_sources": json.dumps({str(rank): source(rank) for rank in range(3)})}
    async with asking(pages) as (ward, probe):
        await probe.round()
        assert [facts.events.endpoint for facts, _ in ward.told[0].ranks if facts.events] == [
            "tcp://a:5557",
            "tcp://a:5558",
            "tcp://a:5559",
        ]
        assert len(ward.asked) == len(set(ward.asked)) + 1  # /v1/models, to knock


async def test_figures_that_look_like_another_process_are_asked_about_at_once() -> None:
    async with asking(VLLM) as (ward, probe):
        await probe.round()
        ward.strange = True
        await probe.round()
        assert len(ward.told) == 2


async def test_a_mere_time_out_makes_nobody_a_stranger() -> None:
    async with asking(VLLM) as (ward, probe):
        await probe.round()
        ward.late, before = True, len(ward.asked)
        await probe.round()
        ward.late = False
        await probe.round()
        assert ward.heard == ["well", "ill: ReadTimeout slow", "well"]
        assert ward.asked[before : before + 2] == ["/health", "/health"]
        assert len(ward.told) == 2


async def test_a_connection_that_is_reset_as_it_is_made_is_an_ill_server_and_no_bug() -> None:
    async with asking(VLLM) as (ward, probe):
        await probe.round()
        ward.forwarded = True
        await probe.round()
        assert ward.heard[-1] == "ill: ReadError the connection was reset as it was made"


async def test_ranks_that_a_server_does_not_tell_are_as_many_as_were_configured() -> None:
    silent = {path: page for path, page in VLLM.items() if path in ("/v1/models", "/health", "/version")}
    async with asking(silent, server=replace(SERVER, ranks=2)) as (ward, probe):
        await probe.round()
        assert len(ward.told[0].ranks) == 2
