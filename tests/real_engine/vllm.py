"""Real vLLM replicas: how they are started, and what the suite asks them directly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.real_engine.process import Process, answers, free_ports, until

MODEL = "tiny"
ADAPTERS = ("ada", "bea")
START_SECONDS = 300.0  # two at once take 40 s on two quiet cores

# A replica without pinned cores or a network; each line was needed for vLLM 0.32 on CPU.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
NIXL_ENVIRONMENT = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"}


@dataclass(frozen=True, slots=True)
class Cache:
    """How one replica caches. Small, so that a few hundred requests evict; the two differ on purpose."""

    block_size_tokens: int
    blocks: int
    replay_batches: int = 10_000


@dataclass(frozen=True, slots=True)
class Replica:
    """One vLLM replica, ours or given by its address."""

    url: str
    process: Process | None = None  # None: given; it is never ended

    @property
    def id(self) -> str:
        return self.url.split("//", 1)[1]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10.0)

    def unfinished_requests(self) -> float:
        """Running and waiting, by the engine's own gauges."""
        return self.metric("vllm:num_requests_running{") + self.metric("vllm:num_requests_waiting{")

    def metric(self, line_start: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    def await_up(self) -> None:
        until(self._answers, START_SECONDS, f"{self.url} to answer /health")
        self.step()  # the first one of a fresh engine is slow

    def step(self) -> None:
        """Have it compute something, and publish what events it holds back."""
        model = self.get("/v1/models").json()["data"][0]["id"]
        body = {"model": model, "prompt": "warm", "max_tokens": 1}
        httpx.post(f"{self.url}/v1/completions", json=body, timeout=60.0).raise_for_status()

    def _answers(self) -> bool:
        if self.process is not None:
            self.process.check()
        return answers(f"{self.url}/health")


def vllm(
    python: Path,
    model: Path,
    adapters: Mapping[str, Path],
    folder: Path,
    name: str,
    cache: Cache,
    role: str | None = None,
) -> Replica:
    """A replica on free ports of loopback, not started yet. `role`: prefill or decode, over NIXL."""
    port, events, replay = free_ports(3)
    publisher = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{events}",  # with any other host it would connect instead of listening
        "replay_endpoint": f"tcp://127.0.0.1:{replay}",
        "topic": f"kv@{name}",
        "buffer_steps": cache.replay_batches,
    }
    options: dict[str, object] = {
        "--model": model,
        "--served-model-name": MODEL,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": "float32",  # bfloat16 can die of SIGILL in a worker's first, small batch
        "--max-model-len": 2048,
        "--max-num-seqs": 16,
        "--block-size": cache.block_size_tokens,
        "--num-gpu-blocks-override": cache.blocks,
        "--kv-cache-memory-bytes": 64 << 20,
        "--tool-call-parser": "hermes",
        "--kv-events-config": json.dumps(publisher),
    }
    switches = (
        *("--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details"),
        "--enable-auto-tool-choice",
    )
    environment = dict(ENVIRONMENT)
    if role is not None:
        transfer = {"kv_connector": "NixlConnector", "kv_role": KV_ROLES[role], "kv_buffer_device": "cpu"}
        options["--kv-transfer-config"] = json.dumps(transfer)
        environment |= {**NIXL_ENVIRONMENT, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_ports(1)[0])}
    # On one machine the engines' computing must not keep the router from hearing them: elsewhere it is a GPU's.
    command: list[str | Path] = ["nice", "-n", "5", python, "-m", "vllm.entrypoints.openai.api_server", *switches]
    for option, value in options.items():
        command += [option, str(value)]
    if adapters:
        command += ["--enable-lora", "--max-lora-rank", "8", "--max-loras", str(len(ADAPTERS))]
        command += ["--lora-modules", *(f"{adapter}={path}" for adapter, path in adapters.items())]
    process = Process(f"vLLM {name}", command, folder / f"{name}.log", environment)
    return Replica(f"http://127.0.0.1:{port}", process)
