"""Fetching from a fake hub: the lock, going on, what is refused, and a build that then needs no hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.fake_hub import FakeHub, commit_of, fake_hub
from tests.support.recipes import chat, run_folder

ROOT = Path(__file__).resolve().parents[2]
ROWS = "".join(
    json.dumps(chat(f"what is {i}?", f"{i} it is, and {i * i} its square")) + "\n" for i in range(60)
).encode()
FILES = {"data/train.jsonl": ROWS, "README.md": b"# a card", "picture.png": b"\x89PNG", "dataset_infos.json": b"{}"}
WEIGHTS = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "model.bin": b"w" * 5000}
CHILD = """
import sys
from pathlib import Path
from octupus.data import lock
lock.LOCK = Path(sys.argv[1])
from octupus.config import Recipe, load
recipe = Recipe.model_validate_json(Path(sys.argv[2]).read_text())
from octupus.errors import OctupusError
try:
    if sys.argv[3] == "fetch":
        from data_recipes import fetch
        fetch.LOCK = lock.LOCK
        fetch.run(recipe)
    else:
        from data_recipes import build
        from octupus.runs import Run
        print(build.run(recipe, Run(sys.argv[3]))["stage1"]["documents"])
except OctupusError as error:
    sys.exit(f"said: {error}")
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub({"datasets/hqfx/openhermes-2.5-qwen-rewrite": dict(FILES), "some/base": dict(WEIGHTS)}) as server:
        yield server


class Machine:
    """One with a hub's cache and a lock of its own."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.lock, self.hub = folder, folder / "lock.yaml", hub
        self.cache = folder / "home/hub"

    def do(self, what: str, revision: str | None = None, **variables: str) -> tuple[int, str]:
        source = {"name": "openhermes", "revision": revision}
        data = {"decontaminate": False, "stage1": {"context": 512, "sources": [source]}}
        path = self.folder / "recipe.json"
        path.write_text(json.dumps({"name": "test", "model": {"base": "some/base"}, "data": data}))
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(self.lock), str(path), what],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub) -> Machine:
    return Machine(tmp_path, hub)


def test_what_was_fetched_is_locked_and_built_from_without_a_hub(machine: Machine, hub: FakeHub) -> None:
    code, said = machine.do("fetch")
    assert code == 0, said
    lines = said.splitlines()
    assert "to fetch" in lines[0] and "in all into" in lines[2], "sizes come first"
    lock = yaml.safe_load(machine.lock.read_text())
    entry = lock["dataset:hqfx/openhermes-2.5-qwen-rewrite"]
    assert entry["revision"] == commit_of(FILES) and "asked" not in entry
    assert set(entry["files"]) == {"data/train.jsonl", "README.md", "dataset_infos.json"}
    assert set(lock["model:some/base"]["files"]) == {"config.json", "model.safetensors"}, "no second copy of weights"
    assert (machine.cache / "models--some--base/refs/main").read_text() == commit_of(WEIGHTS)
    before = len(hub.asked)
    code, said = machine.do("fetch")
    assert code == 0 and "0 B in all" in said
    assert not [path for path, _ in hub.asked[before:] if "/resolve/" in path], "nothing is fetched twice"
    run = run_folder(machine.folder / "run")
    code, said = machine.do(str(run.path), HF_HUB_OFFLINE="1")
    assert code == 0 and said.splitlines()[-1] == "60", said
    (facts,) = json.loads((run.path / "data/report.json").read_text())["sources"]
    assert facts["revision"] == commit_of(FILES) and facts["files"]["data/train.jsonl"]
    data = next(machine.cache.glob("datasets--*/snapshots/*/data/train.jsonl"))
    data.resolve().write_bytes(ROWS + ROWS)
    code, said = machine.do(str(run.path), HF_HUB_OFFLINE="1")
    assert code and "train.jsonl: is not the file that was fetched" in said and "run `make fetch` again" in said


@pytest.mark.full
def test_another_revision_is_refused_and_the_locked_one_stays(machine: Machine, hub: FakeHub) -> None:
    assert machine.do("fetch")[0] == 0
    before = machine.lock.read_bytes()
    code, said = machine.do("fetch", revision="0" * 40)
    assert code and f"asks for revision {'0' * 40}, but lock.yaml holds {commit_of(FILES)}" in said
    code, said = machine.do(str(machine.folder / "run"), revision="0" * 40)
    assert (code and "surgery" in said) or "asks for revision" in said
    hub.repositories["datasets/hqfx/openhermes-2.5-qwen-rewrite"]["data/train.jsonl"] = ROWS * 2
    code, said = machine.do("fetch")
    assert (code and "has no revision" in said) or "cannot be reached" in said, "the hub no longer has what is locked"
    assert machine.lock.read_bytes() == before


@pytest.mark.full
def test_a_fetch_that_was_interrupted_goes_on_where_it_stopped(machine: Machine, hub: FakeHub) -> None:
    hub.cut = 2000  # the connection ends within each large file, once
    hub.lost = {"model.safetensors"}
    code, said = machine.do("fetch")
    assert code and "said: model:some/base: the hub at" in said and "what is finished is kept" in said
    assert set(yaml.safe_load(machine.lock.read_text())) == {"dataset:hqfx/openhermes-2.5-qwen-rewrite"}
    hub.lost.clear()
    hub.asked.clear()
    code, said = machine.do("fetch")
    assert code == 0, said
    assert {path.rpartition("/")[2] for path, _ in hub.asked if "/resolve/" in path} == {"model.safetensors"}
    entry = yaml.safe_load(machine.lock.read_text())["model:some/base"]
    assert entry["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS["model.safetensors"]).hexdigest()


def test_a_hub_that_cannot_be_reached_is_named_with_a_remedy(machine: Machine) -> None:
    code, said = machine.do("fetch", HF_ENDPOINT="http://127.0.0.1:9")
    assert code and "the hub at http://127.0.0.1:9 cannot be reached" in said and "set HF_ENDPOINT" in said
    assert "Traceback" not in said and not machine.lock.exists()
    code, said = machine.do(str(run_folder(machine.folder / "run").path))
    assert code and "is not on this machine; run `make fetch`" in said


@pytest.mark.full
def test_every_refusal_is_a_sentence_and_locks_nothing(machine: Machine, hub: FakeHub) -> None:
    name = "datasets/hqfx/openhermes-2.5-qwen-rewrite"
    code, said = machine.do("fetch", HF_HUB_OFFLINE="1")
    assert code and "HF_HUB_OFFLINE is set; unset it to fetch" in said
    hub.gated.add(name)
    code, said = machine.do("fetch")
    assert code and "asks for its conditions to be accepted" in said and "HF_TOKEN" in said
    hub.gated.clear()
    hub.lied["data/train.jsonl"] = "0" * 64
    code, said = machine.do("fetch")
    assert code and "the hub says 0000000000000000...; delete it and fetch again" in said
    held = hub.repositories.pop(name)
    code, said = machine.do("fetch")
    assert code and "is not at http://127.0.0.1" in said
    hub.repositories[name] = {"picture.png": held["picture.png"]}
    code, said = machine.do("fetch")
    assert code and "holds nothing of *.parquet" in said
    assert "Traceback" not in said and not machine.lock.exists()
