"""The server and a BFCL task are killed at random moments of one run: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.sample import BfclData, harness_python
from eval.scores import failed, read_results
from octupus.config import Recipe
from octupus.errors import ConfigError, OctupusError
from octupus.publish import publish_json
from octupus.runs import Run
from slurm import chain, reap
from slurm.claim import Claim
from slurm.jobs import JOBS
from slurm.local import LocalChain
from slurm.stage import Frozen
from tests.support.moody import key
from tests.support.tiny import tiny_folder

ROOT = Path(__file__).resolve().parents[2]
MODEL = "octupus-FC"


def drive(path: str) -> None:
    """What ``make bfcl`` does with a run's recipe, here."""
    run = Run(path)
    recipe = Frozen.model_validate(json.loads((run.path / "recipe.json").read_text())).recipe
    planned = chain.plan(recipe, run, ["bfcl", "score"])
    with Claim(run, [p.name for p in planned if p.action == "run"]) as claim:
        LocalChain(claim, recipe, planned, JOBS, f"{sys.executable} -P", {"PYTHONPATH": str(ROOT)}).go()


def recipe(model: Path, categories: dict[str, int | None]) -> Recipe:
    names = ["simple_python", "multiple"]
    engine = {"categories": sorted(chain.weights.expand(categories)) or names, "mode": "truth"}
    return Recipe.model_validate(
        {
            "name": "moody",
            "model": {"scratch": {}},
            "serve": {
                **{"engine": "tests.support.moody:Moody", "engine_args": engine, "model": str(model), "port": 0},
                **{"host": "127.0.0.1", "max_model_len": 1 << 20, "default_max_tokens": 8192, "drain_s": 0.1},
                "constraint": {"enforce": False},
            },
            "bfcl": {"categories": categories, "models": [MODEL], "threads": 8, "retries": 1},
        }
    )


def answered(run: Run) -> dict[str, Any]:
    """Recorded entries with an answer."""
    return {id: row for id, row in read_results(run.path / "bfcl", MODEL).items() if not failed(row)}


def command(run: Run, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOODY_LOG": str(log)}
    with (run.path / "command.out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, __file__, str(run.path)], env=environment, stdout=out, stderr=subprocess.STDOUT
        )


def victim(run: Run, what: str) -> int | None:
    """The process that serves, or one that asks."""
    found = [p for p in reap.marked(run.path) if p.stage.split("/")[0] == what and "submitit" in p.command]
    return random.choice(found).pid if found else None


def keys_of(categories: dict[str, int | None]) -> dict[str, str]:
    questions = BfclData.ready().questions(sorted(chain.weights.expand(categories)))
    named = {}
    for q in questions:
        users = [m["content"] for m in q.turns[0] if m["role"] == "user"]
        named[q.id] = key(users, [tool["function"]["name"] for tool in q.tools])
    return named


@pytest.mark.full  # the harness's and the chain's own tests kill in the quick tier
def test_nothing_is_lost_and_nothing_asked_twice(tmp_path: Path) -> None:
    kills, categories = 5, dict[str, int | None](single_turn=None)  # of fewer entries a kill could come after the last
    try:
        harness_python()
    except ConfigError as error:
        pytest.skip(str(error))
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_folder().iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text("{}")
    named, scores = keys_of(categories), {}
    for name, moments in (("calm", 0), ("killed", kills)):
        run, log = Run(tmp_path / name), tmp_path / f"{name}.jsonl"
        publish_json(run.path / "recipe.json", Frozen(recipe=recipe(model, categories)))
        total = sum(n or len(named) for n in categories.values())
        lengths = []
        for number in range(moments):
            before = answered(run)
            goal = len(before) + random.randrange(1, max(2, (total - len(before)) // (moments - number + 1)))
            process = command(run, log)
            deadline = time.monotonic() + 300
            while len(answered(run)) < goal or (pid := victim(run, ("serve", "bfcl")[number % 2])) is None:
                assert process.poll() is None and time.monotonic() < deadline, (run.path / "command.out").read_text()[
                    -3000:
                ]
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            assert process.wait(timeout=300) != 0, "a killed run says so"
            assert not reap.marked(run.path)
            after = answered(run)
            assert before.items() <= after.items() and len(after) >= goal, "what was answered stands"
            lengths.append((len(log.read_text().splitlines()), after))
        process = command(run, log)
        assert process.wait(timeout=580) == 0, (run.path / "command.out").read_text()[-3000:]
        asked = [json.loads(line)["asked"] for line in log.read_text().splitlines()]
        ids = answered(run)
        assert len(ids) == sum(
            len(some) for some in json.loads((run.path / "bfcl/plan.json").read_text())["ids"][MODEL].values()
        )
        for length, recorded in lengths:
            left = Counter(named[id] for id in ids.keys() - recorded.keys())
            later = Counter(asked[length:])
            # What a kill cut off was asked and not recorded; a recorded entry whose twin is still open may be one.
            again = [k for k in later if k not in left]
            assert not again, f"{len(again)} entries were asked again after an answer"
        found = json.loads((run.path / "bfcl/scores.json").read_text())["models"][MODEL]
        scores[name] = {c: (f["n"], f["correct"], f["kinds"]) for c, f in found["categories"].items()}
        assert found["errors"] == 0
    assert scores["killed"] == scores["calm"]
    assert any(correct < n for n, correct, _ in scores["calm"].values()), "a perfect score would prove little"


if __name__ == "__main__":
    try:
        drive(sys.argv[1])
    except OctupusError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
