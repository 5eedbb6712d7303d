"""`python -m loadtest.micro.index`: how fast events are taken in, what a held block costs, how long a lookup takes.

Ingest is from the wire's bytes to blocks that can be looked up: decoding, hashing, naming, indexing. Memory is the
growth of a child process that does nothing else. Lookups are of held prompts of about 100K tokens, drawn at random, so
that most of their blocks are in no cache of the processor.

Where the package `ai-dynamo-runtime` is installed (by hand: it is no dependency), its RadixTree does the same work
beside ours, on the same chains. It is fed token hashes that are computed before, as its engines send them, in the JSON
its binding takes; so its ingest does less than ours.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from router.engines import vllm_wire
from router.events.ingest import Ingest
from router.fleet.replica import Seat
from router.index.budget import Budget
from router.index.memory import MemoryIndex
from router.prompt.blocks import BlockHasher, TokenIds, root_hash
from router.sim.report import percentile

BLOCK_TOKENS = 16
CHAIN_BLOCKS = 6_250  # a prompt of 100K tokens
EVENT_BLOCKS = 16
LOOKUPS = 400
MODEL = "m"


class Chain:
    """One prompt: tokens that no other has."""

    def __init__(self, number: int) -> None:
        self.number = number
        first = number * CHAIN_BLOCKS * BLOCK_TOKENS % (1 << 31)
        self.ids = np.arange(first, first + CHAIN_BLOCKS * BLOCK_TOKENS, dtype=np.uint32)
        self.tokens = TokenIds(self.ids.tobytes())


class Homing:
    name = "Homing"

    def __init__(self, replicas: int) -> None:
        self._index = MemoryIndex(Budget(1 << 40))
        self._ingest = Ingest(self._index, hash_seed=0)
        self._seats = np.arange(replicas, dtype=np.int64)
        self._hasher, self._root = BlockHasher(1), root_hash(0, MODEL)
        for replica in range(replicas):
            self._ingest.join(Seat(replica), MODEL)
            self._ingest.begin(Seat(replica), whole=True)
            self._ingest.stream(Seat(replica), up=True)

    def payloads(self, chain: Chain, event_blocks: int) -> Iterator[bytes]:
        """As vLLM publishes them, one event a batch. Names are 64-bit numbers, as vLLM's are."""
        names = [(chain.number * CHAIN_BLOCKS + block) * 0x9E37_79B9_7F4A_7C15 % 2**64 for block in range(CHAIN_BLOCKS)]
        ids = chain.ids.tolist()
        for at in range(0, CHAIN_BLOCKS, event_blocks):
            end = min(at + event_blocks, CHAIN_BLOCKS)
            stored = {
                "type": "BlockStored",
                "block_hashes": names[at:end],
                "parent_block_hash": names[at - 1] if at else None,
                "token_ids": ids[at * BLOCK_TOKENS : end * BLOCK_TOKENS],
                "block_size": BLOCK_TOKENS,
                "medium": "GPU",
            }
            yield msgspec.msgpack.encode([0.0, [stored], 0])

    def take(self, replica: int, payload: bytes) -> None:
        for event in vllm_wire.decode(payload).events:
            self._ingest.apply(Seat(replica), event)

    def hashes(self, chain: Chain) -> array[int]:
        return self._hasher.hashes(chain.tokens, self._root, BLOCK_TOKENS)

    def look_up(self, chain: Chain) -> object:
        return self._index.match(self._hashes[chain.number], self._seats)

    def prepare(self, chains: Sequence[Chain]) -> None:
        self._hashes = {chain.number: self.hashes(chain) for chain in chains}

    def depth(self, chain: Chain) -> int:
        return int(self._index.match(self._hashes[chain.number], self._seats).held.max())


class Dynamo:
    name = "ai-dynamo-runtime RadixTree"

    def __init__(self, replicas: int) -> None:  # noqa: ARG002  one signature
        core = importlib.import_module("dynamo._core")
        self._tree, self._hash = core.RadixTree(), core.compute_block_hash_for_seq
        self._event = 0

    def payloads(self, chain: Chain, event_blocks: int) -> Iterator[bytes]:
        local = self._hash(chain.ids.tolist(), BLOCK_TOKENS)
        names = [(chain.number * CHAIN_BLOCKS + block) * 0x9E37_79B9_7F4A_7C15 % 2**64 for block in range(CHAIN_BLOCKS)]
        for at in range(0, CHAIN_BLOCKS, event_blocks):
            end = min(at + event_blocks, CHAIN_BLOCKS)
            blocks = [
                {"block_hash": name, "tokens_hash": one} for name, one in zip(names[at:end], local[at:end], strict=True)
            ]
            self._event += 1
            stored = {"parent_hash": names[at - 1] if at else None, "blocks": blocks}
            yield json.dumps({"event_id": self._event, "data": {"stored": stored}}).encode()

    def take(self, replica: int, payload: bytes) -> None:
        self._tree.apply_event(replica, payload)

    def prepare(self, chains: Sequence[Chain]) -> None:
        self._hashes = {chain.number: self._hash(chain.ids.tolist(), BLOCK_TOKENS) for chain in chains}

    def look_up(self, chain: Chain) -> object:
        return self._tree.find_matches(self._hashes[chain.number])

    def depth(self, chain: Chain) -> int:
        return max(self._tree.find_matches(self._hashes[chain.number]).scores.values(), default=0)


