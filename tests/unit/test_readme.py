"""The README's commands exist, its links lead somewhere, its routes are short, and both languages say the same."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from octupus.serve.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]
READMES = ["README.md", "README.zh.md"]


def blocks(name: str, language: str = "") -> list[str]:
    return fenced((ROOT / name).read_text(encoding="utf-8"), language)


def fenced(text: str, language: str = "") -> list[str]:
    """Found in order, so that no closing fence is taken for an opening one."""
    return [body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if kind == language]


def commands(name: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(name) for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", "git ", "curl ", ".venv/"))]


@pytest.mark.parametrize("name", READMES)
def test_every_make_command_is_a_target(name: str) -> None:
    makes = [c for c in commands(name) if c.startswith("make ")]
    assert "make demo" in makes and "make test" in makes
    for command in makes:
        done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: `{command}`: {done.stderr}"


@pytest.mark.parametrize("name", READMES)
def test_every_python_command_names_a_module_that_runs(name: str) -> None:
    modules = [re.search(r"-m (\S+)", c) for c in commands(name) if c.startswith(".venv/")]
    assert modules
    for module in filter(None, modules):
        path = ROOT / module[1].replace(".", "/")
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), module[1]


@pytest.mark.parametrize("name", READMES)
def test_the_servers_flags_are_its_own(name: str) -> None:
    served = [c.split(" -m octupus.serve ")[1].split() for c in commands(name) if " -m octupus.serve " in c]
    assert served
    for words in served:
        assert parser().parse_args(words).model == "DIR_OR_ID"


@pytest.mark.parametrize("name", READMES)
def test_every_python_example_parses(name: str) -> None:
    examples = blocks(name, "python")
    assert examples
    for example in examples:
        assert ast.parse(example).body


@pytest.mark.parametrize("name", [*READMES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)#]+)\)", prose)
    broken = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not broken


@pytest.mark.parametrize("name", READMES)
def test_every_place_on_the_map_exists(name: str) -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / name).read_text(encoding="utf-8"), re.M)
    places = [place for row in rows for place in re.findall(r"`([^`]+)`", row)]
    assert len(places) > 10
    folder = ""
    for place in places:
        folder = place.split("/")[0] if (ROOT / place).exists() and "/" in place else folder
        assert (ROOT / place).exists() or (ROOT / folder / place).exists(), place


@pytest.mark.parametrize("name", READMES)
def test_each_route_takes_at_most_ten_commands(name: str) -> None:
    routes = re.split(r"^## ", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)[1:4]
    for route in routes:
        lines = [x for b in fenced(route) for x in b.splitlines() if x.strip()]
        assert 0 < len(lines) <= 10, route.splitlines()[0]


def test_both_languages_give_the_same_commands() -> None:
    assert commands("README.md") == commands("README.zh.md")
    assert blocks("README.md", "python") == blocks("README.zh.md", "python")
