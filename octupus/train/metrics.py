"""What a run shows of itself: one JSON line a step, progress for the live view, a plain line in the log."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import torch

from octupus.runs import Reporter, append_jsonl, publish_bytes

EVERY_S = 5.0


def memory_mib() -> dict[str, int]:
    """Peak memory of this process so far, and of its GPU where it has one."""
    found = {"rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        found["gpu_mib"] = int(torch.cuda.max_memory_allocated()) >> 20
    return found


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run is about to do again, and a last line that was cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] <= step:
            kept.append(line)
    publish_bytes(path, b"".join(kept))


class Metrics:
    """Writes what happened at a step; only the first rank has one.

    Args:
        path: ``metrics.jsonl``.
        reporter: publishes progress.
        label: begins every plain line.
    """

    def __init__(self, path: Path, reporter: Reporter, label: str, total: int) -> None:
        self.path, self.reporter, self.label, self.total = path, reporter, label, total
        self._printed = 0.0
        self._began: tuple[int, float] | None = None

    def step(self, step: int, row: dict[str, float | int | None]) -> None:
        """Record optimizer step ``step`` (from 1). ``row`` holds at least loss, lr, tokens_per_s."""
        append_jsonl(self.path, {"step": step, **row, **memory_mib()})
        now = time.monotonic()
        first, since = self._began = self._began or (step, now)
        loss = row["loss"]
        shown = "not finite" if loss is None else f"{loss:.4f}"
        self.reporter.update(step, f"loss {shown}")
        if step == self.total or now - self._printed >= EVERY_S:
            self._printed = now
            left = (now - since) / (step - first) * (self.total - step) if step > first else None
            eta = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
            print(
                f"{self.label}: step {step}/{self.total}, loss {shown}, lr {row['lr']:.2e}, "
                f"{row['tokens_per_s']:,.0f} tokens/s{eta}",
                flush=True,
            )
