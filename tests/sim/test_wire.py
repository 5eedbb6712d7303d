"""The encoder gives back the exact bytes of recorded frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any  # decoded msgpack

import msgspec
import pytest

from router.sim.wire import AllBlocksCleared, BlockRemoved, BlockStored, Encoding, Event, encode_batch
from tests.sim.recordings import FRAMES, FULL, lines

SOURCES = [
    pytest.param(FRAMES / "vllm_a_block32.jsonl", Encoding.MAPS, id="maps, integers"),
    pytest.param(FRAMES / "vllm_b_block64.jsonl", Encoding.MAPS, id="maps, bytes"),
    pytest.param(FRAMES / "vllm_legacy.jsonl", Encoding.ARRAYS, id="arrays"),
    pytest.param(FULL / "a_block32_int_sha256_lora", Encoding.MAPS, id="a-full", marks=pytest.mark.shared),
    pytest.param(FULL / "b_block64_bytes_sha256cbor", Encoding.MAPS, id="b-full", marks=pytest.mark.shared),
    pytest.param(FULL / "a_legacy_array_derived", Encoding.ARRAYS, id="legacy-full", marks=pytest.mark.shared),
]


@pytest.mark.parametrize(("source", "encoding"), SOURCES)
def test_recorded_payloads_survive_decoding_and_encoding(source: Path, encoding: Encoding) -> None:
    if not source.exists():
        pytest.skip(f"{source} is not part of the repository")
    payloads = [bytes.fromhex(line["payload_hex"]) for line in lines(source) if line["kind"] == "event"]
    assert len(payloads) > 20
    for payload in payloads:
        time_seconds, events, rank = msgspec.msgpack.decode(payload)
        assert encode_batch(time_seconds, [as_event(e) for e in events], rank=rank, encoding=encoding) == payload


def as_event(decoded: dict[str, Any] | list[Any]) -> Event:
    """A decoded event of either form as one of ours."""
    kinds = {"BlockStored": BlockStored, "BlockRemoved": BlockRemoved, "AllBlocksCleared": AllBlocksCleared}
    if isinstance(decoded, dict):
        fields = {name: value for name, value in decoded.items() if name != "type"}
        event: Event = kinds[decoded["type"]](**fields)
        return event
    kind = kinds[decoded[0]]
    old: Event = kind(*decoded[1 : 1 + len(kind.__struct_fields__)])
    return old


def test_a_clear_is_a_map_of_its_type_alone_or_an_array_of_it() -> None:
    assert msgspec.msgpack.decode(encode_batch(1.5, [AllBlocksCleared()])) == [1.5, [{"type": "AllBlocksCleared"}], 0]
    old = encode_batch(1.5, [AllBlocksCleared()], encoding=Encoding.ARRAYS)
    assert msgspec.msgpack.decode(old) == [1.5, [["AllBlocksCleared"]], 0]
