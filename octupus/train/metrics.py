"""What a run shows of itself: one JSON line a step, progress for the live view, a plain line in the log."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from octupus.estimate import peak
from octupus.publish import append_jsonl, publish_bytes
from octupus.runs import Reporter, Stage

EVERY_S = 5.0
STRAGGLES = 1.5


class Stopwatch:
    """Seconds inside its ``with`` blocks, added up; on a GPU by its own events, read when it has caught up."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds, self._events = 0.0, list[tuple[torch.cuda.Event, torch.cuda.Event]]()

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._cuda:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record()
        self._seconds += time.perf_counter() - self._began

    @property
    def seconds(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
            return sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        return self._seconds


def mfu(work: float, seconds: float, world: int) -> float | None:
    """Share of the GPUs' peak that was ``work`` (operations of a step); None on a device whose peak is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    flops = peak(name)
    return None if flops is None else work / (seconds * flops * world)


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
    """Writes what happened at a step, to ``metrics.jsonl`` and for TensorBoard; only the first rank has one.

    Args:
        folder: the stage's.
        reporter: publishes progress.
        label: begins every plain line.
        step: that a resumed run goes on from; what TensorBoard was told beyond it is taken back.
    """

    def __init__(self, folder: Stage, reporter: Reporter, label: str, total: int, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.reporter, self.label, self.total = folder.metrics, reporter, label, total
        self._printed = 0.0
        self._began: tuple[int, float] | None = None
        self.board = SummaryWriter(folder.path / "tensorboard", purge_step=step + 1)

    def step(self, step: int, row: dict[str, Any], forwards: list[float]) -> None:
        """Record optimizer step ``step`` (from 1).

        Args:
            row: at least loss, lr, tokens_per_s; with the step's validation, where there was one.
            forwards: seconds that each rank spent in forward passes, where no rank waits for another (below ZeRO-3).
        """
        if len(forwards) > 1:
            row["forward_s"] = [round(s, 4) for s in forwards]
            row["slowest_over_median"] = max(forwards) / max(median_low(forwards), 1e-9)
        row |= memory_mib()
        append_jsonl(self.path, {"step": step, **row})
        for name, value in row.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name.replace("val_", "validation/"), value, step)
        now = time.monotonic()
        first, since = self._began = self._began or (step, now)
        loss = row["loss"]
        shown = "not finite" if loss is None else f"{loss:.4f}"
        self.reporter.update(step, f"loss {shown}")
        if "val_loss" in row:
            print(f"{self.label}: step {step}/{self.total}, {validated(row)}", flush=True)
        if step == self.total or now - self._printed >= EVERY_S:
            self._printed = now
            left = (now - since) / (step - first) * (self.total - step) if step > first else None
            eta = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
            slowest, usual = max(forwards), median_low(forwards)
            slow = f", rank {forwards.index(slowest)} is slow: forward {slowest:.2f} s, the median {usual:.2f} s"
            print(
                f"{self.label}: step {step}/{self.total}, loss {shown}, lr {row['lr']:.2e}, "
                f"{row['tokens_per_s']:,.0f} tokens/s{eta}{slow if slowest > STRAGGLES * usual else ''}",
                flush=True,
            )


def validated(row: Mapping[str, Any]) -> str:
    """A measurement on held-out data in words."""
    calls = row["val_exact_calls"]
    told = "no calls" if calls is None else f"{calls:.1%} of {row['val_calls']} turns with calls exact"
    return f"held-out: loss {row['val_loss']:.4f}, {row['val_exact']:.1%} of all turns exact, {told}"
