"""The floor plan of the house, as tests: who may import whom, and which files touch the outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "router").rglob("*.py"))

# Top floor first. A room imports from floors below it and from itself; rooms on one floor do not know each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"cli"}),
    frozenset({"demo", "explain", "lab"}),
    frozenset({"process"}),
    frozenset({"app"}),
    frozenset({"housekeeping", "reload"}),
    frozenset({"house", "control", "sources"}),
    frozenset({"keeper", "proving"}),
    frozenset({"seating", "doctor"}),
    frozenset({"gateway", "discovery", "sim"}),
    frozenset({"engines"}),
    frozenset({"policy", "events", "sharing"}),
    frozenset({"index"}),
    frozenset({"prompt", "fleet"}),
    frozenset({"clock", "config", "metrics"}),
    frozenset({"errors", "addresses"}),
)

# The files that touch the outside: sockets, files, clocks, threads. Everything else only decides.
EDGES = frozenset(
    {
        *(
            "cli.py",
            "demo.py",
            "process.py",
            "app.py",
            "house.py",
            "housekeeping.py",
            "control.py",
            "keeper.py",
            "proving.py",
            "seating.py",
        ),
        *("clock.py", "config.py", "metrics.py"),
        *("prompt/template.py", "prompt/tokenizer.py", "prompt/source.py", "prompt/read.py", "prompt/engine.py"),
        "prompt/lru.py",  # a lock: the reading threads share it
        *("events/zmq.py", "events/pace.py", "events/streams.py"),
        *("sharing/redis.py", "sharing/apart.py", "sharing/warm.py"),
        *("policy/load.py", "lab/compare.py", "lab/record.py", "lab/run.py", "lab/simulate.py"),
        *(
            "sim/server.py",
            "sim/replica.py",
            "sim/publish.py",
            "sim/routes.py",
            "sim/generate.py",
            "sim/asgi.py",
            "sim/ports.py",
        ),
        *("sim/transfers.py", "sim/text.py", "sim/caller.py", "sim/drive.py", "sim/train_tokenizer.py"),
    }
)
EDGE_ROOMS = frozenset({"gateway", "discovery", "doctor", "reload"})
# What only decides, though it stands in a room of edges.
PURE = frozenset(
    {
        f"discovery/{name}.py"
        for name in ("kube_objects", "members", "membership", "notes", "pods", "ranks", "reflect", "slices", "static")
    }
) | {"reload/changes.py"}
OUTSIDE = frozenset(
    {
        "asyncio", "time", "logging", "socket", "ssl", "threading", "subprocess", "os", "random", "httpx", "httptools",
        "uvicorn", "fastapi", "starlette", "zmq", "redis", "kubernetes", "prometheus_client", "huggingface_hub",
    }
)  # fmt: skip
REFUSED_NAMES = ("utils", "helpers", "common", "misc", "manager", "handler", "info", "data")
MAX_LINES = 400


def room(path: Path) -> str:
    inside = path.relative_to(ROOT / "router")
    return inside.parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def is_edge(path: Path) -> bool:
    inside = path.relative_to(ROOT / "router").as_posix()
    return inside not in PURE and (room(path) in EDGE_ROOMS or inside in EDGES)


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(p.relative_to(ROOT)) for p in paths])


@named([p for p in FILES if p.parent != ROOT / "router" or p.name != "__init__.py"])
def test_imports_run_downward_only(path: Path) -> None:
    own = room(path)
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "router" or len(parts) < 2 or parts[1] == own:
            continue
        assert floor(parts[1]) > floor(own), f"{own} imports {name}, which is not below it"


@named([p for p in FILES if not is_edge(p)])
def test_pure_files_import_nothing_of_the_outside(path: Path) -> None:
    for name, node in imports(path):
        top = name.split(".")[0]
        if top == "random" and isinstance(node, ast.ImportFrom) and {a.name for a in node.names} == {"Random"}:
            continue  # the type; an instance comes in as an argument
        assert top not in OUTSIDE, f"{name} belongs to an edge; list the file in EDGES only if that is what it is for"


def test_every_listed_edge_exists() -> None:
    missing = {edge for edge in EDGES if not (ROOT / "router" / edge).exists()}
    assert not missing


@named([p for p in FILES if room(p) == "sim"])
def test_the_sim_shares_no_hashing_or_index_with_the_router(path: Path) -> None:
    for name, _ in imports(path):
        assert not name.startswith(("router.prompt", "router.index", "router.events", "router.engines"))


@named(FILES)
def test_functions_import_nothing_but_optional_packages(path: Path) -> None:
    tree = ast.parse(path.read_text())
    optional = {"kubernetes", "urllib3", "redis"}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                    assert {n.split(".")[0] for n in names} <= optional, f"line {node.lineno}"


@named([p for p in (*FILES, ROOT / "policies/__init__.py") if p.name == "__init__.py"])
def test_an_init_file_holds_at_most_a_docstring(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


@named([p for p in FILES if p.name != "__init__.py"])
def test_a_file_is_named_after_one_idea_tells_it_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in REFUSED_NAMES
    assert ast.get_docstring(ast.parse(text)), "a file begins by saying what it is for"
    assert text.count("\n") <= MAX_LINES, "which second idea crept in?"


@named(FILES)
def test_no_module_holds_mutable_state_or_globals(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Global)
