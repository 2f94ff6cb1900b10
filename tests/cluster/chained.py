"""Runs of the chain on the development cluster, through the commands that a person would give."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from octupus.runs import Run, StageState
from slurm.devcluster.layout import ROOT
from tests.cluster.slurm_view import Here, job_state, signal_all, told, until

STEPS = 24
PREPARED, TRAINED = ("surgery", "teacher", "merge", "data"), ("stage1", "stage2")
ROOMS = ("octupus", "slurm", "data_recipes", "eval")
TINY = f"""
model:
  scratch: {{vocab_size: 1024, hidden_size: 64, intermediate_size: 160, layers: 2, heads: 2, kv_heads: 2}}
teacher:
  engine: scripted
  model: data_recipes.demo.teacher:answer
  prompts: [{{name: demo_chat, options: {{n: 120, seed: 1}}}}]
  shards: 2
data:
  decontaminate: false
  near_duplicates: null
  stage1: {{context: 512, sources: [{{name: teacher_answers}}]}}
  stage2: {{context: 512, sources: [{{name: demo_tools, options: {{split: train, n: 120, seed: 2}}}}]}}
stage1: &stage
  ranks_per_node: 1
  micro_batch: 1
  global_batch: 2
  epochs: 100
  max_steps: {STEPS}
  precision: fp32
  gradient_checkpointing: false
  lr: 1.0e-3
  warmup_steps: 2
  checkpoint_every: 4
  validate_every: 0
