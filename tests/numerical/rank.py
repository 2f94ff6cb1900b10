"""One rank of a test's training job: what runs in the processes that :class:`tests.numerical.world.Ranks` forks."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401  imported once, by the server that ranks are forked from

from octupus.config import Recipe
from octupus.data.batches import Batches
from octupus.errors import Interrupted, OctupusError
from octupus.runs import Run
from octupus.train import sft


def work(plan: list[dict[str, Any]], env: dict[str, str], log: str) -> None:
    """Train what the plan lists, one after the other; an interrupted stage is followed by the next entry."""
    os.environ.update(env)
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    for entry in plan:
        if "suffer" in entry:
            suffer(**entry["suffer"])
        try:
            print(sft.run(Recipe.model_validate(entry["recipe"]), Run(entry["run"]), entry.get("stage", "stage1")))
        except Interrupted as error:
            print(f"Interrupted: {error}", flush=True)
        except OctupusError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            sys.exit(1)


def suffer(rank: int, at_step: int, kind: str) -> None:
    """Let one rank fall asleep, or send itself a signal, when it is about to read the batches of one step."""
    plain, done = Batches.at, []

    def at(self: Batches, step: int) -> Any:
        if step == at_step and self.rank == rank and not done:
            done.append(step)
            if kind == "sleep":
                time.sleep(1000)
            os.kill(os.getpid(), getattr(signal, kind))
        return plain(self, step)

    Batches.at = at  # type: ignore[method-assign]
