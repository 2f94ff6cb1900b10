"""Stages that do nothing but what a test of the chain needs; imported by the jobs that the test starts.

``<run>/behaviour.json`` says what each does: nothing (end at once), "hang", "stubborn" (hang, deaf to SIGTERM), "fail",
"bug", "half" (stop at step 3 the first time). ``<run>/events.jsonl`` is what happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from octupus.config import Recipe
from octupus.errors import DataError, JobError, OctupusError
from octupus.publish import append_jsonl, publish_json, read_json
from octupus.runs import Endpoint, Run
from slurm import chain
from slurm.chain import Step
from slurm.claim import Claim
from slurm.local import LocalChain
from slurm.stage import Frozen, StageJob

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPE = {
    "name": "fake",
    "model": {"scratch": {}},
    "teacher": {"engine": "scripted", "prompts": [{"name": "x"}]},
    "data": {"stage1": {"sources": [{"name": "teacher_answers"}]}, "heldout": [{"name": "x"}]},
    "stage1": {"ranks_per_node": 2, "global_batch": 2},
    "stage2": {"ranks_per_node": 1, "global_batch": 2},
    "serve": {"ready_timeout_s": 30},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, **changes})


class FakeStage(StageJob):
    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        told = read_json(run.path / "behaviour.json") or {}
        behaviour = told.get(self.place, told.get(self.stage, ""))
        rank = os.environ.get("RANK", "0")
        append_jsonl(
            run.path / "events.jsonl", {"stage": self.place, "rank": rank, "pid": os.getpid(), "what": "start"}
        )
        print(f"a line of the log of {self.stage}", flush=True)
        if behaviour == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if behaviour in ("hang", "stubborn"):
            subprocess.run(["sleep", "600"], check=False)  # a child, so that orphans can be seen
        if behaviour == "fail":
            raise DataError("the fake row is bad", source="fake", row=7)
        if behaviour == "bug":
            raise ValueError("a bug of the fake stage")
        if behaviour == "half" and rank == "0":
            self._half(run)
        append_jsonl(run.path / "events.jsonl", {"stage": self.place, "rank": rank, "what": "end"})
        return {"made": self.stage}

    def _half(self, run: Run) -> None:
        kept = run.stage(self.stage).path / "checkpoint.json"
        first = int((read_json(kept) or {"step": 0})["step"])
        for step in range(first + 1, 6):
            publish_json(kept, {"step": step})
            append_jsonl(run.path / "events.jsonl", {"stage": self.stage, "what": f"step {step}"})
            if step == 3:
                time.sleep(600)


class FakeServer(StageJob):
    """Publishes an endpoint until it is told to stop."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        child = subprocess.Popen(["sleep", "600"])
        endpoint = Endpoint(url="http://127.0.0.1:1", model="fake", instance=str(os.getpid()), heartbeat_at=time.time())
        run.publish_endpoint("0", endpoint)
        append_jsonl(run.path / "events.jsonl", {"stage": self.stage, "pid": os.getpid(), "what": "start"})
        while not over.wait(0.05):
            continue
        child.kill()
        run.withdraw_endpoint("0")
        append_jsonl(run.path / "events.jsonl", {"stage": self.stage, "what": "end"})
        return {}


class FakeClient(FakeStage):
    """Fails when its server is gone, as eval does."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while not run.endpoints():
            if time.monotonic() > deadline:
                raise JobError("no endpoint came up")
            time.sleep(0.05)
        return super().work(recipe, run)


class FakeScore(FakeStage):
    """Says what the tasks before it came to, as the real one does."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        of = {"score": "bfcl", "merge": "teacher"}[self.stage]
        found = {p.parent.name: read_json(p) for p in sorted((run.path / of / "tasks").glob("*/state.json"))}
        wrong = [f"{task}: {s['reason']}" for task, s in found.items() if s is not None and s["status"] != "done"]
        state = run.stage(of).state()
        assert state is not None
        over = {"status": "failed" if wrong else "done", "reason": "; ".join(wrong)}
        run.stage(of).set_state(state.model_copy(update=over))
        if wrong:
            raise JobError(f"not all was answered ({over['reason']})")
        return super().work(recipe, run)


JOBS: dict[str, type[StageJob]] = {step.name: FakeStage for step in chain.CHAIN}
JOBS |= {"serve": FakeServer, "bfcl": FakeClient, "score": FakeScore, "merge": FakeScore}

SHORT = (
    Step("data", decided_by=("data",)),
    Step("stage1", after=("data",), decided_by=("stage1",)),
    Step("serve", after=("stage1",), service=True, takes_what_is_there=True),
    Step("bfcl", after=("stage1",), decided_by=("bfcl",), beside=("serve",), takes_what_is_there=True),
)
ARRAY = (
    Step("data", decided_by=("data",)),
    Step("serve", after=("data",), service=True, takes_what_is_there=True),
    Step("bfcl", after=("data",), beside=("serve",), array=lambda recipe: ["one", "two", "three"], keeps=True),
    Step("score", after=("bfcl",), after_any=True),
    Step("report", after=("score",)),
)


def freeze(run: Run, recipe: Recipe) -> None:
    publish_json(run.path / "recipe.json", Frozen(recipe=recipe))


def drive(run: Run, steps: tuple[Step, ...] = SHORT, recipe: Recipe | None = None) -> None:
    """Run the chain of fakes here."""
    # The modules that jobs load by name: this file's, not the one that was started as a script.
    import chain_fakes

    recipe = recipe or chain_fakes.recipe()
    freeze(run, recipe)
    planned = chain.plan(recipe, run, steps=steps)
    with Claim(run, [p.name for p in planned if p.action == "run"]) as claim:
        LocalChain(
            claim,
            recipe,
            planned,
            chain_fakes.JOBS,
            python=f"{sys.executable} -P",
            environment={"PYTHONPATH": f"{ROOT}:{HERE}"},
            again="make fake",
        ).go()


if __name__ == "__main__":
    steps = {"all": chain.CHAIN, "array": ARRAY}.get("".join(sys.argv[2:]), SHORT)
    try:
        drive(Run(sys.argv[1]), steps)
    except OctupusError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
