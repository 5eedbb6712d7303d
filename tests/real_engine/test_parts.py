"""The parts of the suite that need no engine."""

from __future__ import annotations

import json
import struct
from email.message import Message
from pathlib import Path

import numpy as np

from tests.real_engine.install import requirements
from tests.real_engine.model import make_adapter, write_safetensors
from tests.real_engine.report import Report, Window
from tests.real_engine.traffic import Asked


def test_weights_are_where_the_header_says(tmp_path: Path) -> None:
    written = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, dtype=np.float32)}
    write_safetensors(tmp_path / "w", written)
    content = (tmp_path / "w").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header, arrays = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert length % 8 == 0
    for name, array in written.items():
        begin, end = header[name]["data_offsets"]
        assert (np.frombuffer(arrays[begin:end], "<f4").reshape(header[name]["shape"]) == array).all()


def test_two_adapters_differ_and_one_seed_makes_the_same(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        make_adapter(tmp_path / name, seed=seed)
    one, again, other = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "again", "other")
    )
    assert one == again != other


def test_what_has_no_cpu_build_is_not_installed() -> None:
    wheel = Message()
    for line in ("torch==2.13.0+cpu", "torchvision==0.28", "numpy", "boto3; extra == 's3'"):
        wheel["Requires-Dist"] = line
    assert requirements(wheel) == ["torch==2.13.0+cpu", "numpy"]


def test_a_report_tells_misses_outside_the_window_and_what_was_lost_anywhere() -> None:
    asked = [
        Asked("exact", "chat", False, 1.0, 2.0, 200, None, 100, 64),
        Asked("missed", "chat", True, 3.0, 4.0, 200, None, None, None),
        Asked("within", "chat", True, 5.0, 7.0, 200, "cut off", None, None),
    ]
    receipts = {
        "exact": receipt({"judged": True, "exact": True, "predicted_cached_tokens": 64, "reported_cached_tokens": 64}),
        "missed": receipt(
            {
                "judged": True,
                "exact": False,
                "predicted_cached_tokens": 64,
                "reported_cached_tokens": 32,
                "cause": "eviction_race",
            }
        ),
        "within": receipt(None),
    }
    report = Report(asked, receipts, Window(6.0, 8.0))
    assert [row.asked.tag for row in report.missed] == ["missed"]
    assert [row.asked.tag for row in report.lost] == ["within"]
    assert report.exact_share() == 0.5
    assert report.computed_tokens("r") == 36 + 68
    assert "eviction_race; predicted 64, reported 32 of 100" in report.table("A run")


def receipt(verdict: dict[str, object] | None) -> dict[str, object]:
    return {
        "verdict": verdict,
        "unpredicted": None,
        "prompt_tokens": 100,
        "attempts": [{"replica": "r", "ending": "ok"}],
        "decision": {"candidates": [{"trust": "EXACT", "open_requests": 0}]},
    }
