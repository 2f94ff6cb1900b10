"""Stages of a second or two for real Slurm jobs: they count to a number, keep what they have counted, and tell.

``<run>/behaviour.json`` says how: by stage ``{"steps": 20, "mistake": true, "hold": 5}`` (wait at step 5 for the file
``<run>/go``). Importable by jobs under this name; nothing heavy is loaded.
"""

from __future__ import annotations

import os
import time
from typing import Any

from octupus.config import Recipe
from octupus.errors import DataError, Lost
from octupus.publish import append_jsonl, publish_json, read_json
from octupus.runs import Run, check_current
from slurm import chain
from slurm.stage import StageJob

STEP_S = 0.1


class Counting(StageJob):
    """The first rank counts; the others live until it has ended, and all end when one does."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        told = (read_json(run.path / "behaviour.json") or {}).get(self.stage, {})
        place, rank = run.stage(self.stage), os.environ.get("RANK", "0")
        about = {
            "stage": self.stage,
            "rank": rank,
            "pid": os.getpid(),
            "restarts": os.environ.get("SLURM_RESTART_COUNT"),
        }
        append_jsonl(run.path / "events.jsonl", {**about, "what": "start", "job": os.environ["SLURM_JOB_ID"]})
        if told.get("mistake"):
            raise DataError("the row is bad", source="fake", row=7)
        steps = told.get("steps", 1)
        if rank != "0":
            while (read_json(place.path / "kept.json") or {"step": 0})["step"] < steps:
                time.sleep(STEP_S)
            return {}
        with place.reporting(steps, "steps", every_s=0) as reporter:
            while (step := (read_json(place.path / "kept.json") or {"step": 0})["step"]) < steps:
                while step == told.get("hold") and not (run.path / "go").exists():
                    time.sleep(STEP_S)
                check_current()
                publish_json(place.path / "kept.json", {"step": step + 1})
                append_jsonl(run.path / "events.jsonl", {**about, "what": "step", "step": step + 1})
                reporter.update(step + 1)
                time.sleep(STEP_S)
        if told.get("lost"):
            raise Lost("its peer is gone")
        return {"sum": steps * (steps + 1) // 2}


STAGES: dict[str, type[StageJob]] = {step.name: Counting for step in chain.CHAIN}