stage2: *stage
serve: {{engine: "eval.oracle:Oracle", engine_args: {{categories: [simple_python]}}, port: 0, max_model_len: 200000}}
bfcl: {{categories: {{simple_python: 60}}, threads: 2}}
"""
OTHERS = "node[3-4]"
"""Nodes that may fail: kept for the faults that need one."""
BASE = """
executor: slurm
device: cpu
env: {OMP_NUM_THREADS: "1", DS_ACCELERATOR: cpu}
keeper: {partition: cpu, memory_gb: 1, time_min: 60}
watch: {every_s: 2, stale_s: STALE_S}
"""
SKEWED = """#!/bin/sh
# One stage's clock goes ten minutes ahead; everybody else's is right.
case "$SLURM_JOB_NAME" in
*stage1) FAKETIME_DONT_FAKE_MONOTONIC=1 exec faketime -f +10m "PYTHON" "$@" ;;
*) exec "PYTHON" "$@" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in a folder with a difficult name, with recipes and cluster files of the tests."""

    path: Path

    @classmethod
    def make(cls, folder: Path) -> Checkout:
        path = folder / "ein Klon für 集群"
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for room in ROOMS:
            shutil.copytree(ROOT / room, path / room, ignore=ignored)
        for name in (".venv", ".venv-bfcl"):
            (path / name).symlink_to((ROOT / name).resolve())
        made = cls(path)
        made.write("data_recipes/tiny.yaml", TINY)
        made.write(
            "data_recipes/tiny2.yaml",
            TINY.replace("stage1: &stage\n", "stage1: &stage\n  nodes: 2\n", 1).replace(
                "stage2: *stage", "stage2: {<<: *stage, nodes: 1}"
            ),
        )
        return made

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.path / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def cluster(self, name: str, more: str = "", stale_s: int = 45, **defaults: str | int) -> str:
        """A cluster file: :data:`BASE` with other ``defaults``, and ``more`` lines of YAML."""
        base = BASE.replace("STALE_S", str(stale_s))
        values = {"partition": "gpu", "time_min": 30, "memory_gb": 4, "cpus": 1, "signal_delay_s": 5, **defaults}
        text = f"{base}defaults: {json.dumps(values)}\n{more}"
        self.write(f"slurm/clusters/{name}.yaml", text)
        return name

    def skewed(self) -> str:
        script = self.write("skewed.sh", SKEWED.replace("PYTHON", str(self.path / ".venv/bin/python")), 0o755)
        return self.cluster("skewed", f"python: \"'{script}'\"\n", exclude=OTHERS)


@dataclass(frozen=True)
class Chain:
    """One run."""

    checkout: Checkout
    here: Here
    name: str
    recipe: str = "tiny"
    cluster: str = "plain"

    @property
    def run(self) -> Run:
        return Run(self.checkout.path / "runs" / self.name)

    def call(self, module: str, *words: str, fails: bool = False, **given: str) -> str:
        """A command of the project for this run; all that it says."""
        values = {"RECIPE": self.recipe, "RUN": self.name, "CLUSTER": self.cluster, **given}
        done = subprocess.run(
            [str(self.checkout.path / ".venv/bin/python"), "-m", module, *words],
            cwd=self.checkout.path,
            env={**os.environ, "PYTHONUTF8": "1", **values},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{words} ended with {done.returncode}: {done.stdout[-3000:]}"
        assert "Traceback" not in done.stdout, done.stdout[-3000:]
        return done.stdout

    def submit(self, *stages: str, fails: bool = False, **given: str) -> str:
        return self.call("slurm.submit", "stage", *stages, fails=fails, **given)

    def status(self) -> str:
        """What ``make status`` shows of this run."""
        return self.call("slurm.status", "status", COLUMNS="240")

    def start_from(self, undisturbed: Chain, trained: bool) -> None:
        """Take over what another run has prepared (and trained)."""
        self.run.path.mkdir(parents=True)
        for stage in PREPARED + (TRAINED if trained else ()):
            shutil.copytree(undisturbed.run.path / stage, self.run.path / stage, symlinks=True)

    def state(self, stage: str) -> StageState | None:
        return self.run.stage(stage).state()

    def jobs(self, stage: str) -> list[str]:
        """Slurm's ids of a stage's submissions, in their order."""
        path = self.run.path / "jobs.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row["job_id"] for row in rows if row.get("stage") == stage]

    def steps(self, stage: str) -> list[tuple[int, float]]:
        """Step and loss of each line of a stage's metrics."""
        path = self.run.stage(stage).metrics
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(row["step"], row["loss"]) for row in rows]

    def reached(self, stage: str, step: int, within_s: float = 600) -> str:
        """Wait until a stage has trained that far; its job."""

        def there() -> bool:
            state = self.state(stage)
            assert state is None or state.status != "failed" or state.lost, f"{self.name}: {stage}: {told(state)}"
            return self.steps(stage)[-1:] >= [(step, 0.0)]

        until(there, f"{self.name}: {stage} reaches step {step}", within_s, 0.01)
        return self.jobs(stage)[-1]

    def hold(self, stage: str, step: int) -> tuple[str, dict[int, int]]:
        """Stop the ranks of a stage behind that step, so that a fault has all the time it needs; its job, the ranks."""
        job_id = self.reached(stage, step)
        ranks = self.here.ranks(job_id)
        signal_all(ranks.values(), signal.SIGSTOP)
        assert ranks and self.steps(stage)[-1][0] < STEPS, "too late for a fault: it has trained to its end"
        return job_id, ranks

    def done(self, *stages: str, within_s: float = 900) -> None:
        """Wait until stages are done, and Slurm says so too."""
        for stage in stages:
            state = until(lambda name=stage: self._finished(name), f"{self.name}: {stage} is done", within_s, 0.2)
            said = lambda job_id=state.job: job_state(job_id)  # noqa: E731
            until(lambda now=said: now() not in ("RUNNING", "COMPLETING"), f"the job of {stage} ends", 120, 0.2)
            assert said() == "COMPLETED", f"{stage} says done, Slurm says {said()}"

    def _finished(self, stage: str) -> StageState | None:
        state = self.state(stage)
        assert state is None or state.status != "failed" or state.lost, f"{self.name}: {stage}: {told(state)}"
        return state if state is not None and state.status == "done" else None

    def minutes(self, stage: str) -> int:
        """How long a stage took, in whole minutes and at least one."""
        state = self.state(stage)
        assert state is not None and state.started_at and state.ended_at
        return math.ceil((state.ended_at - state.started_at) / 60)

    def failed(self, stage: str, within_s: float = 600) -> StageState:
        """Wait until a stage is said to have failed for good."""

        def over() -> StageState | None:
            state = self.state(stage)
            return state if state is not None and state.status == "failed" and not state.lost else None

        return until(over, f"{self.name}: {stage} fails, not {told(self.state(stage))}", within_s)

    def at_rest(self, within_s: float = 900) -> None:
        """Wait until the keeper has nothing to do any more."""
        until(lambda: job_state(self.jobs("keeper")[-1]) == "COMPLETED", f"{self.name}: the keeper ends", within_s, 0.2)

    def same_as(self, undisturbed: Chain, *stages: str) -> None:
        """Every step was trained once, with the losses of a run that nobody disturbed."""
        for stage in stages:
            assert [step for step, _ in self.steps(stage)] == list(range(1, STEPS + 1)), f"{self.name}: {stage}"
            assert self.steps(stage) == undisturbed.steps(stage), f"{self.name}: {stage}: other losses"
