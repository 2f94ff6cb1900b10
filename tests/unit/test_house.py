"""The laws of the house as tests: who may import whom, how large a room may grow, where things live."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROOMS = {
    "octupus.wire": ROOT / "octupus/wire",
    "octupus.constrain": ROOT / "octupus/constrain",
    "octupus.data": ROOT / "octupus/data",
    "octupus.train": ROOT / "octupus/train",
    "octupus.teacher": ROOT / "octupus/teacher",
    "octupus.serve": ROOT / "octupus/serve",
    "data_recipes": ROOT / "data_recipes",
    "data_recipes.worlds": ROOT / "data_recipes/worlds",
    "slurm": ROOT / "slurm",
    "slurm.devcluster": ROOT / "slurm/devcluster",
    "eval": ROOT / "eval",
}

BUDGETS = {
    "octupus.wire": 1300,
    "octupus.constrain": 4200,
    "octupus.data": 2240,
    "octupus.serve": 3250,
    "octupus.train": 1550,
    "octupus.teacher": 1950,
    "slurm": 5830,
    "slurm.devcluster": 950,
    "data_recipes": 2420,
    "data_recipes.worlds": 6200,
    "eval": 2980,
}

# octupus.tokenizer is the one implementation of wire's Tokenizer protocol; wire itself must not know it.
EVERYWHERE = {"octupus.errors", "octupus.publish", "octupus.runs", "octupus.tokenizer"}

ALLOWED = {
    "octupus.wire": {"octupus.wire", "octupus.errors"},
    "octupus.config": {"octupus.wire"},
    "octupus.tokenizer": {"octupus.wire"},
    "octupus.estimate": {"octupus.config"},
    "octupus.surgery": {"octupus.config", "octupus.wire"},
    "octupus.scratch": {"octupus.config", "octupus.wire", "octupus.mimetic"},
    "octupus.constrain": {"octupus.constrain", "octupus.wire", "octupus.config"},
    "octupus.data": {"octupus.data", "octupus.config", "octupus.wire"},
    "octupus.train": {"octupus.train", "octupus.config", "octupus.estimate", "octupus.data", "octupus.wire"},
    "octupus.teacher": {"octupus.teacher", "octupus.config", "octupus.data", "octupus.wire", "octupus.constrain"},
    "octupus.serve": {"octupus.serve", "octupus.config", "octupus.wire", "octupus.constrain"},
    "data_recipes": {"data_recipes", "octupus.config", "octupus.wire", "octupus.data", "octupus.constrain"},
    "eval": {"eval", "octupus.config", "octupus.wire", "octupus.constrain", "data_recipes.worlds"},
    "slurm": {"slurm", "octupus", "eval", "data_recipes"},
}

# Third parties that have exactly one home.
ONLY_IN = {
    "vllm": {"octupus/serve/engine.py", "octupus/serve/worker.py", "octupus/teacher/engine.py"},
    "deepspeed": {"octupus/train"},
    "lmformatenforcer": {"octupus/constrain"},
    "llguidance": {"octupus/constrain"},
    "bfcl_eval": {"eval/bfcl_cli.py"},
    "submitit": {"slurm"},
    "aiohttp": {"octupus/serve", "octupus/teacher", "eval"},
}

# What a room must never load, whatever else it does.
NEVER = {
    "octupus.wire": {"torch", "transformers", "numpy", "tokenizers", "yaml", "jinja2"},
    "eval": {"torch", "vllm"},
    "data_recipes": {"vllm", "torch"},
}


def sources() -> list[Path]:
    found = [p for room in ("octupus", "slurm", "data_recipes", "eval") for p in sorted((ROOT / room).rglob("*.py"))]
    assert len(found) > 20, "the test must see the tree"
    return found


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, also inside functions."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            prefix = (
                f"{base}.{node.module}" if node.level and node.module else base if node.level else node.module or ""
            )
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "octupus" else parts[0]


def within(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_who_may_import_whom(path: Path) -> None:
    room = room_of(path)
    allowed = ALLOWED.get(room, set())
    ours = [n for n in imports(path) if n.split(".")[0] in ("octupus", "slurm", "data_recipes", "eval")]
    general = set() if room == "octupus.wire" else EVERYWHERE
    wrong = [n for n in ours if not within(n, allowed | general)]
    assert not wrong, (
        f"{path.relative_to(ROOT)} ({room}) must not import {wrong}; see the law at the top of tests/unit/test_house.py"
    )


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_have_one_home(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    names = {n.split(".")[0] for n in imports(path)}
    for library, homes in ONLY_IN.items():
        if library in names:
            assert any(where == h or where.startswith(f"{h}/") for h in homes), f"{where} imports {library}: {homes}"
    forbidden = NEVER.get(room_of(path), set()) & names
    assert not forbidden, f"{where} must not import {sorted(forbidden)}"


@pytest.mark.parametrize(("room", "budget"), BUDGETS.items())
def test_rooms_stay_within_their_line_budget(room: str, budget: int) -> None:
    inner = [folder for folder in ROOMS.values() if folder.parent == ROOMS[room]]
    files = [p for p in ROOMS[room].rglob("*.py") if not any(p.is_relative_to(folder) for folder in inner)]
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files)
    assert 0 < lines <= budget, f"{room} has {lines} lines of {budget}: delete something, or say why in the commit"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_hold_one_idea(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path.name} has {len(text.splitlines())} lines: two ideas"
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 70, f"{path.name}:{node.lineno}: {node.name} has {length} lines: two ideas"


def test_top_level_holds_only_the_rooms() -> None:
    rooms = {"slurm", "octupus", "data_recipes", "eval", "tests", "benchmarks", "docs", "runs"}
    found = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "__")) and p.name != "build"}
    found = {n for n in found if not n.endswith(".egg-info")}
    assert found <= rooms, f"unexpected folders at the top: {sorted(found - rooms)}"