@dataclass(frozen=True, slots=True)
class Ingested:
    subject: str
    event_blocks: int
    blocks_per_second: float  # of this process's CPU time


@dataclass(frozen=True, slots=True)
class Held:
    subject: str
    pairs: int
    replicas: int
    bytes_per_pair: float
    lookup_p50_microseconds: float
    lookup_p99_microseconds: float


def ingest(subject: Homing | Dynamo, event_blocks: int, blocks: int, replicas: int) -> Ingested:
    """Chains stored one after another, each on one replica. Building the payloads is not counted."""
    taken, spent = 0, 0.0
    number = 0
    while taken < blocks:
        payloads = list(subject.payloads(Chain(number), event_blocks))
        began = time.process_time()
        for payload in payloads:
            subject.take(number % replicas, payload)
        spent += time.process_time() - began
        taken += CHAIN_BLOCKS
        number += 1
    return Ingested(subject.name, event_blocks, taken / spent)


def held(kind: str, pairs: int, replicas: int, holders: int) -> Held:
    """Fill until there are so many (block, replica) pairs, each chain on so many replicas."""
    subject = Homing(replicas) if kind == "homing" else Dynamo(replicas)
    chance = Random(1)
    for payload in subject.payloads(Chain(0), EVENT_BLOCKS):  # whatever grows only once
        subject.take(0, payload)
    gc.collect()
    before, stored, number = _resident_bytes(), 0, 1
    while stored < pairs:
        payloads = list(subject.payloads(Chain(number), EVENT_BLOCKS))
        for replica in chance.sample(range(replicas), holders):
            for payload in payloads:
                subject.take(replica, payload)
        stored += CHAIN_BLOCKS * holders
        number += 1
    del payloads
    gc.collect()
    grown = _resident_bytes() - before
    asked = [Chain(one) for one in chance.sample(range(1, number), min(64, number - 1))]
    subject.prepare(asked)
    if any(subject.depth(chain) != CHAIN_BLOCKS for chain in asked):
        raise RuntimeError("a chain that was stored is not found: the figures would mean nothing")
    times = []
    for _ in range(LOOKUPS):
        chain = chance.choice(asked)
        began = time.perf_counter_ns()
        subject.look_up(chain)
        times.append((time.perf_counter_ns() - began) / 1000)
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    assert p50 is not None and p99 is not None  # noqa: PT018
    return Held(subject.name, stored, replicas, grown / stored, p50, p99)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _child(kind: str, pairs: int, replicas: int, holders: int) -> Held:
    """In a process of its own, so that one filling's memory is not another's."""
    words = (sys.executable, "-m", "loadtest.micro.index", "--child", kind, str(pairs), str(replicas), str(holders))
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Held)


def _rival_there() -> bool:
    return importlib.util.find_spec("dynamo") is not None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.micro.index", description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--blocks", type=int, default=400_000, help="taken in for each ingest figure")
    parser.add_argument("--rounds", type=int, default=3, help="of ingest; subjects alternate, the best counts")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--holders", type=int, default=1, help="replicas that hold each chain")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind, *numbers = given.child
        sys.stdout.buffer.write(msgspec.json.encode(held(kind, *map(int, numbers))))
        return
    kinds = ("homing", "dynamo") if _rival_there() else ("homing",)
    console = Console()
    taken = [
        max((_ingested(kind, size, given.blocks) for _ in range(given.rounds)), key=lambda one: one.blocks_per_second)
        for size in (EVENT_BLOCKS, 1)
        for kind in kinds
    ]
    table = Table(title="Ingest: blocks per second of one core")
    for column in ("", "blocks an event", "blocks/s"):
        table.add_column(column, justify="right")
    for row in taken:
        table.add_row(row.subject, str(row.event_blocks), f"{row.blocks_per_second:,.0f}")
    console.print(table)
    table = Table(title="Held: memory by RSS, and lookups of 100K tokens over all replicas")
    for column in ("", "pairs", "replicas", "bytes a pair", "lookup p50", "p99"):
        table.add_column(column, justify="right")
    rows = []
    for pairs in given.pairs:
        for replicas in given.replicas:
            for kind in kinds:
                one = _child(kind, pairs, replicas, given.holders)
                rows.append(one)
                table.add_row(
                    one.subject,
                    f"{one.pairs:,}",
                    str(one.replicas),
                    f"{one.bytes_per_pair:.0f}",
                    f"{one.lookup_p50_microseconds:,.0f} us",
                    f"{one.lookup_p99_microseconds:,.0f} us",
                )
    console.print(table)
    if given.json:
        figures = {"ingest": [asdict(one) for one in taken], "held": [asdict(one) for one in rows]}
        given.json.write_text(json.dumps(figures, indent=2))


def _ingested(kind: str, event_blocks: int, blocks: int) -> Ingested:
    return ingest(Homing(8) if kind == "homing" else Dynamo(8), event_blocks, blocks, 8)


if __name__ == "__main__":
    main()
